"""Training and validation rows do not overlap: checked in the table's own times.

The walk itself counts in positions, so this is a second, independent look.
"""

import numpy as np
import polars as pl

from tasks.core.errors import LeakError
from tasks.core.folds import Fold, WalkForward
from tasks.core.leaks import LeakFinding
from tasks.core.panel import Panel

CHECKED_FOLDS = 8  # evenly over the walk, the first and the last among them


def check_overlap(
    features: pl.DataFrame,
    panel: Panel,
    folds: list[Fold],
    walk: WalkForward,
    vintages: pl.DataFrame | None = None,
) -> None:
    """Raise LeakError that names the first pair (origin, step) which a fold may not learn from."""
    if (found := find_overlap(features, panel, folds, walk, vintages)) is not None:
        raise LeakError(found.says)


def find_overlap(
    features: pl.DataFrame,
    panel: Panel,
    folds: list[Fold],
    walk: WalkForward,
    vintages: pl.DataFrame | None = None,
) -> LeakFinding | None:
    """The first pair that a fold would learn from before its cutoff, less the embargo, knew it.

    vintages: earlier ones of corrected values (VINTAGES); the newest of them that was known then
      may be learned in place of the correction.
    What a fold is scored on comes after its cutoff, so nothing that it learned from can be among
    it.
    """
    known = _build_known_at(features, panel)
    cutoff_us = panel.cutoff.to_physical().to_numpy()
    for k in np.unique(np.linspace(0, len(folds) - 1, min(len(folds), CHECKED_FOLDS)).astype(np.int64)):
        fit_at = folds[k].fit_at
        allowed = (
            cutoff_us[fit_at - walk.embargo_steps] if fit_at >= walk.embargo_steps else np.iinfo(np.int64).min
        )
        start = 0 if walk.window_steps is None else max(0, fit_at + 1 - walk.window_steps)
        targets, before = (
            panel.get_targets(start, fit_at + 1, fit_at, walk.embargo_steps),
            _build_values_before(vintages, panel, allowed),
        )
        learned = np.isfinite(targets)
        for s in range(1, learned.shape[2] + 1):
            n = max(0, min(len(learned), len(known) - start - s))
            early = (
                learned[:n, :, s - 1]
                & (known[start + s : start + s + n] > allowed)
                & (targets[:n, :, s - 1] != before[start + s : start + s + n])
            )
            if early.any():
                origin, series = np.argwhere(early)[0]
                return _build_finding(panel, fit_at, start + int(origin), int(series), s, known)
    return None


def _build_values_before(vintages: pl.DataFrame | None, panel: Panel, known_by_us: int) -> np.ndarray:
    """z (T, S) float32, from the centres, of corrected values as known at *known_by_us*.

    NaN where there was none.
    """
    z = np.full((len(panel.event_time), len(panel.series_ids)), np.nan, dtype=np.float32)
    if vintages is not None:
        # In order of known_at: of several the last assignment stays
        known = vintages.filter(pl.col("known_at").to_physical() <= known_by_us)
        step, series = _find_positions(known, panel)
        z[step, series] = known["z"].fill_null(float("nan")).to_numpy() - panel.centres[series]
    return z


def _find_positions(rows: pl.DataFrame, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    return (
        panel.event_time.search_sorted(rows["event_time"]).to_numpy(),
        pl.Series(panel.series_ids).search_sorted(rows["series_id"]).to_numpy(),
    )


def _build_known_at(features: pl.DataFrame, panel: Panel) -> np.ndarray:
    """When y was known, (T, S) microseconds; far future where it is not."""
    known = np.full((len(panel.event_time), len(panel.series_ids)), np.iinfo(np.int64).max)
    rows = features.filter(pl.col("z").is_not_null())
    known[_find_positions(rows, panel)] = rows["known_at"].to_physical().to_numpy()
    return known


def _build_finding(
    panel: Panel, fit_at: int, origin: int, series: int, step: int, known: np.ndarray
) -> LeakFinding:
    known_at = pl.Series([known[origin + step, series]]).cast(panel.cutoff.dtype)[0]
    return LeakFinding(
        rule="overlap",
        feature=panel.schema.last,
        series_id=panel.series_ids[series],
        cutoff=panel.cutoff[fit_at].isoformat(),
        says=f"The fold of the cutoff {panel.cutoff[fit_at]:%F %T}Z would learn from series "
        f"{panel.series_ids[series]!r}, origin {panel.event_time[origin]:%F %T}Z, step {step}: "
        f"its value of {panel.event_time[origin + step]:%F %T}Z was known at {known_at:%F %T}Z, after the "
        f"cutoff less its embargo. "
        "A fold learns from what its cutoff knew: raise `train.embargo_steps`, or rebuild the features.",
    )
