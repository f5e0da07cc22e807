"""Counts of rounded values by hour and weekday: a saved past that new values are compared with."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl

REFERENCE = "reference.parquet"  # in a release's folder
_SHIFT = 14  # bits of a float32 that are cut off: values within .2 % are one
_N_BINS = 10
_N_QUANTILES = 200
_LEAST_SHARE = 1e-4  # of a bin, so that an empty one has a logarithm
_MASK = np.int32(0x7FFFFFFF)


class Sketch(NamedTuple):
    """Sorted by phase, then key.

    phase: (M,) of the week, see `compute_phases`.
    key: (M,) rounded value, in the order of the values.
    n: (M,) how many.
    """

    phase: np.ndarray
    key: np.ndarray
    n: np.ndarray


class Shift(NamedTuple):
    """How far values are from a sketch, compared within each hour and weekday.

    psi: population stability index over the sketch's deciles, or its categories.
    js: Jensen-Shannon distance over the same, 0 to 1.
    wasserstein: mean distance of the quantiles in standard deviations of the sketch.
    """

    psi: float
    js: float
    wasserstein: float


def compute_phases(times: pl.Series) -> np.ndarray:
    """(T,) hour of the week, UTC; steps of a day and longer differ by the weekday alone."""
    return ((times.dt.weekday().cast(pl.Int32) - 1) * 24 + times.dt.hour().cast(pl.Int32)).to_numpy()


def build_sketch(values: np.ndarray, phases: np.ndarray) -> Sketch:
    """Of *values* (T,) in *phases* (T,); missing and infinite ones are left out."""
    is_known = np.isfinite(values)
    phases, keys = phases[is_known], _compute_keys(values[is_known])
    both = (phases.astype(np.int64) << 32) + (keys.astype(np.int64) + (1 << 31))
    unique, n = np.unique(both, return_counts=True)
    return Sketch((unique >> 32).astype(np.int32), ((unique & 0xFFFFFFFF) - (1 << 31)).astype(np.int32), n)


def compare_values(
    sketch: Sketch, values: np.ndarray, phases: np.ndarray, *, is_category: bool = False
) -> Shift | None:
    """How far *values* (T,) are from *sketch*; None where no hour and weekday is in both.

    is_category: whether values are codes of categories.
    """
    is_known = np.isfinite(values)
    if not is_known.all():
        values, phases = values[is_known], phases[is_known]
    size = int(max(sketch.phase.max(initial=0), phases.max(initial=0))) + 1
    before = np.bincount(sketch.phase, sketch.n, size)
    now = np.bincount(phases, minlength=size) * (before > 0)
    if not now.any():
        return None
    if now.sum() < len(values):
        values = values[(before > 0)[phases]]
    keys = _compute_keys(values)
    lowest = int(min(sketch.key.min(), keys.min()))
    size = int(max(sketch.key.max(), keys.max())) - lowest + 1
    weight = sketch.n * (now / np.maximum(before, 1))[sketch.phase]
    past, present = (
        share / share.sum()
        for share in (np.bincount(sketch.key - lowest, weight, size), np.bincount(keys - lowest, None, size))
    )
    grid = np.flatnonzero((past > 0) | (present > 0))
    past, present, support = past[grid], present[grid], _compute_values(grid + lowest)
    then, since = np.cumsum(past), np.cumsum(present)
    p, q = past, present
    if not is_category:
        edges = np.unique(_find_rows(then, np.arange(1, _N_BINS) / _N_BINS))
        p, q = (np.diff(cumulated[edges], prepend=0, append=1) for cumulated in (then, since))
    middle = (np.arange(_N_QUANTILES) + 0.5) / _N_QUANTILES
    apart = np.abs(support[_find_rows(then, middle)] - support[_find_rows(since, middle)])
    mean = float(past @ support)
    sd = float(np.sqrt(past @ np.square(support - mean)))
    least_sd = 1e-9 * (1 + abs(mean))
    return Shift(_compute_psi(p, q), _compute_js(p, q), float(apart.mean()) / max(sd, least_sd))


def build_reference(rows: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    """Sketches of each series and column as a frame: series_id, column, phase, key, n.

    rows: SERIES, one vintage of each step.
    """
    frames = []
    for (series,), part in rows.sort("series_id").group_by("series_id", maintain_order=True):
        phases = compute_phases(part["event_time"])
        for column in columns:
            values = part[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            named = (pl.lit(series).alias("series_id"), pl.lit(column).alias("column"), pl.all())
            frames.append(pl.DataFrame(build_sketch(values, phases)._asdict()).select(*named))
    return pl.concat(frames)


def parse_reference(frame: pl.DataFrame) -> dict[str, Sketch]:
    """By `<series>:<column>`."""
    return {
        f"{series}:{column}": Sketch(*(rows[name].to_numpy() for name in Sketch._fields))
        for (series, column), rows in frame.group_by("series_id", "column", maintain_order=True)
    }


def _compute_keys(values: np.ndarray) -> np.ndarray:
    """Float32 bits as whole numbers in the order of the values, the last bits cut off."""
    with np.errstate(over="ignore"):
        bits = (values.astype(np.float32) + np.float32(0)).view(np.int32)  # -0 is 0
    out: np.ndarray = np.where(bits < 0, bits ^ _MASK, bits) >> _SHIFT
    return out


def _compute_values(keys: np.ndarray) -> np.ndarray:
    """The middle of each key's values."""
    bits = (keys.astype(np.int32) << _SHIFT) + np.int32(1 << (_SHIFT - 1))
    values = np.where(bits < 0, bits ^ _MASK, bits).astype(np.int32).view(np.float32).astype(np.float64)
    out: np.ndarray = np.where(keys == 0, 0.0, np.nan_to_num(values))
    return out


def _find_rows(cumulated: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return np.minimum(len(cumulated) - 1, np.searchsorted(cumulated, shares))


def _compute_psi(p: np.ndarray, q: np.ndarray) -> float:
    p, q = (np.maximum(share, _LEAST_SHARE) for share in (p, q))
    return float(((q - p) * np.log(q / p)).sum())


def _compute_js(p: np.ndarray, q: np.ndarray) -> float:
    middle = (p + q) / 2
    terms = [share[share > 0] * np.log2(share[share > 0] / middle[share > 0]) for share in (p, q)]
    return float(np.sqrt(max(0.0, sum(float(t.sum()) for t in terms) / 2)))
