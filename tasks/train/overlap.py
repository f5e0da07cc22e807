"""Training and validation rows are held apart: looked up once more in the table's own times, not in the positions that the walk counts in."""

import numpy as np
import polars as pl

from tasks.core.errors import LeakError
from tasks.core.leaks import Finding
from tasks.core.windows import Fold, Panel, WalkForward

CHECKED_FOLDS = 8  # evenly over the walk, the first and the last among them


def refuse_overlap(features: pl.DataFrame, panel: Panel, folds: list[Fold], walk: WalkForward, vintages: pl.DataFrame | None = None) -> None:
    """Raise LeakError that names the first pair (origin, step) which a fold may not learn from."""
    if (found := find_overlap(features, panel, folds, walk, vintages)) is not None:
        raise LeakError(found.says)


def find_overlap(features: pl.DataFrame, panel: Panel, folds: list[Fold], walk: WalkForward, vintages: pl.DataFrame | None = None) -> Finding | None:
    """The first pair that a fold would learn from before its cutoff, less the embargo, knew what came true, in any vintage.

    What a fold is scored on comes after its cutoff, so nothing that it learned from can be among it.
    """
    known = _known_at(features, panel, vintages)
    cutoff_us = panel.cutoff.to_physical().to_numpy()
    for k in np.unique(np.linspace(0, len(folds) - 1, min(len(folds), CHECKED_FOLDS)).astype(np.int64)):
        at = folds[k].fit_at
        allowed = cutoff_us[at - walk.embargo_steps] if at >= walk.embargo_steps else np.iinfo(np.int64).min
        start = 0 if walk.window_steps is None else max(0, at + 1 - walk.window_steps)
        learned = np.isfinite(panel.targets(start, at + 1, at, walk.embargo_steps))
        for s in range(1, learned.shape[2] + 1):
            n = max(0, min(len(learned), len(known) - start - s))
            early = learned[:n, :, s - 1] & (known[start + s : start + s + n] > allowed)
            if early.any():
                origin, series = np.argwhere(early)[0]
                return _finding(panel, at, start + int(origin), int(series), s, known)
    return None


def _known_at(features: pl.DataFrame, panel: Panel, vintages: pl.DataFrame | None) -> np.ndarray:
    """When y was first known, (T, S) microseconds; far future where it is not."""
    known = np.full((len(panel.event_time), len(panel.series_ids)), np.iinfo(np.int64).max)
    for frame in (features, vintages):
        if frame is None:
            continue
        there = frame.filter(pl.col("z").is_not_null())
        place = (
            panel.event_time.search_sorted(there["event_time"]).to_numpy(),
            pl.Series(panel.series_ids).search_sorted(there["series_id"]).to_numpy(),
        )
        np.minimum.at(known, place, there["known_at"].to_physical().to_numpy())
    return known


def _finding(panel: Panel, at: int, origin: int, series: int, step: int, known: np.ndarray) -> Finding:
    when = pl.Series([known[origin + step, series]]).cast(panel.cutoff.dtype)[0]
    return Finding(
        rule="overlap", feature=panel.schema.last, series_id=panel.series_ids[series], cutoff=panel.cutoff[at].isoformat(),
        says=f"The fold of the cutoff {panel.cutoff[at]:%F %T}Z would learn from series {panel.series_ids[series]!r}, origin {panel.event_time[origin]:%F %T}Z, step {step}: "
        f"its value of {panel.event_time[origin + step]:%F %T}Z was known at {when:%F %T}Z, after the cutoff less its embargo. "
        "A fold learns from what its cutoff knew: raise `train.embargo_steps`, or rebuild the features.",
    )  # fmt: skip
