"""Of an alarm: by how much, since when, its effect on the loss, what to look at."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.reports.monitor import LevelPoint, StreamAlarm
from tasks.core.sketch import Sketch, build_sketch, compare_values, compute_phases
from tasks.monitor.drift import DriftAlarms, DriftDetector
from tasks.monitor.signals import (
    DETECTORS,
    LEVEL,
    SPREAD,
    Whitening,
    compute_nanmean,
    find_limits,
    repeat_season,
    transform_values,
)

CHARTS_SHOWN = 6  # alarms with points
_POINTS_SHOWN = 200
_MIN_LOSSES = 10  # on either side
_ADVICE = {
    "level": "compare the source with another one; if the change is real and the loss is higher, train again",
    "spread": "look for noise or rounding at the source; intervals that do not follow are in the coverage",
    "missing": "look at the source, and at data/quarantine for the rule that takes the values",
    "range": "look for a change of unit or of coding at the source, then at the contract under `validate`",
    "zeros": "look whether the source writes 0 for a missing value",
    "joint": "look which streams no longer move together: plot these against each other",
}


class WatchedData(NamedTuple):
    """What the streams are.

    names: of values, or the one name of all streams of numbers together.
    times: of the grid.
    values: (T, N + C) the categories last; none of all together.
    start: rows of the reference.
    n_numbers: N.
    losses, sketches: see `DriftInput`.
    """

    names: list[str]
    times: pl.Series
    values: np.ndarray
    start: int
    n_numbers: int
    losses: pl.DataFrame | None
    sketches: Mapping[str, Sketch]


def build_alarms(
    detector: DriftDetector, alarms: DriftAlarms, figures: np.ndarray, data: WatchedData, n_shown: int
) -> tuple[tuple[float, StreamAlarm], ...]:
    """A row for each stream that has limits, the largest statistic over its limit first.

    figures: (B, K, N + C) of the blocks since the reference.
    Returns that size with each.
    """
    is_fitted = np.isfinite(detector.limit[LEVEL])
    excess = np.nan_to_num(alarms.statistic / detector.limit + (alarms.opened >= 0))
    size, worst = excess.max(axis=0), excess.argmax(axis=0)
    for i in np.flatnonzero((alarms.opened >= 0).any(axis=0)):
        worst[i] = _find_main_detector(detector, alarms, figures[:, :, i], int(i))
    ordered = sorted(np.flatnonzero(is_fitted), key=lambda i: (-size[i], data.names[i]))
    phases = compute_phases(data.times)
    return tuple(
        (float(size[i]), _build_alarm(detector, alarms, figures, data, phases, int(i), int(worst[i]), rank))
        for rank, i in enumerate(ordered[:n_shown])
    )


def select_alarms(found: Iterable[tuple[float, StreamAlarm]], n_shown: int) -> tuple[StreamAlarm, ...]:
    """Of several `build_alarms` the first *n_shown*."""
    ordered = [alarm for _, alarm in sorted(found, key=lambda row: (-row[0], row[1].stream))]
    charted, others = ordered[:CHARTS_SHOWN], ordered[CHARTS_SHOWN:n_shown]
    return (*charted, *(alarm.model_copy(update={"points": ()}) for alarm in others))


def _find_main_detector(
    detector: DriftDetector, alarms: DriftAlarms, figures: np.ndarray, stream: int
) -> int:
    """Of the open ones a share, since values that are absent or wrong move the others, too.

    Without one, the one that deviates most.
    """
    opened = np.flatnonzero(alarms.opened[:, stream] >= 0)
    shares = opened[opened > SPREAD]
    candidates = shares if len(shares) else opened
    first = alarms.since[candidates, stream].max()
    z = (figures[first:] - detector.scaled.mean[:, stream]) / detector.scaled.sd[:, stream]
    return int(candidates[np.abs(compute_nanmean(z[:, candidates])).argmax()])


def _build_alarm(
    detector: DriftDetector,
    alarms: DriftAlarms,
    figures: np.ndarray,
    data: WatchedData,
    phases: np.ndarray,
    stream: int,
    kind: int,
    rank: int,
) -> StreamAlarm:
    opened, steps, name = int(alarms.opened[kind, stream]), detector.block_steps, data.names[stream]
    is_open = opened >= 0
    first_block = int(alarms.since[kind, stream]) if is_open else 0
    first_row = data.start + first_block * steps
    found = StreamAlarm(
        stream=name,
        detector=DETECTORS[kind],  # type: ignore[arg-type]
        statistic=round(float(alarms.statistic[kind, stream]), 3),
        limit=round(float(detector.limit[kind, stream]), 3),
        alarm_at=data.times[data.start + (opened + 1) * steps - 1] if is_open else None,
        since=data.times[first_row] if is_open else None,
    )
    changes = _compute_change(detector, figures, data, stream, kind, first_block)
    if stream < data.values.shape[1]:
        changes |= _compute_distances(data, phases, stream, first_row)
    if is_open:
        is_joint = stream == data.values.shape[1]
        also = [DETECTORS[k] for k in np.flatnonzero(alarms.opened[:, stream] >= 0) if k != kind]
        changes["also"] = tuple(also)
        changes["advice"] = _ADVICE["joint" if is_joint else DETECTORS[kind]]
        changes["loss_ratio"] = _compute_loss_ratio(data, name.split(":")[0], first_row)
        if rank < CHARTS_SHOWN:
            changes["points"] = _build_points(detector, figures, data, stream, kind)
    return found.model_copy(update=changes)


def _compute_change(
    detector: DriftDetector, figures: np.ndarray, data: WatchedData, stream: int, kind: int, first_block: int
) -> dict[str, object]:
    """The figure before and since, in its own unit."""
    is_category = data.n_numbers <= stream < data.values.shape[1]
    if kind == LEVEL and stream < data.n_numbers:
        return _compute_level_change(detector, data, stream, data.start + first_block * detector.block_steps)
    if kind == LEVEL and is_category:
        return {}
    before = float(detector.scaled.mean[kind, stream])
    now = float(compute_nanmean(figures[first_block:, kind, stream]))
    if stream == data.values.shape[1]:
        before, now = float(np.exp(before)), float(np.exp(now))
    return {"before": _round(before), "now": _round(now)}


def _compute_level_change(
    detector: DriftDetector, data: WatchedData, stream: int, first_row: int
) -> dict[str, object]:
    whitening = Whitening(*(field[..., stream : stream + 1] for field in detector.whitening))
    rest = transform_values(whitening, data.values[:, stream : stream + 1])
    rest = (rest - repeat_season(whitening.season, len(rest), 0))[:, 0]
    past = np.clip(rest[: data.start], *np.nanquantile(rest[: data.start], [0.01, 0.99]))
    shift, sd = float(compute_nanmean(rest[first_row:])), float(np.nanstd(past))
    reference, (low, high) = data.values[: data.start, stream], find_limits(whitening)
    before = float(np.mean(reference[(reference >= low) & (reference <= high)]))
    now = before * float(np.exp(shift)) if whitening.is_log[0] else before + shift
    size = shift / sd if sd > whitening.least_sd[0] else None
    return {"before": _round(before), "now": _round(now), "size_sd": _round(size)}


def _compute_distances(
    data: WatchedData, phases: np.ndarray, stream: int, first_row: int
) -> dict[str, object]:
    is_category = stream >= data.n_numbers
    past = data.sketches.get(data.names[stream])
    if past is None or is_category:
        past = build_sketch(data.values[: data.start, stream], phases[: data.start])
    shift = compare_values(past, data.values[first_row:, stream], phases[first_row:], is_category=is_category)
    if shift is None:
        return {}
    found: dict[str, object] = {"psi": _round(shift.psi), "js": _round(shift.js)}
    return found if is_category else found | {"wasserstein_sd": _round(shift.wasserstein)}


def _compute_loss_ratio(data: WatchedData, series: str, first_row: int) -> float | None:
    """Loss of the series since the row over its loss before; of all series for `*`."""
    if data.losses is None:
        return None
    losses = data.losses if series == "*" else data.losses.filter(pl.col("series_id") == series)
    losses = losses.sort("series_id", "event_time")
    is_since = (losses["event_time"] >= data.times[first_row]).to_numpy()
    values = losses["loss"].to_numpy()
    if min(is_since.sum(), (~is_since).sum()) < _MIN_LOSSES or not (before := values[~is_since].mean()):
        return None
    return _round(float(values[is_since].mean() / before))


def _build_points(
    detector: DriftDetector, figures: np.ndarray, data: WatchedData, stream: int, kind: int
) -> tuple[LevelPoint, ...]:
    """The blocks since the reference: of a level the means of the values, of others the figure."""
    steps = detector.block_steps
    times = data.times[data.start :][steps - 1 :: steps]
    if kind == LEVEL and stream < data.n_numbers:
        values = data.values[data.start : data.start + len(times) * steps, stream].reshape(-1, steps)
        shown = compute_nanmean(np.where(np.isfinite(values), values, np.nan).T)
    else:
        shown = figures[:, kind, stream]
        shown = np.exp(shown) if stream == data.values.shape[1] else shown
    pairs = [
        LevelPoint(event_time=t, value=float(f"{v:.6g}"))
        for t, v in zip(times, shown, strict=True)
        if np.isfinite(v)
    ]
    return tuple(pairs[-_POINTS_SHOWN:])


def _round(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")
