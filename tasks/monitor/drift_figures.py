"""The report's figures of drift: alarms of the watched streams, and which are not watched."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, parse_step_length
from tasks.core.reports.monitor import DriftFigures, StreamAlarm, UnwatchedStream
from tasks.monitor.budget import compute_chance_alarms
from tasks.monitor.drift import MIN_BLOCKS, DriftAlarms, DriftDetector, compute_alarms, fit_detector
from tasks.monitor.params import MonitorParams

STREAMS_SHOWN = 100
SILENT_BLOCKS = 5  # without a value, or with a single one
_BUDGET_SPAN = timedelta(days=30)
_DAY = timedelta(days=1)


def compute_step_budget(grid: pl.Series, about: About, params: MonitorParams) -> float:
    """False alarms that are allowed in one step of *grid*, by the time that its steps take."""
    taken = grid[-1] - grid[0] if len(grid) > 1 else parse_step_length(about.every)
    return params.alarms_per_30_days * (taken / max(1, len(grid) - 1) / _BUDGET_SPAN)


def compute_drift(
    streams: pl.DataFrame,
    since: datetime,
    about: About,
    calendar: Calendar,
    params: MonitorParams,
    unwatched: Iterable[UnwatchedStream] = (),
) -> DriftFigures:
    """CUSUM over all streams.

    The reference is the data that the champion was fitted on; the data since then are watched.
    unwatched: streams that *streams* cannot hold.
    """
    names, times = streams.columns[1:], streams["event_time"]
    values = streams.select(names).to_numpy()
    start = int((streams.select(calendar.nominal_known_at()).to_series() <= since).sum())
    alarms_per_step = compute_step_budget(times, about, params)
    detector = fit_detector(
        values[:start],
        about.season_steps,
        max(1, round(_DAY / parse_step_length(about.every))),
        params.cusum_slack,
        alarms_per_step,
    )
    alarms = compute_alarms(detector, values[start:], start)
    reasons = _find_reasons(detector, alarms, values, start, times)
    absent = [*unwatched, *(UnwatchedStream(stream=names[i], reason=reasons[i]) for i in sorted(reasons))]
    ordered = sorted(
        _list_alarms(names, times, start, detector, alarms), key=lambda row: (-row.statistic, row.stream)
    )
    is_fitted = np.isfinite(detector.limit)
    n_alarmed = int((alarms.opened[is_fitted] >= 0).sum())
    n_watched = int(sum(is_fitted[i] and i not in reasons for i in range(len(names))))
    n_expected, n_by_luck = compute_chance_alarms(
        detector.scaled, detector.limit, detector.slack, alarms.n_blocks
    )
    return DriftFigures(
        reference_until=since,
        n_streams=n_watched,
        n_unwatched=len(absent),
        n_blocks=alarms.n_blocks,
        block_steps=detector.block_steps,
        season_steps=len(detector.season),
        alarms_per_30_days=params.alarms_per_30_days,
        n_expected=round(n_expected, 3),
        n_alarmed=n_alarmed,
        n_by_luck=n_by_luck,
        is_drifting=n_alarmed > n_by_luck,
        streams=tuple(ordered[:STREAMS_SHOWN]),
        unwatched=tuple(absent[:STREAMS_SHOWN]),
    )


def _list_alarms(
    names: list[str], times: pl.Series, start: int, detector: DriftDetector, alarms: DriftAlarms
) -> Iterable[StreamAlarm]:
    for i in np.flatnonzero(np.isfinite(detector.limit)):
        opened = int(alarms.opened[i])
        yield StreamAlarm(
            stream=names[i],
            statistic=round(float(alarms.statistic[i]), 3),
            limit=round(float(detector.limit[i]), 3),
            alarm_at=times[start + (opened + 1) * detector.block_steps - 1] if opened >= 0 else None,
        )


def _find_reasons(
    detector: DriftDetector, alarms: DriftAlarms, values: np.ndarray, start: int, times: pl.Series
) -> dict[int, str]:
    """Why a stream is not watched, by its position; the others are."""
    reference, current, block_steps = values[:start], values[start:], detector.block_steps
    n_known = detector.scaled.n_known
    tail = current[-SILENT_BLOCKS * block_steps :]
    reasons = {}
    for i in range(values.shape[1]):
        if not np.isfinite(reference[:, i]).any():
            reasons[i] = f"no value in the reference of {start} steps"
        elif not np.isfinite(detector.limit[i]):
            reasons[i] = (
                f"{n_known[i]} blocks of {block_steps} steps are known in the reference of {start} steps,"
                f" {MIN_BLOCKS} are needed"
            )
        elif alarms.n_blocks == 0:
            reasons[i] = f"{len(current)} steps since the reference, less than a block of {block_steps}"
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
