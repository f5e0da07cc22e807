"""Walking forward: cutoffs, folds, and which pairs of origin and step a fold may learn from.

Everything counts in positions on the dataset's grid. The origin of a cutoff is the last step whose value is nominally known by it.
A pair (origin t, step s) may be used at the cutoff with origin c iff y[t+s] was known by then: known_pos[t+s] <= c - embargo_steps.
That is the purge. A fold is a refit and the cutoffs it serves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from tasks.core.about import Strict
from tasks.core.calendar import Calendar
from tasks.core.errors import FoldError
from tasks.core.schema import FeatureSchema


class WalkForward(Strict):
    """How to walk.

    n_cutoffs: how many, counted back from the last usable origin. stride_steps: distance between them. refit_every_cutoffs: every k-th
    refits, in between the last fit predicts with its state moved on. window_steps: sliding window; None expands. min_train_steps:
    least history before the first cutoff. embargo_steps: distance on top of the purge.
    """

    n_cutoffs: Annotated[int, Field(ge=1)]
    stride_steps: Annotated[int, Field(ge=1)]
    refit_every_cutoffs: Annotated[int, Field(ge=1)]
    min_train_steps: Annotated[int, Field(ge=1)]
    embargo_steps: Annotated[int, Field(ge=0)] = 0
    window_steps: Annotated[int, Field(ge=1)] | None = None


class Fold(NamedTuple):
    """One refit as of the origin *fit_at* (grid position), and the origins (m,) it serves; *fit_at* is the first of them."""

    fit_at: int
    origins: np.ndarray


def plan_folds(n_steps: int, last_origin: int, horizon_steps: int, walk: WalkForward) -> list[Fold]:
    """Folds over a grid of *n_steps*, the last cutoff's origin at *last_origin* (usually the last position before the gate's rows).

    Raises FoldError when the first cutoff would have fewer than `min_train_steps` steps of usable history.
    """
    origins = last_origin - walk.stride_steps * np.arange(walk.n_cutoffs - 1, -1, -1)
    needed = walk.min_train_steps + horizon_steps + walk.embargo_steps
    if origins[0] + 1 < needed:
        fitting = (last_origin + 1 - needed) // walk.stride_steps + 1
        way_out = (
            f"Set `train.n_cutoffs` to at most {fitting}, or `train.min_train_steps` lower." if fitting > 0 else "Set `train.min_train_steps` lower."
        )
        raise FoldError(
            f"{walk.n_cutoffs} cutoffs every {walk.stride_steps} steps need {needed + (walk.n_cutoffs - 1) * walk.stride_steps} steps of history, "
            f"but there are {last_origin + 1} of {n_steps} before the gate's rows. {way_out}"
        )
    return [
        Fold(int(block[0]), block) for block in np.array_split(origins, np.arange(walk.refit_every_cutoffs, len(origins), walk.refit_every_cutoffs))
    ]


@dataclass(frozen=True)
class Panel:
    """The feature table as dense arrays, time first, so that a window is a slice and not a copy.

    T grid steps, S series, F features. x: (T, S, F) float32, NaN where unknown. y, z: (T, S) float64. known_pos: (T, S) the grid
    position of the first cutoff that knows y, T where never. event_time, cutoff: (T,) of each step and of the cutoff it is the origin of.
    """

    series_ids: tuple[str, ...]
    event_time: pl.Series
    cutoff: pl.Series
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    known_pos: np.ndarray
    schema: FeatureSchema

    def targets(self, start: int, stop: int, at: int | None = None, embargo_steps: int = 0) -> np.ndarray:
        """z of the horizon for origins start..stop-1: (stop-start, S, H) float32.

        With *at* the cutoff's origin, pairs that it may not use are NaN; without, everything there is.
        """
        n_steps, n_series = self.z.shape
        steps = self.schema.horizon_steps
        out = np.full((stop - start, n_series, steps), np.nan, dtype=np.float32)
        usable = self.z if at is None else np.where(self.known_pos <= at - embargo_steps, self.z, np.nan)
        for s in range(1, steps + 1):
            part = usable[start + s : min(stop + s, n_steps)]
            out[: len(part), :, s - 1] = part
        return out

    def training(self, at: int, walk: WalkForward) -> tuple[np.ndarray, np.ndarray]:
        """x (n, F) and z (n, H) that the cutoff with origin *at* may learn from; origins without last value or without any target are left out."""
        start = 0 if walk.window_steps is None else max(0, at + 1 - walk.window_steps)
        x = self.x[start : at + 1].reshape(-1, self.x.shape[2])
        z = self.targets(start, at + 1, at, walk.embargo_steps).reshape(len(x), -1)
        keep = np.isfinite(x[:, self.schema.index(self.schema.last)]) & np.isfinite(z).any(axis=1)
        return x[keep], z[keep]

    def at(self, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x (m, F) of all forecastable (origin, series) pairs, and their (m, 2) positions (origin, series)."""
        x = self.x[origins]
        keep = np.isfinite(x[:, :, self.schema.index(self.schema.last)])
        where = np.argwhere(keep)
        return x[keep], np.column_stack([origins[where[:, 0]], where[:, 1]])


def panel_of(features: pl.DataFrame, schema: FeatureSchema, calendar: Calendar) -> Panel:
    """Dense arrays from a feature table (schema FEATURES). Series that start late or end early are NaN outside their span."""
    times = features["event_time"].unique().sort()
    grid = calendar.grid(times[0], times[-1])
    ids = tuple(features["series_id"].unique().sort())
    cutoffs = pl.DataFrame({"event_time": grid}).select(calendar.nominal_known_at())["event_time"].alias("cutoff")
    row = grid.search_sorted(features["event_time"])
    rows, cols = row.to_numpy(), pl.Series(ids).search_sorted(features["series_id"]).to_numpy()
    shape = (len(grid), len(ids))

    def dense(values: np.ndarray, dtype: type, fill: float) -> np.ndarray:
        out: np.ndarray = np.full(shape + values.shape[1:], fill, dtype=dtype)
        out[rows, cols] = values
        return out

    known = cutoffs.search_sorted(features["known_at"], side="left").to_numpy()
    known = np.where(features["z"].is_null().to_numpy(), len(grid), known)
    x = features.select(pl.col(schema.names).fill_null(float("nan"))).to_numpy()
    return Panel(
        ids, grid, cutoffs, dense(x.astype(np.float32, copy=False), np.float32, np.nan),
        dense(features["y"].fill_null(float("nan")).to_numpy(), np.float64, np.nan),
        dense(features["z"].fill_null(float("nan")).to_numpy(), np.float64, np.nan),
        dense(known, np.int64, len(grid)), schema,
    )  # fmt: skip


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices that cover range(n), each at most *size* long: bounds the memory of a long prediction."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
