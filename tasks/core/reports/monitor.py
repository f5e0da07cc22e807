"""data/reports/monitor/report.json: how right the champion's forecasts turned out to be."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from tasks.core.objectives import ServiceObjective
from tasks.core.reports.base import IsoTime, Report
from tasks.core.strict import Strict

MonitorVerdict = Literal["measured", "degraded", "drift", "insufficient"]


class OutcomeFigures(Strict):
    """Forecast steps and what became of them.

    n_steps: forecast steps.
    n_open: of these without an outcome yet.
    n_seen: of these that the release was fitted on; they count in no mean.
    n_known: of these with an outcome.
    n_late, n_corrected: of these whose outcome came late, or changed after its first vintage.
    loss: mean primary loss; null without an outcome, as the other means.
    mae, bias: in the target's unit.
    coverage_frac: share of outcomes within the outermost quantiles.
    """

    n_steps: int
    n_open: int
    n_seen: int
    n_known: int
    n_late: int
    n_corrected: int
    loss: float | None
    mae: float | None
    bias: float | None
    coverage_frac: float | None


class StepOutcomes(OutcomeFigures):
    """One step ahead.

    step: 1 is the first step after the cutoff's own.
    """

    step: int


class SeriesOutcomes(OutcomeFigures):
    """One series.

    series_id: its name.
    """

    series_id: str


class ReleaseOutcomes(OutcomeFigures):
    """One release.

    digest: of the release.
    """

    digest: str


class ChampionFigures(Strict):
    """The champion since its promotion.

    digest, model, version: which release it is.
    seen_until: what it was fitted on was known by then.
    promoted_as_of: newest `known_at` of the data that decided its promotion.
    trained_as_of: newest `known_at` of the data of the last training that the gate judged.
    age_steps: steps of data since then.
    gate_loss: its mean loss on the gate's rows.
    n_known: forecast steps with an outcome.
    loss: mean loss since the promotion; null below `monitor.min_rows` outcomes, as the next two.
    error_ratio: loss over gate_loss.
    coverage_frac: share of outcomes within the outermost quantiles.
    """

    digest: str
    model: str
    version: str
    seen_until: IsoTime
    promoted_as_of: IsoTime
    trained_as_of: IsoTime
    age_steps: int
    gate_loss: float | None
    n_known: int
    loss: float | None
    error_ratio: float | None
    coverage_frac: float | None


class LevelPoint(Strict):
    """A figure at a time.

    event_time: of the newest step in it.
    value: share within the interval, mean loss, or a watched value's block.
    """

    event_time: IsoTime
    value: float


Detector = Literal["level", "spread", "missing", "range", "zeros"]


class StreamAlarm(Strict):
    """One watched value, and of its detectors the one that alarms or is nearest to its limit.

    stream: `<series>:<column>`; `*:joint` for all streams of numbers together.
    detector: `level`, `spread`, `missing` (no value), `range` (values out of range, new categories)
      or `zeros`; the level of categories is their shares, that of `*:joint` the share of the
      variation that the reference's principal components do not explain.
    also: its other detectors whose alarm is open.
    statistic: the larger of both CUSUM sums now, in standard deviations of a block.
    limit: above which a sum alarms; the detector's own by the stream's budget of false alarms.
    alarm_at: event_time of the last step of the block that raised the alarm that is open; null for
      none, as the next. An alarm is open until its sum is 0 again.
    since: event_time of the first step of the block from which on the figure has deviated.
    before, now: the figure in the reference, and since then (all since the reference without an
      alarm), as it is with the season of the reference; null for categories' level.
    size_sd: change of the level in standard deviations of the value without its season.
    psi, js, wasserstein_sd: how far the values since then are from the reference's of the same hour
      and weekday: population stability index, Jensen-Shannon distance, distance of the quantiles in
      standard deviations. Null without values, and for `*:joint`.
    loss_ratio: loss of the series since then over its loss before; null without outcomes.
    advice: what to look at; null without an alarm.
    points: means of blocks over time, for the first alarms.
    """

    stream: str
    detector: Detector
    statistic: float
    limit: float
    alarm_at: IsoTime | None
    also: tuple[Detector, ...] = ()
    since: IsoTime | None = None
    before: float | None = None
    now: float | None = None
    size_sd: float | None = None
    psi: float | None = None
    js: float | None = None
    wasserstein_sd: float | None = None
    loss_ratio: float | None = None
    advice: str | None = None
    points: tuple[LevelPoint, ...] = ()


class UnwatchedStream(Strict):
    """A value of which nothing says whether it drifts.

    stream: `<series>:<column>`; `*` for every series.
    reason: why it is not watched.
    """

    stream: str
    reason: str


class DriftFigures(Strict):
    """Whether the inputs have changed.

    reference_until: what came by then is the reference.
    n_streams: watched values.
    n_unwatched: values that are not watched.
    n_blocks, block_steps: blocks watched since, and the steps of one.
    season_steps: steps of the season that is taken out; 1 where the reference is too short for one.
    alarms_per_30_days: budget of false alarms of a stream.
    n_expected: streams whose alarm is open by chance, on average.
    n_alarmed: streams whose alarm is open.
    n_by_luck: streams whose alarm is open without any drift in 99 of 100 cases, at most.
    is_drifting: n_alarmed is above n_by_luck.
    note: what a short reference changes; null when nothing.
    streams: by statistic over limit, the largest first, at most 100.
    unwatched: each with its reason, at most 100.
    """

    reference_until: IsoTime
    n_streams: int
    n_unwatched: int
    n_blocks: int
    block_steps: int
    season_steps: int
    alarms_per_30_days: float
    n_expected: float
    n_alarmed: int
    n_by_luck: int
    is_drifting: bool
    note: str | None = None
    streams: tuple[StreamAlarm, ...]
    unwatched: tuple[UnwatchedStream, ...]


class ServiceLevel(Strict):
    """The loss or the coverage of one interval, watched from outcome to outcome.

    figure: `loss`, `coverage`, or `concept`, the loss over what the inputs explain.
    level: share that the interval promises; null for the loss.
    normal: what it is compared with: the level, the loss on the gate's rows, about 1 for `concept`.
    n_blocks, block_steps: blocks of outcomes since the promotion, and the steps of one.
    window_steps: steps of outcomes in the rolling figure.
    band_low, band_high: of the rolling figure in 95 of 100 cases without any change.
    statistic: the larger CUSUM sum now, in standard deviations of a block mean.
    limit: above which a sum alarms, by `monitor.alarms_per_30_days`.
    direction: of the alarm that is open, `low` or `high`; null for none, as the next two.
    since: event_time of the block from which on the figure has deviated.
    alarm_at: event_time of the block that raised the alarm.
    unwatched: why it is not watched; null when it is. An alarm that was open before stays open.
    points: the rolling figure over time, the newest 200.
    """

    figure: Literal["loss", "concept", "coverage"]
    level: float | None
    normal: float | None
    n_blocks: int
    block_steps: int
    window_steps: int
    band_low: float | None = None
    band_high: float | None = None
    statistic: float | None = None
    limit: float | None = None
    direction: Literal["low", "high"] | None = None
    since: IsoTime | None = None
    alarm_at: IsoTime | None = None
    unwatched: str | None = None
    points: tuple[LevelPoint, ...] = ()

    @property
    def name(self) -> str:
        """`loss`, `concept`, or `80% coverage`."""
        return self.figure if self.level is None else f"{self.level:.0%} coverage"

    @property
    def is_degraded(self) -> bool:
        """Whether its alarm is open on the bad side: a higher loss, a lower coverage."""
        return self.direction == ("low" if self.figure == "coverage" else "high")


class AnswerCounts(Strict):
    """What the service answered.

    n_answers: all answers.
    n_news: from the newest rows.
    n_as_of: as of a time that the request named.
    n_own_history: from the request's own rows.
    n_unmarked: of an older version, which did not tell these apart.
    """

    n_answers: int
    n_news: int
    n_as_of: int
    n_own_history: int
    n_unmarked: int


class ServedFigures(Strict):
    """What was answered, for information: callers choose it, so it decides nothing.

    answers: counts.
    overall: the champion's answers from the newest rows.
    by_digest: the same of each release.
    """

    answers: AnswerCounts
    overall: OutcomeFigures
    by_digest: tuple[ReleaseOutcomes, ...]


class MonitorKey(Strict):
    """All that the report follows from, what was served apart.

    dataset: whose champion it is.
    rows: sha256 of the clean rows.
    champion: digest, promoted_as_of and trained_as_of; null without a champion.
    params: the monitor's parameters.
    """

    dataset: str
    rows: str
    champion: tuple[str, IsoTime, IsoTime] | None
    params: dict[str, int | float]


class MonitorReport(Report):
    """The champion's own forecasts against their outcomes.

    verdict: `measured`, `degraded` (loss or coverage is beyond a limit of `retrain`, or its
      alarm is open), `drift` (the
      inputs have changed) or `insufficient` (too few outcomes).
    reason: why, in a sentence.
    as_of: newest `known_at` of the rows.
    primary_score: the loss.
    n_cutoffs: cutoffs since the promotion.
    overall: all forecasts of the champion since its promotion.
    by_step: the same by step ahead.
    by_series: the same by series, the first 200.
    champion: its age, error and coverage; null without one.
    drift: of the inputs; null without a champion.
    served: what the service answered.
    dataset: whose champion it is.
    key: what the report follows from; with the same key it stays.
    service_levels: the loss and the coverage of each interval, with their alarms.
    objectives: latency, errors, freshness and age of the model as the service counted them, by the
      clock and for information; empty where `tidemill up` has not run.
    """

    PATH: ClassVar[str] = "data/reports/monitor/report.json"

    verdict: MonitorVerdict
    reason: str
    as_of: IsoTime
    primary_score: str
    n_cutoffs: int
    overall: OutcomeFigures
    by_step: tuple[StepOutcomes, ...]
    by_series: tuple[SeriesOutcomes, ...]
    champion: ChampionFigures | None
    drift: DriftFigures | None
    served: ServedFigures
    dataset: str
    key: MonitorKey
    service_levels: tuple[ServiceLevel, ...] = ()
    objectives: tuple[ServiceObjective, ...] = ()

    @property
    def n_blocks(self) -> int:
        """See `count_blocks`."""
        return count_blocks(self.service_levels, len(self.by_step))


def count_blocks(levels: Sequence[ServiceLevel], horizon_steps: int) -> int:
    """Blocks of outcomes since the promotion, each at least as long as the horizon."""
    if not levels:
        return 0
    return levels[0].n_blocks * levels[0].block_steps // max(1, horizon_steps)
