"""data/reports/ensemble/summary.json: how members became one forecast, how good it was, what is
shipped and why.
"""

from typing import ClassVar

from tasks.core.reports.base import ABSENT, IsoTime, Report
from tasks.core.strict import Strict

TableRow = dict[str, str | int | float | None]  # what it is of, a mean of each score, and n


class CandidateScores(Strict):
    """One thing that could be shipped: the ensemble, or a member alone.

    primary: mean primary loss over the outcomes that all compared candidates have forecasts of.
    primary_gate: the same over the gate's rows.
    mae, rmse: in the target's unit.
    n: outcomes.
    by_series, by_step: mean primary loss.
    """

    primary: float | None
    primary_gate: float | None
    mae: float | None
    rmse: float | None
    n: int
    by_series: dict[str, float | None]
    by_step: tuple[float | None, ...]


class Comparison(Strict):
    """The ensemble against one model.

    gain_frac: share by which the ensemble's mean loss is lower.
    p: chance of that from luck alone, by the cosine test.
    n_cutoffs: cutoffs with outcomes.
    p_diebold_mariano: by the field's own test; absent for few cutoffs.
    """

    gain_frac: float
    p: float
    n_cutoffs: int
    p_diebold_mariano: float | None = ABSENT


class Gain(Strict):
    """The ensemble against one model, in short.

    model: its name.
    gain_frac, p: see Comparison.
    """

    model: str
    gain_frac: float
    p: float


class Gains(Strict):
    """The honest sentence. Without scored cutoffs there is the text alone.

    text: the sentence.
    har: against HAR, where it is a model.
    median_member, best_member: against the median member, and the best one in hindsight.
    """

    text: str
    har: Gain | None = ABSENT
    median_member: Gain | None = ABSENT
    best_member: Gain | None = ABSENT


class SeriesGains(Strict):
    """Gains series by series.

    against: the model.
    series: by series.
    """

    against: str
    series: dict[str, Comparison]


class CombinerResult(Strict):
    """One combiner on the selection slice.

    combiner: its name.
    loss: mean loss; null where nothing is known.
    below_best_member_frac: share by which that is lower than the best member's.
    p_lead_is_luck: chance that the leader's lead over it is luck.
    chosen: whether it makes the ensemble.
    not_servable: why no release can compute it; null when one can.
    """

    combiner: str
    loss: float | None
    below_best_member_frac: float | None
    p_lead_is_luck: float | None
    chosen: bool
    not_servable: str | None


class SelectionSlice(Strict):
    """The slice on which combiners were compared.

    fit_until: combiners were fitted as of this cutoff.
    until: last cutoff of the slice.
    n_cutoffs, n_outcomes: of the slice.
    members: mean loss of each.
    combiners: the least loss first.
    """

    fit_until: IsoTime
    until: IsoTime
    n_cutoffs: int
    n_outcomes: int
    members: dict[str, float | None]
    combiners: tuple[CombinerResult, ...]


class BestModels(Strict):
    """Models that may be the best of all.

    alpha: the best is outside with this chance at most.
    n_cutoffs, block_cutoffs: cutoffs that all models forecast, and how many are drawn together.
    members: names of the set.
    p: by model.
    """

    alpha: float
    n_cutoffs: int
    block_cutoffs: int
    members: tuple[str, ...]
    p: dict[str, float]


class RegimeNames(Strict):
    """What distinguishes the regimes.

    column: the feature.
    above: thresholds.
    names: the lowest first.
    """

    column: str
    above: tuple[float, ...]
    names: tuple[str, ...]


class BaseQuantile(Strict):
    """A quantile that members forecast, next to what was issued from it.

    quantile: its probability.
    members: who forecasts it.
    n: outcomes with both.
    own_below_frac, issued_below_frac: share of outcomes at or below; absent without outcomes.
    own_pinball, issued_pinball: mean quantile loss; absent without outcomes.
    """

    quantile: float
    members: tuple[str, ...]
    n: int
    own_below_frac: float | None = ABSENT
    own_pinball: float | None = ABSENT
    issued_below_frac: float | None = ABSENT
    issued_pinball: float | None = ABSENT


class CoverageTables(Strict):
    """Every score of the intervals, a row for each part.

    overall, gate: one row each, none where nothing is known.
    by_year: the gate's rows among them.
    by_step, by_series, by_regime: of the scored cutoffs.
    """

    overall: tuple[TableRow, ...]
    gate: tuple[TableRow, ...]
    by_year: tuple[TableRow, ...]
    by_step: tuple[TableRow, ...]
    by_series: tuple[TableRow, ...]
    by_regime: tuple[TableRow, ...]


class CoverageReport(Strict):
    """Whether the intervals are honest: shares of outcomes inside, null where nothing is known.

    level: share that should be inside; null where the kind has no interval, as the shares.
    method: how quantiles are made.
    overall, by_step, by_series: of the scored cutoffs.
    gate: of the gate's rows.
    by_year: of both.
    regime: null without regimes.
    starts_from: for conformalized quantile regression.
    tables: every score of the intervals.
    """

    level: float | None
    method: str
    overall: float | None
    gate: float | None
    by_step: tuple[float | None, ...]
    by_series: dict[str, float | None]
    by_year: dict[str, float | None]
    regime: RegimeNames | None
    starts_from: tuple[BaseQuantile, ...]
    tables: CoverageTables


class EnsembleReport(Report):
    """What the stage `ensemble` found.

    primary_score, unit: what losses are, and the target's unit.
    shipped: `ensemble`, or the member that is shipped instead.
    reason: why, in a sentence.
    baseline: the best naive model.
    best_member: on the selection slice.
    combiner: that makes the ensemble.
    group: whose residuals a series' intervals come from.
    n_cutoffs_scored, n_cutoffs_gate: cutoffs after the burn-in, and of the gate.
    scored_from: first day of the scored cutoffs; empty without any.
    seen_until: nothing known later went into what is shipped.
    as_of: newest cutoff of the features.
    weights: share of each member as of seen_until.
    n_outcomes_shared: scored outcomes that all compared candidates have forecasts of.
    left_out: candidates with forecasts of less than half of the outcomes.
    scores: of every candidate.
    comparisons: the ensemble against each model.
    gains: the same in a sentence.
    gains_by_series: against one model.
    selection: how the combiner was chosen.
    correlation: of the members' errors, columns in the order of the names.
    contribution_frac: by member, share by which the ensemble's loss is higher without it.
    confidence_set: null for few cutoffs.
    coverage: of the intervals.
    weights_over_time: `cutoff` and the share of each member, a row for each refit.
    """

    PATH: ClassVar[str] = "data/reports/ensemble/summary.json"
    OLD_NAMES: ClassVar = {"brings_frac": "contribution_frac"}

    primary_score: str
    unit: str
    shipped: str
    reason: str
    baseline: str
    best_member: str
    combiner: str
    group: str
    n_cutoffs_scored: int
    n_cutoffs_gate: int
    scored_from: tuple[str, ...]
    seen_until: IsoTime
    as_of: IsoTime
    weights: dict[str, float]
    n_outcomes_shared: int
    left_out: tuple[str, ...]
    scores: dict[str, CandidateScores]
    comparisons: dict[str, Comparison]
    gains: Gains
    gains_by_series: SeriesGains
    selection: SelectionSlice
    correlation: dict[str, tuple[float | None, ...]]
    contribution_frac: dict[str, float]
    confidence_set: BestModels | None
    coverage: CoverageReport
    weights_over_time: tuple[dict[str, str | float], ...]
