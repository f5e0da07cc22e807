"""The report's figures of drift: alarms of the watched streams, and which are not watched."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, parse_step_length
from tasks.core.reports.monitor import DriftFigures, UnwatchedStream
from tasks.core.sketch import Sketch
from tasks.monitor.alarms import WatchedData, build_alarms
from tasks.monitor.budget import compute_chance_alarms
from tasks.monitor.categories import MAX_CATEGORIES
from tasks.monitor.drift import (
    MIN_BLOCKS,
    MIN_SEASONS,
    DriftDetector,
    compute_figures,
    fit_detector,
    run_detectors,
)
from tasks.monitor.joint import MAX_STREAMS
from tasks.monitor.params import MonitorParams
from tasks.monitor.signals import LEVEL

STREAMS_SHOWN = 100
SILENT_BLOCKS = 5  # without a value, or with a single one
JOINT = "*:joint"
_BUDGET_SPAN = timedelta(days=30)
_DAY = timedelta(days=1)


class DriftInput(NamedTuple):
    """What drift is measured on.

    streams: of `build_streams`.
    since: the reference is what the champion was fitted on, by this time; the data since then are
      watched.
    losses: series_id, event_time, loss of the champion's forecasts.
    sketches: of the reference by stream, as saved with the release; others are built.
    """

    streams: pl.DataFrame
    since: datetime
    losses: pl.DataFrame | None = None
    sketches: Mapping[str, Sketch] = {}


def compute_step_budget(grid: pl.Series, about: About, params: MonitorParams) -> float:
    """False alarms that are allowed in one step of *grid*, by the time that its steps take."""
    taken = grid[-1] - grid[0] if len(grid) > 1 else parse_step_length(about.every)
    return params.alarms_per_30_days * (taken / max(1, len(grid) - 1) / _BUDGET_SPAN)


def compute_drift(
    data: DriftInput,
    about: About,
    calendar: Calendar,
    params: MonitorParams,
    unwatched: Iterable[UnwatchedStream] = (),
) -> DriftFigures:
    """CUSUM of all detectors over all streams.

    unwatched: streams that *data* cannot hold.
    """
    numbers, categories, absent = _split_streams(data)
    names, times = [*numbers, *categories], data.streams["event_time"]
    values = data.streams.select(numbers).to_numpy().reshape(len(times), -1)
    codes = _encode(data.streams, categories)
    start = int((data.streams.select(calendar.nominal_known_at()).to_series() <= data.since).sum())
    day_steps = max(1, round(_DAY / parse_step_length(about.every)))
    budget = compute_step_budget(times, about, params)
    detector = fit_detector(
        values[:start],
        about.season_steps,
        day_steps,
        params.cusum_slack,
        budget,
        codes[:start],
        params.block_steps,
    )
    names += [JOINT] if detector.joint is not None else []
    figures = compute_figures(detector, values[start:], start, codes[start:])
    alarms = run_detectors(figures, detector.scaled, detector.limit, detector.slack)
    all_values = np.column_stack([values, codes])
    reasons = _find_reasons(detector, alarms.n_blocks, all_values, start, times)
    silent = (UnwatchedStream(stream=names[i], reason=reasons[i]) for i in sorted(reasons))
    absent = [*unwatched, *absent, *silent]
    is_fitted = np.isfinite(detector.limit[LEVEL])
    is_open = (alarms.opened >= 0).any(axis=0) & is_fitted
    n_expected, n_by_luck = compute_chance_alarms(
        detector.scaled, detector.limit, detector.slack, alarms.n_blocks
    )
    watched = WatchedData(names, times, all_values, start, len(numbers), data.losses, data.sketches)
    return DriftFigures(
        reference_until=data.since,
        n_streams=len(names) - len(reasons),
        n_unwatched=len(absent),
        n_blocks=alarms.n_blocks,
        block_steps=detector.block_steps,
        season_steps=len(detector.whitening.season),
        alarms_per_30_days=params.alarms_per_30_days,
        n_expected=round(n_expected, 3),
        n_alarmed=int(is_open.sum()),
        n_by_luck=n_by_luck,
        is_drifting=int(is_open.sum()) > n_by_luck,
        note=_describe_shortness(detector, start, about.season_steps),
        streams=build_alarms(detector, alarms, figures, watched, STREAMS_SHOWN),
        unwatched=tuple(absent[:STREAMS_SHOWN]),
    )


def _split_streams(data: DriftInput) -> tuple[list[str], list[str], list[UnwatchedStream]]:
    """Names of the streams of numbers and of categories; texts that are no categories."""
    numbers: list[str] = []
    categories: list[str] = []
    absent: list[UnwatchedStream] = []
    for name in data.streams.columns[1:]:
        if data.streams.schema[name] != pl.String:
            numbers.append(name)
            continue
        n = data.streams[name].drop_nulls().n_unique()
        if n <= MAX_CATEGORIES:
            categories.append(name)
        else:
            reason = f"it holds {n} different texts, more than {MAX_CATEGORIES}: no categories"
            absent.append(UnwatchedStream(stream=name, reason=reason))
    if len(numbers) > MAX_STREAMS:
        reason = f"{len(numbers)} streams of numbers, more than {MAX_STREAMS}"
        absent.append(UnwatchedStream(stream=JOINT, reason=reason))
    return numbers, categories, absent


def _encode(streams: pl.DataFrame, names: list[str]) -> np.ndarray:
    """(T, C) codes in the order of the texts, NaN where missing."""
    codes = np.full((streams.height, len(names)), np.nan)
    for i, name in enumerate(names):
        ranks = streams[name].rank("dense").cast(pl.Float64) - 1
        codes[:, i] = ranks.fill_null(float("nan")).to_numpy()
    return codes


def _describe_shortness(detector: DriftDetector, n_steps: int, season_steps: int) -> str | None:
    shown = len(detector.whitening.season)
    if shown == season_steps:
        return None
    return (
        f"the reference of {n_steps} steps shows no season of {season_steps} steps, of which {MIN_SEASONS}"
        f" are needed; one of {shown} is taken out, so the rest of the season is taken for chance"
    )


def _find_reasons(
    detector: DriftDetector, n_blocks: int, values: np.ndarray, start: int, times: pl.Series
) -> dict[int, str]:
    """Why a stream is not watched, by its position; the others are."""
    reference, current, block_steps = values[:start], values[start:], detector.block_steps
    n_known = detector.scaled.n_known
    tail = current[-SILENT_BLOCKS * block_steps :]
    reasons = {}
    for i, is_fitted in enumerate(np.isfinite(detector.limit[LEVEL])):
        is_joint = i == values.shape[1]
        if not is_joint and not np.isfinite(reference[:, i]).any():
            reasons[i] = f"no value in the reference of {start} steps"
        elif not is_fitted:
            reasons[i] = (
                f"{n_known[i]} blocks of {block_steps} steps are known in the reference of {start} steps,"
                f" {MIN_BLOCKS} are needed"
            )
        elif n_blocks == 0:
            reasons[i] = f"{len(current)} steps since the reference, less than a block of {block_steps}"
        elif is_joint:
            continue
        elif not (known := tail[np.isfinite(tail[:, i]), i]).size:
            newest = int(np.flatnonzero(np.isfinite(values[:, i]))[-1])
            reasons[i] = f"no value since {times[newest].isoformat()}"
        elif len(tail) == SILENT_BLOCKS * block_steps and _is_stuck(reference[:, i], known):
            reasons[i] = (
                f"always {known[0]:g} in the last {len(tail)} steps, which it never was for so long before"
            )
    return reasons


def _is_stuck(reference: np.ndarray, newest: np.ndarray) -> bool:
    """Whether *newest* is a single value for longer than any value of *reference* was."""
    if np.ptp(newest) > 0:
        return False
    before = reference[np.isfinite(reference)]
    changes = np.flatnonzero(np.diff(before) != 0)
    runs = np.diff(np.concatenate([[-1], changes, [len(before) - 1]]))
    return bool(runs.max(initial=0) < len(newest))
