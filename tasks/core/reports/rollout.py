"""TIDEMILL_HOME/registry/<dataset>/rollout.json: what the last judgement of a rollout has found."""

from typing import ClassVar

from tasks.core.reports.base import IsoTime, Report
from tasks.core.rollout import RolloutEvidence
from tasks.core.strict import Strict


class RolloutPoint(Strict):
    """One cutoff since the rollout began.

    cutoff: whose outcomes are known.
    challenger, champion: mean losses over series and steps, in units of the usual loss.
    better, worse: values of the two bets, where a block ends; null within one.
    """

    cutoff: IsoTime
    challenger: float
    champion: float
    better: float | None
    worse: float | None


class RolloutComparison(Strict):
    """Posterior of the gain, under a flat prior.

    A description; it decides an A/B test alone, and once, when its time is over.

    better_probability: that the challenger's mean loss is lower.
    gain_low_frac, gain_high_frac: the middle 90 % of the share by which it is lower.
    """

    better_probability: float
    gain_low_frac: float
    gain_high_frac: float


class RolloutReport(Report):
    """The rollout after its last judgement.

    dataset: that it is about.
    challenger, champion: digests.
    model: the challenger's name.
    state: `running`, `paused`, `promoted` or `back`.
    weight: the challenger's share of the series.
    alpha: level of each bet.
    as_of: newest `known_at` of the rows that were judged; when it began, before the first time.
    action: `wait`, `advance`, `promote` or `back`; null before the first judgement.
    reason: why, in a sentence.
    evidence: what the outcomes say; null before the first judgement, and without bytes to judge.
    n_errors: requests that the challenger failed and the champion answered.
    last_error: of these; empty without one.
    latency_ratio: 95th percentile of its answers' times over the champion's; null for too few.
    comparison: both losses as a whole; null for fewer than 8 cutoffs.
    points: by cutoff.
    """

    PATH: ClassVar[str] = "TIDEMILL_HOME/registry/<dataset>/rollout.json"

    dataset: str
    challenger: str
    champion: str
    model: str
    state: str
    weight: float
    alpha: float
    as_of: IsoTime
    action: str | None = None
    reason: str
    evidence: RolloutEvidence | None = None
    n_errors: int = 0
    last_error: str = ""
    latency_ratio: float | None = None
    comparison: RolloutComparison | None = None
    points: tuple[RolloutPoint, ...] = ()
