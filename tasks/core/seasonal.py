"""The seasonal naive's forecast and past error, as each forecast's cutoff knew them.

`mase` and `owa` are scaled by them. Both count in grid steps. A value counts for a cutoff once its
newest vintage is known there, so nothing later moves the scale.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.panel import Panel
from tasks.core.scores import SCALED_PRIMARY, ScalingErrors, compute_scaling_errors

Array = np.ndarray


@dataclass(frozen=True)
class Seasonal:
    """Values of all series on one grid.

    event_time: (T,).
    y, known_pos: (T, S), see `Panel`.
    season_steps: 1 compares with the step before.
    """

    event_time: pl.Series
    series_ids: tuple[str, ...]
    y: Array
    known_pos: Array
    season_steps: int

    @cached_property
    def scale(self) -> Array:
        """(T, S) mean |y - y a season before| over what the cutoff with this origin knows.

        NaN where there is nothing, or the mean is 0.
        Source: Hyndman & Koehler 2006, doi:10.1016/j.ijforecast.2006.03.001.
        """
        n_steps, n_series = self.y.shape
        m = self.season_steps
        total, n = np.zeros((n_steps + 1, n_series)), np.zeros((n_steps + 1, n_series))
        gap = np.abs(self.y[m:] - self.y[:-m])
        pos, series = np.nonzero(np.isfinite(gap))
        known = np.maximum(np.maximum(self.known_pos[m:], self.known_pos[:-m])[pos, series], pos + m)
        np.add.at(total, (known, series), gap[pos, series])
        np.add.at(n, (known, series), 1)
        total, n = total.cumsum(axis=0)[:n_steps], n.cumsum(axis=0)[:n_steps]
        return np.divide(total, n, out=np.full(total.shape, np.nan), where=(n > 0) & (total > 0))

    def naive(self, origin: Array, series: Array, step: Array) -> Array:
        """The newest value before the origin that is whole seasons before each step.

        NaN where the cutoff does not know it; indices broadcast.
        """
        back = origin + step - self.season_steps * -(-step // self.season_steps)
        pos = np.maximum(back, 0)
        return np.where((back >= 0) & (self.known_pos[pos, series] <= origin), self.y[pos, series], np.nan)

    def scaling_errors(self, y: Array, origin: Array, series: Array, step: Array) -> ScalingErrors:
        """Scaling errors of forecasts whose outcomes are *y*.

        origin, series, step: grid position, position of the series, step ahead; they broadcast to
          y's shape.
        """
        return compute_scaling_errors(
            y, self.naive(origin, series, step), np.broadcast_to(self.scale[origin, series], y.shape)
        )

    def scaling_errors_of_rows(self, rows: pl.DataFrame) -> ScalingErrors:
        """The scaling errors of rows with series_id, event_time, step and y; see `compare_rows`."""
        return compute_scaling_errors(rows["y"].fill_null(np.nan).to_numpy(), *self.compare_rows(rows))

    def compare_rows(self, rows: pl.DataFrame) -> tuple[Array, Array]:
        """The seasonal naive's forecast and the scale of rows with series_id, event_time and step.

        NaN for a series or a step that is not on this grid.
        """
        pos, series = (
            self.event_time.search_sorted(rows["event_time"]).to_numpy(),
            pl.Series(self.series_ids).search_sorted(rows["series_id"]).to_numpy(),
        )
        step = rows["step"].to_numpy()
        origin = pos.astype(np.int64) - step
        is_on_grid = (
            (pos < len(self.event_time))
            & (origin >= 0)
            & rows["series_id"].is_in(list(self.series_ids)).to_numpy()
        )
        origin, series = (np.where(is_on_grid, index, 0) for index in (origin, series))
        naive, scale = self.naive(origin, series, step), self.scale[origin, series]
        return np.where(is_on_grid, naive, np.nan), np.where(is_on_grid, scale, np.nan)


def build_seasonal_from_panel(panel: Panel) -> Seasonal | None:
    """None where the primary score needs none."""
    about = panel.dataset.about
    if about.primary_score not in SCALED_PRIMARY:
        return None
    return Seasonal(panel.event_time, panel.series_ids, panel.y, panel.known_pos, about.season_steps)


def build_seasonal_from_rows(rows: pl.DataFrame, about: About, calendar: Calendar) -> Seasonal | None:
    """From rows with series_id, event_time, known_at and y, one for each step that is known.

    None where the primary score needs none.
    """
    if about.primary_score not in SCALED_PRIMARY or rows.is_empty():
        return None
    times, ids = rows["event_time"].unique().sort(), rows["series_id"].unique().sort()
    grid = calendar.grid(times[0], times[-1])
    cutoff = pl.DataFrame({"event_time": grid}).select(calendar.nominal_known_at()).to_series()
    where = (
        grid.search_sorted(rows["event_time"]).to_numpy(),
        ids.search_sorted(rows["series_id"]).to_numpy(),
    )
    y, known_pos = (
        np.full((len(grid), len(ids)), np.nan),
        np.full((len(grid), len(ids)), len(grid), dtype=np.int64),
    )
    y[where] = rows["y"].fill_null(np.nan).to_numpy()
    known_pos[where] = cutoff.search_sorted(rows["known_at"]).to_numpy()
    return Seasonal(grid, tuple(ids), y, known_pos, about.season_steps)
