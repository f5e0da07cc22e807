"""The feature table as dense arrays, and which pairs of origin and step a fold may learn from.

A pair (origin t, step s) may be used at the cutoff with origin c if and only if y[t+s] was known by
then: known_pos[t+s] <= c - embargo_steps. That is the purge. Of a value that was corrected later,
the vintage known by then is used.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.blocks import split_blocks
from tasks.core.dataset import Dataset
from tasks.core.folds import WalkForward
from tasks.core.schema import FeatureSchema

_BLOCK_ROWS = 65_536  # rows of the table turned to an array at a time


class SupersededValues(NamedTuple):
    """Values that a later vintage replaced.

    pos, series: (n,) the step and the series of each.
    from_pos, until_pos: the cutoffs that know it have an origin in from_pos..until_pos-1.
    z: (n,), NaN where it was none.
    """

    pos: np.ndarray
    series: np.ndarray
    from_pos: np.ndarray
    until_pos: np.ndarray
    z: np.ndarray


_NONE = np.empty(0, dtype=np.int64)
NOTHING_SUPERSEDED = SupersededValues(_NONE, _NONE, _NONE, _NONE, np.empty(0))


@dataclass(frozen=True)
class Panel:
    """The feature table as dense arrays, time first, so that a window is a slice and not a copy.

    T grid steps, S series, F features.
    event_time, cutoff: (T,) of each step and of the cutoff that it is the origin of.
    x: (T, S, F) float32, NaN where unknown.
    y, z: (T, S) float64, the newest vintage.
    known_pos: (T, S) the grid position of the first cutoff that knows it, T where none does.
    superseded: what was known of corrected values before.
    """

    series_ids: tuple[str, ...]
    event_time: pl.Series
    cutoff: pl.Series
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    known_pos: np.ndarray
    dataset: Dataset
    superseded: SupersededValues = NOTHING_SUPERSEDED

    @property
    def schema(self) -> FeatureSchema:
        """The columns of x."""
        return self.dataset.schema

    @cached_property
    def centres(self) -> np.ndarray:
        """(S,) float64: what the levels in x and the targets of models are distances from."""
        return self.schema.get_centres(self.series_ids)

    def add_centres(self, z_hat: np.ndarray, series: np.ndarray) -> np.ndarray:
        """z in float64 of what a model says (n, H), or of targets, of these *series* (n,)."""
        if not self.centres.any():
            return z_hat
        return z_hat.astype(np.float64) + self.centres[series][:, None]

    def get_targets(
        self, start: int, stop: int, as_of_origin: int | None = None, embargo_steps: int = 0
    ) -> np.ndarray:
        """z of the horizon for origins start..stop-1, from the centres: (stop-start, S, H) float32.

        as_of_origin: of a cutoff: values are as that cutoff knew them, *embargo_steps* kept, and
          NaN where it did not. Without it, all that is known by now.
        """
        n_steps, n_series = self.z.shape
        steps = self.schema.horizon_steps
        out = np.full((stop - start, n_series, steps), np.nan, dtype=np.float32)
        ahead = slice(start, min(stop + steps, n_steps))
        known = (
            self.z[ahead] if as_of_origin is None else self._select_known(ahead, as_of_origin - embargo_steps)
        )
        if self.centres.any():
            known = known - self.centres
        for s in range(1, steps + 1):
            part = known[s : s + stop - start]
            out[: len(part), :, s - 1] = part
        return out

    def get_training_pairs(self, origin: int, walk: WalkForward) -> tuple[np.ndarray, np.ndarray]:
        """x (n, F) and z (n, H) that the cutoff with this origin may learn from.

        Origins without last value or without any target are left out.
        Read only: where no row between the first and the last is left out, x is a slice of the
        panel's.
        """
        start = 0 if walk.window_steps is None else max(0, origin + 1 - walk.window_steps)
        x = self.x[start : origin + 1].reshape(-1, self.x.shape[2])
        z = self.get_targets(start, origin + 1, origin, walk.embargo_steps).reshape(len(x), -1)
        keep = np.flatnonzero(
            np.isfinite(x[:, self.schema.index(self.schema.last)]) & np.isfinite(z).any(axis=1)
        )
        is_slice = len(keep) > 0 and keep[-1] + 1 - keep[0] == len(keep)
        rows = slice(keep[0], keep[-1] + 1) if is_slice else keep
        x, z = x[rows], z[rows]
        x.flags.writeable = False
        return x, z

    def _select_known(self, steps: slice, origin: int) -> np.ndarray:
        """z (n, S) of *steps* as the cutoff with this origin knew it, NaN where it did not."""
        z = np.where(self.known_pos[steps] <= origin, self.z[steps], np.nan)
        old = self.superseded
        held = (
            (old.from_pos <= origin)
            & (origin < old.until_pos)
            & (steps.start <= old.pos)
            & (old.pos < steps.stop)
        )
        z[old.pos[held] - steps.start, old.series[held]] = old.z[held]
        return z

    def get_inputs(self, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x (m, F) of the pairs (origin, series) that can be forecast, and (m, 2) positions."""
        x = self.x[origins]
        keep = np.isfinite(x[:, :, self.schema.index(self.schema.last)])
        positions = np.argwhere(keep)
        return x[keep], np.column_stack([origins[positions[:, 0]], positions[:, 1]])


def build_panel(features: pl.DataFrame, dataset: Dataset, vintages: pl.DataFrame | None = None) -> Panel:
    """Dense arrays from a feature table (FEATURES).

    Series that start late or end early are NaN outside their span.
    vintages: earlier ones of its values (VINTAGES); only learning needs them.
    """
    calendar, names = dataset.calendar, dataset.schema.names
    times = features["event_time"].unique().sort()
    grid = calendar.grid(times[0], times[-1])
    ids = tuple(features["series_id"].unique().sort())
    cutoffs = (
        pl.DataFrame({"event_time": grid}).select(calendar.nominal_known_at())["event_time"].alias("cutoff")
    )
    rows, cols = (
        index.search_sorted(features[c]).to_numpy()
        for index, c in ((grid, "event_time"), (pl.Series(ids), "series_id"))
    )
    shape = (len(grid), len(ids))

    def dense(values: np.ndarray, dtype: type, fill: float) -> np.ndarray:
        out: np.ndarray = np.full(shape, fill, dtype=dtype)
        out[rows, cols] = values
        return out

    known = cutoffs.search_sorted(features["known_at"], side="left").to_numpy()
    known = np.where(features["z"].is_null().to_numpy(), len(grid), known)
    x = np.full((*shape, len(names)), np.nan, dtype=np.float32)
    for part in split_blocks(features.height, _BLOCK_ROWS):
        values = features[part].select(pl.col(names).fill_null(float("nan"))).to_numpy()
        x[rows[part], cols[part]] = values
    return Panel(
        ids,
        grid,
        cutoffs,
        x,
        dense(features["y"].fill_null(float("nan")).to_numpy(), np.float64, np.nan),
        dense(features["z"].fill_null(float("nan")).to_numpy(), np.float64, np.nan),
        dense(known, np.int64, len(grid)),
        dataset,
        NOTHING_SUPERSEDED
        if vintages is None or vintages.is_empty()
        else _find_superseded(vintages, features, grid, cutoffs, pl.Series(ids)),
    )


def _find_superseded(
    vintages: pl.DataFrame, features: pl.DataFrame, grid: pl.Series, cutoffs: pl.Series, ids: pl.Series
) -> SupersededValues:
    """Each vintage is known until the next one of its step, the last until that of *features*."""
    step = ["series_id", "event_time"]
    newest = features.select(*step, "known_at", z=pl.lit(None, dtype=pl.Float64), old=False).join(
        vintages, on=step, how="semi"
    )
    timeline = pl.concat([vintages.select(*step, "known_at", "z", old=True), newest]).sort(*step, "known_at")
    old = timeline.with_columns(until=pl.col("known_at").shift(-1)).filter("old")
    return SupersededValues(
        grid.search_sorted(old["event_time"]).to_numpy().astype(np.int64),
        ids.search_sorted(old["series_id"]).to_numpy().astype(np.int64),
        cutoffs.search_sorted(old["known_at"]).to_numpy().astype(np.int64),
        cutoffs.search_sorted(old["until"]).to_numpy().astype(np.int64),
        old["z"].fill_null(float("nan")).to_numpy(),
    )
