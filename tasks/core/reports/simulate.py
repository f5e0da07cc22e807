"""simulate/<dataset>/report.json in home: how each policy of retraining would have done."""

from tasks.core.reports.base import IsoTime, Report
from tasks.core.reports.promote import Verdict
from tasks.core.reports.retrain import Recipe
from tasks.core.strict import Strict


class SimulatedTick(Strict):
    """One look at the champion.

    as_of: the simulated time.
    digest, version: the champion that was looked at.
    age_steps, error_ratio, coverage_frac: its figures in the monitor's report.
    n_blocks: independent blocks of outcomes since the promotion.
    alarms: names of the open alarms: loss, concept, coverage of a level.
    n_alarmed: watched values that drift.
    is_drifting: whether these are more than by chance.
    due: whether the stage `retrain` wants a training.
    triggers: the limits that were passed.
    reason: of the decision, or of the policy where that starts the training.
    recipe: of a training that starts at this tick (see `RetrainDecision`).
    verdict: of the gate on the training of this tick; null when there was none.
    gain_frac: share by which the challenger's loss was lower in the gate.
    """

    as_of: IsoTime
    digest: str
    version: str
    age_steps: int
    error_ratio: float | None
    coverage_frac: float | None
    n_blocks: int
    alarms: tuple[str, ...]
    n_alarmed: int
    is_drifting: bool
    due: bool
    triggers: tuple[str, ...]
    reason: str
    recipe: Recipe = "full"
    verdict: Verdict | None = None
    gain_frac: float | None = None


class SimulatedYear(Strict):
    """One year of forecasts.

    year: of the cutoff.
    n_known: forecast steps with an outcome.
    loss: mean primary loss.
    coverage_frac: share of outcomes within the outermost quantiles.
    """

    year: int
    n_known: int
    loss: float | None
    coverage_frac: float | None


class PairedGain(Strict):
    """A policy against another, on the same cutoffs.

    opponent: the other policy.
    gain_frac: share by which its scaled loss is lower, below 0 where it is higher.
    p: one-sided chance of such a gain from luck alone.
    """

    opponent: str
    gain_frac: float | None
    p: float | None


class PolicyResult(Strict):
    """One policy.

    policy: its name.
    n_known: forecast steps with an outcome, those that all policies forecast.
    loss, mae, coverage_frac: their means.
    n_drift_alarms: ticks at which the inputs began to drift.
    n_due: ticks at which the stage `retrain` wanted a training.
    n_retrainings, n_promotions: trainings after the first, and how many gave the champion.
    compute_s: processor seconds of these trainings.
    gains: against each other policy.
    by_year: the same figures by year.
    ticks: every look at the champion, the first training's first.
    """

    policy: str
    n_known: int
    loss: float | None
    mae: float | None
    coverage_frac: float | None
    n_drift_alarms: int
    n_due: int
    n_retrainings: int
    n_promotions: int
    compute_s: float
    gains: tuple[PairedGain, ...]
    by_year: tuple[SimulatedYear, ...]
    ticks: tuple[SimulatedTick, ...]


class SimulationReport(Report):
    """The policies side by side.

    dataset: whose history it is.
    since, as_of: first simulated time, and newest `known_at` of the rows.
    n_steps: steps in between.
    every_steps: steps between two looks at the champion.
    primary_score: the loss.
    level: share of outcomes that the interval should hold; null without an interval.
    best: the policy with the lowest loss.
    cheapest: the one with the fewest trainings that is not shown to be worse than the best.
    conclusion: both in sentences.
    policies: in the order in which they were asked for.
    """

    dataset: str
    since: IsoTime
    as_of: IsoTime
    n_steps: int
    every_steps: int
    primary_score: str
    level: float | None
    best: str
    cheapest: str
    conclusion: str
    policies: tuple[PolicyResult, ...]
