"""The report's figures of drift: alarms of the watched streams, and which are not watched."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, parse_step_length
from tasks.core.reports.monitor import DriftFigures, StreamAlarm, UnwatchedStream
from tasks.core.sketch import Sketch
from tasks.edges.column_file import ColumnFile
from tasks.monitor.alarms import WatchedData, build_alarms, select_alarms
from tasks.monitor.budget import count_chance_alarms, summarize_chance_alarms
from tasks.monitor.categories import MAX_CATEGORIES
from tasks.monitor.drift import (
    MIN_BLOCKS,
    MIN_SEASONS,
    SILENT_BLOCKS,
    DriftDetector,
    compute_figures,
    fit_detector,
    fit_joint_detector,
    run_detectors,
    standardize_streams,
)
from tasks.monitor.joint import MAX_STREAMS
from tasks.monitor.params import MonitorParams
from tasks.monitor.signals import LEVEL
from tasks.monitor.streams import sort_names

STREAMS_SHOWN = 100
JOINT = "*:joint"
_BUDGET_SPAN = timedelta(days=30)
_DAY = timedelta(days=1)


class DriftInput(NamedTuple):
    """What drift is measured on.

    groups: frames of `build_streams` of different series, all on one grid.
    since: the reference is what the champion was fitted on, by this time; the data since then are
      watched.
    losses: series_id, event_time, loss of the champion's forecasts.
    sketches: of the reference by stream, as saved with the release; others are built.
    """

    groups: Iterable[pl.DataFrame]
    since: datetime
    losses: pl.DataFrame | None = None
    sketches: Mapping[str, Sketch] = {}


class _Frame(NamedTuple):
    """What all groups share. start: steps of the reference. budget: false alarms of a step."""

    about: About
    params: MonitorParams
    times: pl.Series
    start: int
    day_steps: int
    budget: float


class _Watched(NamedTuple):
    """A group of streams, or all of numbers together as one.

    names: of numbers, then of categories.
    n_numbers: of numbers; `values` has a column for each, then one for each of categories.
    absent: texts that are no categories.
    """

    names: list[str]
    n_numbers: int
    values: np.ndarray
    absent: list[UnwatchedStream]


class _Found(NamedTuple):
    """What the detectors found.

    detector: without the blocks of its reference, which are as many as a tenth of the values.
    alarms: with the size by which they are sorted.
    silent: streams that are not watched, of numbers and of categories.
    n_open: streams with an open alarm. n_by_path: those that chance alone opens, see `budget`.
    """

    detector: DriftDetector
    n_blocks: int
    n_watched: int
    alarms: tuple[tuple[float, StreamAlarm], ...]
    silent: tuple[list[UnwatchedStream], list[UnwatchedStream]]
    n_open: int
    n_by_path: np.ndarray


def compute_step_budget(grid: pl.Series, about: About, params: MonitorParams) -> float:
    """False alarms that are allowed in one step of *grid*, by the time that its steps take."""
    taken = grid[-1] - grid[0] if len(grid) > 1 else parse_step_length(about.every)
    return params.alarms_per_30_days * (taken / max(1, len(grid) - 1) / _BUDGET_SPAN)


def compute_drift(
    data: DriftInput,
    grid: pl.Series,
    about: About,
    calendar: Calendar,
    params: MonitorParams,
    unwatched: Iterable[UnwatchedStream] = (),
) -> DriftFigures:
    """CUSUM of all detectors over all streams, one group of streams after the other.

    grid: event_time of the streams.
    unwatched: streams that *data* cannot hold.
    """
    is_reference = grid.to_frame("event_time").select(calendar.nominal_known_at()).to_series() <= data.since
    day_steps = max(1, round(_DAY / parse_step_length(about.every)))
    budget = compute_step_budget(grid, about, params)
    frame = _Frame(about, params, grid, int(is_reference.sum()), day_steps, budget)
    absent, parts, n_numbers = [], [], 0
    with ColumnFile(len(grid)) as innovations:
        for streams in data.groups:
            watched = _split_streams(streams)
            absent += watched.absent
            parts.append(_watch(watched, data, frame))
            n_numbers += watched.n_numbers
            if n_numbers <= MAX_STREAMS:
                numbers, seasons = watched.values[:, : watched.n_numbers], (about.season_steps, day_steps)
                innovations.append(standardize_streams(parts[-1].detector, numbers, frame.start, *seasons))
        if 2 <= n_numbers <= MAX_STREAMS:
            parts.append(_watch_joint(parts[0].detector, innovations, data, frame))
    absent = _sort_streams(absent)
    if n_numbers > MAX_STREAMS:
        reason = f"{n_numbers} streams of numbers, more than {MAX_STREAMS}"
        absent.append(UnwatchedStream(stream=JOINT, reason=reason))
    for of_kind in zip(*(part.silent for part in parts), strict=True):
        absent += _sort_streams(chain.from_iterable(of_kind))
    return _build_figures(parts, [*unwatched, *absent], data, frame)


def _build_figures(
    parts: Sequence[_Found], unwatched: Sequence[UnwatchedStream], data: DriftInput, frame: _Frame
) -> DriftFigures:
    n_expected, n_by_luck = summarize_chance_alarms(np.sum([part.n_by_path for part in parts], axis=0))
    n_open = sum(part.n_open for part in parts)
    detector = parts[0].detector
    return DriftFigures(
        reference_until=data.since,
        n_streams=sum(part.n_watched for part in parts),
        n_unwatched=len(unwatched),
        n_blocks=parts[0].n_blocks,
        block_steps=detector.block_steps,
        season_steps=len(detector.whitening.season),
        alarms_per_30_days=frame.params.alarms_per_30_days,
        n_expected=round(n_expected, 3),
        n_alarmed=n_open,
        n_by_luck=n_by_luck,
        is_drifting=n_open > n_by_luck,
        note=_describe_shortness(detector, frame.start, frame.about.season_steps),
        streams=select_alarms(chain.from_iterable(part.alarms for part in parts), STREAMS_SHOWN),
        unwatched=tuple(unwatched[:STREAMS_SHOWN]),
    )


def _watch(watched: _Watched, data: DriftInput, frame: _Frame) -> _Found:
    values, codes = watched.values[:, : watched.n_numbers], watched.values[:, watched.n_numbers :]
    start, about, params = frame.start, frame.about, frame.params
    detector = fit_detector(
        values[:start],
        about.season_steps,
        frame.day_steps,
        params.cusum_slack,
        frame.budget,
        codes[:start],
        params.block_steps,
    )
    figures = compute_figures(detector, values[start:], start, codes[start:])
    return _build_found(detector, figures, watched, data, frame)


def _watch_joint(detector: DriftDetector, innovations: ColumnFile, data: DriftInput, frame: _Frame) -> _Found:
    detector, figures = fit_joint_detector(detector, innovations, frame.start)
    watched = _Watched([JOINT], 0, np.empty((len(frame.times), 0)), [])
    return _build_found(detector, figures, watched, data, frame)


def _build_found(
    detector: DriftDetector, figures: np.ndarray, watched: _Watched, data: DriftInput, frame: _Frame
) -> _Found:
    alarms = run_detectors(figures, detector.scaled, detector.limit, detector.slack)
    reasons = _find_reasons(detector, alarms.n_blocks, watched.values, frame.start, frame.times)
    n_numbers = watched.n_numbers
    silent: tuple[list[UnwatchedStream], list[UnwatchedStream]] = ([], [])
    for i in sorted(reasons):
        silent[i >= n_numbers].append(UnwatchedStream(stream=watched.names[i], reason=reasons[i]))
    is_open = (alarms.opened >= 0).any(axis=0) & np.isfinite(detector.limit[LEVEL])
    shown = WatchedData(
        watched.names, frame.times, watched.values, frame.start, n_numbers, data.losses, data.sketches
    )
    scaled = detector.scaled._replace(z=np.empty(0))
    return _Found(
        detector._replace(scaled=scaled),
        alarms.n_blocks,
        len(watched.names) - len(reasons),
        build_alarms(detector, alarms, figures, shown, STREAMS_SHOWN),
        silent,
        int(is_open.sum()),
        count_chance_alarms(detector.scaled, detector.limit, detector.slack, alarms.n_blocks),
    )


def _sort_streams(streams: Iterable[UnwatchedStream]) -> list[UnwatchedStream]:
    """By column, see `sort_names`."""
    by_name = {row.stream: row for row in streams}
    return [by_name[name] for name in sort_names(by_name)]


def _split_streams(streams: pl.DataFrame) -> _Watched:
    """Streams of numbers and of categories; texts that are no categories are named."""
    numbers: list[str] = []
    categories: list[str] = []
    absent: list[UnwatchedStream] = []
    for name in streams.columns[1:]:
        if streams.schema[name] != pl.String:
            numbers.append(name)
            continue
        n = streams[name].drop_nulls().n_unique()
        if n <= MAX_CATEGORIES:
            categories.append(name)
        else:
            reason = f"it holds {n} different texts, more than {MAX_CATEGORIES}: no categories"
            absent.append(UnwatchedStream(stream=name, reason=reason))
    values = streams.select(numbers).to_numpy().reshape(streams.height, -1)
    all_values = np.column_stack([values, _encode(streams, categories)])
    return _Watched([*numbers, *categories], len(numbers), all_values, absent)


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
