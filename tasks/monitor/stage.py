"""Join forecasts with outcomes, measure drift, and give a verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.reports.monitor import (
    ChampionFigures,
    DriftFigures,
    MonitorKey,
    MonitorReport,
    MonitorVerdict,
    OutcomeFigures,
    SeriesOutcomes,
    ServedFigures,
    ServiceLevel,
    StepOutcomes,
    UnwatchedStream,
    count_blocks,
)
from tasks.core.reports.retrain import RetrainLimits
from tasks.core.sketch import Sketch
from tasks.monitor.champion import MonitoredChampion
from tasks.monitor.concept import select_inputs
from tasks.monitor.drift_figures import DriftInput, compute_drift, compute_step_budget
from tasks.monitor.outcome import compute_figures, join_outcomes
from tasks.monitor.params import MonitorParams
from tasks.monitor.rows import RowsSpan, compute_span, iterate_groups
from tasks.monitor.service_level import build_watched_outcomes, describe_alarm, watch_levels
from tasks.monitor.streams import MAX_SHOWN, build_streams, join_groups, select_shown_streams

SERIES_SHOWN = 200


class MonitorResult(NamedTuple):
    """The report, and what its drift was measured on.

    shown: watched values, event_time and a column for each of some streams.
    """

    report: MonitorReport
    shown: pl.DataFrame


def build_monitor_result(
    scheduled: pl.DataFrame,
    rows: pl.DataFrame | pl.LazyFrame,
    about: About,
    calendar: Calendar,
    champion: MonitoredChampion | None,
    params: MonitorParams,
    limits: RetrainLimits,
    served: ServedFigures,
    key: MonitorKey,
    unwatched: Sequence[UnwatchedStream] = (),
    sketches: Mapping[str, Sketch] = MappingProxyType({}),
) -> MonitorResult:
    """Compare the champion's own forecasts with *rows*, as of the newest row.

    scheduled: FORECAST with digest; what is before the promotion is the reference of the loss and
      the coverage.
    rows: SERIES, all vintages; they are read as far as needed, and never all at the same time.
    limits: beyond them the champion is degraded. served, key: as they are in the report.
    unwatched: values of which *rows* have neither numbers nor categories.
    sketches: of the reference, as saved with the release.
    """
    rows = rows.lazy()
    span = compute_span(rows, about, calendar)
    grid = calendar.grid(span.first, span.last)
    judged = join_outcomes(scheduled, rows, span, about, calendar, {})
    outcomes = judged if champion is None else judged.filter(pl.col("cutoff") >= champion.promoted_as_of)
    overall = OutcomeFigures.model_validate(compute_figures(outcomes, [])[0])
    figures = drift = None
    levels: tuple[ServiceLevel, ...] = ()
    groups = _GroupedStreams(rows, span, grid, about, scheduled["event_time"].unique().sort())
    if champion is not None:
        losses = judged.filter(pl.col("y").is_not_null() & ~pl.col("is_seen") & pl.col("loss").is_finite())
        streams = groups.iterate(champion.seen_until, params.sample)
        data = DriftInput(streams, champion.seen_until, losses, sketches)
        drift = compute_drift(data, grid, about, calendar, params, unwatched)
        levels = _watch_levels(judged, groups, champion, calendar, params)
        figures = _build_champion_figures(champion, overall, grid, calendar, params)
    n_cutoffs = outcomes["cutoff"].n_unique()
    verdict, reason = _decide_verdict(figures, drift, levels, n_cutoffs, about, params, limits)
    report = MonitorReport(
        verdict=verdict,
        reason=reason,
        as_of=span.newest_known_at,
        primary_score=about.primary_score,
        n_cutoffs=n_cutoffs,
        overall=overall,
        by_step=tuple(StepOutcomes.model_validate(row) for row in compute_figures(outcomes, ["step"])),
        by_series=tuple(
            SeriesOutcomes.model_validate(row)
            for row in compute_figures(outcomes, ["series_id"])[:SERIES_SHOWN]
        ),
        champion=figures,
        drift=drift,
        service_levels=levels,
        served=served,
        dataset=key.dataset,
        key=key,
    )
    return MonitorResult(report, join_groups(groups.shown)[:, : 1 + MAX_SHOWN])


@dataclass
class _GroupedStreams:
    """The watched values by groups of series, and the few rows that are needed of all of them.

    times: event_time of the forecasts.
    inputs: what they knew, see `select_inputs`. shown: see `select_shown_streams`.
    """

    rows: pl.LazyFrame
    span: RowsSpan
    grid: pl.Series
    about: About
    times: pl.Series
    inputs: list[pl.DataFrame] = field(default_factory=list)
    shown: list[pl.DataFrame] = field(default_factory=list)

    def iterate(self, since: datetime, sample: int) -> Iterator[pl.DataFrame]:
        times = self.times.filter(self.times <= self.span.last)
        for ids, part in iterate_groups(self.rows, self.span, len(self.grid)):
            streams = build_streams(part, self.about, self.span, self.grid, ids)
            self.inputs.append(select_inputs(streams, times, self.about.horizon_steps))
            self.shown.append(select_shown_streams(streams, since, sample))
            yield streams


def _build_champion_figures(
    champion: MonitoredChampion,
    overall: OutcomeFigures,
    grid: pl.Series,
    calendar: Calendar,
    params: MonitorParams,
) -> ChampionFigures:
    cutoffs = pl.DataFrame({"event_time": grid}).select(calendar.nominal_known_at()).to_series()
    has_enough = overall.n_known >= params.min_rows
    loss = overall.loss if has_enough else None
    return ChampionFigures(
        **champion._asdict(),
        age_steps=int((cutoffs > champion.trained_as_of).sum()),
        n_known=overall.n_known,
        loss=loss,
        error_ratio=loss / champion.gate_loss if loss is not None and champion.gate_loss else None,
        coverage_frac=overall.coverage_frac if has_enough else None,
    )


def _watch_levels(
    judged: pl.DataFrame,
    groups: _GroupedStreams,
    champion: MonitoredChampion,
    calendar: Calendar,
    params: MonitorParams,
) -> tuple[ServiceLevel, ...]:
    is_reference = calendar.nominal_known_at() <= champion.promoted_as_of
    about, inputs = groups.about, join_groups(groups.inputs)
    watched = build_watched_outcomes(judged, about, is_reference, groups.grid)
    budget = compute_step_budget(groups.grid, about, params)
    known = inputs[inputs["event_time"].search_sorted(watched.times)].drop("event_time").to_numpy()
    known = known.reshape(len(watched.times), inputs.width - 1)
    return watch_levels(watched, about, params.cusum_slack, budget, known)


def _decide_verdict(
    champion: ChampionFigures | None,
    drift: DriftFigures | None,
    levels: Sequence[ServiceLevel],
    n_cutoffs: int,
    about: About,
    params: MonitorParams,
    limits: RetrainLimits,
) -> tuple[MonitorVerdict, str]:
    if champion is None or drift is None:
        return (
            "insufficient",
            "no champion is registered here, so there is nothing to watch; `dvc repro promote` makes one",
        )
    drifting = _describe_drift(drift)
    if champion.loss is None:
        reason = (
            f"{champion.n_known} steps that the champion forecast since its promotion have an outcome,"
            f" fewer than `monitor.min_rows` = {params.min_rows}"
        )
        return "insufficient", reason + drifting
    reason = (
        f"{about.primary_score} loss {champion.loss:.4g} over {champion.n_known} steps of {n_cutoffs} cutoffs"
        " since its promotion"
    )
    if champion.error_ratio is not None:
        reason += f", {champion.error_ratio:.2f} times the gate's"
    if champion.coverage_frac is not None:
        reason += f", {champion.coverage_frac:.0%} within the interval"
    breaches = limits.list_breaches(
        champion.error_ratio, champion.coverage_frac, count_blocks(levels, about.horizon_steps)
    )
    open_alarms = [describe_alarm(level) for level in levels if level.direction]
    reason += "".join(f"; {text}" for text in open_alarms)
    if breaches or any(level.is_degraded for level in levels):
        causes = "; ".join(breaches.values()) or "an alarm is open"
        return "degraded", f"{causes}: {reason}{drifting}"
    return ("drift" if drift.is_drifting else "measured"), reason + drifting


def _describe_drift(drift: DriftFigures) -> str:
    described = ""
    if drift.is_drifting:
        described = (
            f"; the input drifts: {drift.n_alarmed} of {drift.n_streams} streams alarm,"
            f" {drift.n_by_luck} would by chance"
        )
    if drift.n_unwatched:
        first = drift.unwatched[0]
        described += (
            f"; {drift.n_unwatched} of {drift.n_streams + drift.n_unwatched} streams are not watched for"
            f" drift ({first.stream}: {first.reason})"
        )
    return described
