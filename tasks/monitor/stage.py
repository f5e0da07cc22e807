"""Join forecasts with outcomes, measure drift, and give a verdict."""

from datetime import datetime
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.frames import get_newest_known_at
from tasks.core.reports.monitor import (
    ChampionFigures,
    DriftFigures,
    MonitorKey,
    MonitorReport,
    MonitorVerdict,
    OutcomeFigures,
    SeriesOutcomes,
    ServedFigures,
    StepOutcomes,
    StreamAlarm,
)
from tasks.core.reports.retrain import RetrainLimits
from tasks.monitor.champion import MonitoredChampion
from tasks.monitor.drift import compute_alarms, compute_chance_alarms, fit_whitener
from tasks.monitor.outcome import build_outcomes, compute_figures
from tasks.monitor.params import MonitorParams
from tasks.monitor.streams import build_streams

SERIES_SHOWN, STREAMS_SHOWN = 200, 100


class MonitorResult(NamedTuple):
    """The report, and what its drift was measured on.

    streams: the watched values, event_time and a column for each value of each series.
    """

    report: MonitorReport
    streams: pl.DataFrame


def build_monitor_result(
    scheduled: pl.DataFrame,
    rows: pl.DataFrame,
    about: About,
    calendar: Calendar,
    champion: MonitoredChampion | None,
    params: MonitorParams,
    limits: RetrainLimits,
    served: ServedFigures,
    key: MonitorKey,
) -> MonitorResult:
    """Compare the champion's own forecasts with *rows*, as of the newest row.

    scheduled: FORECAST with digest.
    rows: SERIES.
    limits: beyond them the champion is degraded.
    served, key: as they are in the report.
    """
    outcomes = build_outcomes(scheduled, rows, about, calendar, {})
    streams = build_streams(rows, about, calendar)
    overall = OutcomeFigures.model_validate(compute_figures(outcomes, [])[0])
    figures = drift = None
    if champion is not None:
        figures = _build_champion_figures(champion, overall, streams["event_time"], calendar, params)
        drift = _compute_drift(streams, champion.seen_until, about, calendar, params)
    n_cutoffs = outcomes["cutoff"].n_unique()
    verdict, reason = _decide_verdict(figures, drift, n_cutoffs, about, params, limits)
    report = MonitorReport(
        verdict=verdict,
        reason=reason,
        as_of=get_newest_known_at(rows),
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
        served=served,
        dataset=key.dataset,
        key=key,
    )
    return MonitorResult(report, streams)


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


def _compute_drift(
    streams: pl.DataFrame, since: datetime, about: About, calendar: Calendar, params: MonitorParams
) -> DriftFigures:
    """CUSUM over all streams.

    The reference is the data that the champion was fitted on; the data since then are watched.
    """
    names = streams.columns[1:]
    values = streams.select(names).to_numpy()
    cutoffs = streams.select(calendar.nominal_known_at()).to_series()
    start = int((cutoffs <= since).sum())
    whitener = fit_whitener(values[:start], about.season_steps)
    alarms = compute_alarms(
        whitener, values[start:], start % about.season_steps, params.cusum_slack, params.cusum_limit
    )
    times = streams["event_time"]
    by_stream = [
        StreamAlarm(
            stream=name,
            statistic=round(float(alarms.statistic[i]), 3),
            alarm_at=(
                times[start + (int(alarms.first[i]) + 1) * whitener.block_steps - 1]
                if alarms.first[i] >= 0
                else None
            ),
        )
        for i, name in enumerate(names)
        if alarms.is_watched[i]
    ]
    n_alarmed = int((alarms.first[alarms.is_watched] >= 0).sum())
    by_luck = compute_chance_alarms(int(alarms.is_watched.sum()), alarms.n_blocks)
    ordered = sorted(by_stream, key=lambda alarm: (-alarm.statistic, alarm.stream))
    return DriftFigures(
        reference_until=since,
        n_streams=len(by_stream),
        n_blocks=alarms.n_blocks,
        block_steps=whitener.block_steps,
        n_alarmed=n_alarmed,
        n_by_luck=by_luck,
        is_drifting=n_alarmed > by_luck,
        streams=tuple(ordered[:STREAMS_SHOWN]),
    )


def _decide_verdict(
    champion: ChampionFigures | None,
    drift: DriftFigures | None,
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
    drifting = (
        f"; the input drifts: {drift.n_alarmed} of {drift.n_streams} streams alarm,"
        f" {drift.n_by_luck} would by chance"
        if drift.is_drifting
        else ""
    )
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
    breaches = limits.list_breaches(champion.error_ratio, champion.coverage_frac)
    if breaches:
        return "degraded", f"{'; '.join(breaches.values())}: {reason}{drifting}"
    return ("drift" if drift.is_drifting else "measured"), reason + drifting
