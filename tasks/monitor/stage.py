"""The stage in one screen: join, judge, watch for drift, say what it means."""

from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.frames import get_newest_known_at, select_as_of
from tasks.features import add_target
from tasks.monitor.drift import compute_alarms, compute_chance_alarms, fit_whitener
from tasks.monitor.outcome import build_outcomes, compute_figures
from tasks.monitor.params import MonitorParams

Facts = dict[str, Any]


class MonitoredChampion(NamedTuple):
    """What the report needs of the champion.

    promoted_as_of: newest `known_at` of the data that decided its promotion. trained_as_of: of the
    last training that was judged.
    gate_loss: its mean loss on the gate's rows.
    """

    digest: str
    model: str
    version: str
    seen_until: datetime
    promoted_as_of: datetime
    trained_as_of: datetime
    gate_loss: float | None


class MonitorResult(NamedTuple):
    """report: report.json without its key and what was served. streams: event_time and a column
    for each value of each series.
    """

    report: Facts
    streams: pl.DataFrame


def build_monitor_report(
    scheduled: pl.DataFrame,
    rows: pl.DataFrame,
    about: About,
    calendar: Calendar,
    champion: MonitoredChampion | None,
    params: MonitorParams,
) -> MonitorResult:
    """The report on the champion's own forecasts *scheduled* (FORECAST with digest) and *rows*
    (SERIES), as of the newest row.
    """
    found = build_outcomes(scheduled, rows, about, calendar, {})
    streams = _build_streams(rows, about, calendar)
    report: Facts = {
        "as_of": get_newest_known_at(rows).isoformat(),
        "primary_score": about.primary_score,
        "n_cutoffs": found["cutoff"].n_unique(),
        "overall": compute_figures(found, [])[0],
        "by_step": compute_figures(found, ["step"]),
        "by_series": compute_figures(found, ["series_id"])[:200],
        "champion": (
            None
            if champion is None
            else _compute_champion_facts(champion, found, streams["event_time"], calendar, params)
        ),
        "drift": (
            None
            if champion is None
            else _compute_drift(streams, champion.seen_until, about, calendar, params)
        ),
    }
    verdict, reason = _decide_verdict(report, about, params)
    return MonitorResult({**report, "verdict": verdict, "reason": reason}, streams)


def _compute_champion_facts(
    champion: MonitoredChampion,
    found: pl.DataFrame,
    grid: pl.Series,
    calendar: Calendar,
    params: MonitorParams,
) -> Facts:
    own = compute_figures(found, [])[0]
    cutoffs = pl.DataFrame({"event_time": grid}).select(calendar.nominal_known_at()).to_series()
    enough = int(str(own["n_known"])) >= params.min_rows
    loss = float(str(own["loss"])) if enough and own["loss"] is not None else None
    return {
        "digest": champion.digest,
        "model": champion.model,
        "version": champion.version,
        "seen_until": champion.seen_until.isoformat(),
        "promoted_as_of": champion.promoted_as_of.isoformat(),
        "trained_as_of": champion.trained_as_of.isoformat(),
        "age_steps": int((cutoffs > champion.trained_as_of).sum()),
        "gate_loss": champion.gate_loss,
        "n_known": own["n_known"],
        "loss": loss,
        "error_ratio": loss / champion.gate_loss if loss is not None and champion.gate_loss else None,
        "coverage_frac": own["coverage_frac"] if enough else None,
    }


def _compute_drift(
    streams: pl.DataFrame, since: datetime, about: About, calendar: Calendar, params: MonitorParams
) -> Facts:
    """CUSUM over all streams: the reference is what the champion was fitted on, watched is what
    came since.
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
        {
            "stream": name,
            "statistic": round(float(alarms.statistic[i]), 3),
            "alarm_at": (
                times[start + (int(alarms.first[i]) + 1) * whitener.block_steps - 1].isoformat()
                if alarms.first[i] >= 0
                else None
            ),
        }
        for i, name in enumerate(names)
        if alarms.is_watched[i]
    ]
    n_alarmed = int((alarms.first[alarms.is_watched] >= 0).sum())
    by_luck = compute_chance_alarms(int(alarms.is_watched.sum()), alarms.n_blocks)
    return {
        "reference_until": since.isoformat(),
        "n_streams": len(by_stream),
        "n_blocks": alarms.n_blocks,
        "block_steps": whitener.block_steps,
        "n_alarmed": n_alarmed,
        "n_by_luck": by_luck,
        "is_drifting": n_alarmed > by_luck,
        # A float
        "streams": sorted(by_stream, key=lambda row: (-row["statistic"], row["stream"]))[:100],  # type: ignore[operator]
    }


def _build_streams(rows: pl.DataFrame, about: About, calendar: Calendar) -> pl.DataFrame:
    """event_time and one float column `<series>:<column>` for each series and value column (the
    target too), on the grid, NaN where missing.
    """
    newest = add_target(select_as_of(rows, get_newest_known_at(rows)), about)
    columns = [
        c
        for c in newest.columns
        if c not in {"series_id", "event_time", "known_at"}
        and not (c == "y" and about.target.column in newest.columns)
    ]
    times = newest["event_time"].unique().sort()
    grid = calendar.grid(times[0], times[-1])
    ids = newest["series_id"].unique().sort()
    row, column = (
        grid.search_sorted(newest["event_time"]).to_numpy(),
        ids.search_sorted(newest["series_id"]).to_numpy(),
    )
    laid = {}
    for name in columns:
        dense = np.full((len(grid), len(ids)), np.nan)
        dense[row, column] = newest[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        shown = about.target.column if name == "y" else name
        laid.update({f"{series}:{shown}": dense[:, i] for i, series in enumerate(ids)})
    return pl.DataFrame({"event_time": grid, **laid})


def _decide_verdict(report: Facts, about: About, params: MonitorParams) -> tuple[str, str]:
    champion, drift = report["champion"], report["drift"]
    if champion is None:
        return (
            "insufficient",
            "no champion is registered here, so there is nothing to watch; `dvc repro promote` makes one",
        )
    drifting = (
        f"; the input drifts: {drift['n_alarmed']} of {drift['n_streams']} streams alarm,"
        f" {drift['n_by_luck']} would by luck"
        if drift["is_drifting"]
        else ""
    )
    if champion["loss"] is None:
        return (
            "insufficient",
            (
                f"{champion['n_known']} steps that the champion forecast since its promotion have come true,"
                f" fewer than `monitor.min_rows` = {params.min_rows}{drifting}"
            ),
        )
    said = (
        f"{about.primary_score} loss {champion['loss']:.4g} over {champion['n_known']} steps of"
        f" {report['n_cutoffs']} cutoffs since its promotion"
    )
    said += f", {champion['error_ratio']:.2f} times the gate's" if champion["error_ratio"] is not None else ""
    said += (
        f", {champion['coverage_frac']:.0%} within the interval"
        if champion["coverage_frac"] is not None
        else ""
    )
    return ("drift" if drift["is_drifting"] else "measured"), said + drifting
