"""Aligning series to their calendar's grid, so that a lag is k steps back and never k rows."""

from datetime import datetime

import numpy as np
import polars as pl

from tasks.core.calendar import Calendar
from tasks.core.errors import CalendarError


def align_to_grid(rows: pl.DataFrame, calendar: Calendar, last_step: datetime | None = None) -> pl.DataFrame:
    """One row per series and grid step, sorted, with `is_gap`.

    rows: SERIES, not empty, in any order; of each (series_id, event_time) the latest vintage
    counts. A step without a row is a gap: its values are null and its `known_at` is the nominal
    one.
    last_step: where every series ends that does not end later; None: each at its last row.
    Raises CalendarError for the first row that is not on the grid.
    """
    start, end = get_time_span(rows)
    grid = calendar.grid(start, end if last_step is None else max(end, last_step))
    if _is_gridded(rows, grid, last_step):
        return rows.select(
            "series_id",
            "event_time",
            "known_at",
            pl.lit(value=False).alias("is_gap"),
            pl.exclude("series_id", "event_time", "known_at"),
        )
    ids = rows["series_id"].unique().sort()
    series = rows["series_id"].cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int64)
    step = find_grid_positions(rows, grid, calendar)

    first, last = np.full(len(ids), len(grid)), np.zeros(len(ids), dtype=np.int64)
    np.minimum.at(first, series, step)
    np.maximum.at(last, series, step)
    if last_step is not None:
        last = np.maximum(last, grid.search_sorted(last_step, side="right") - 1)
    lengths = last - first + 1
    offset = np.concatenate([[0], np.cumsum(lengths)])
    received = _find_latest(rows, offset[series] + step - first[series], int(offset[-1]))

    owner = np.repeat(np.arange(len(ids)), lengths)
    positions = np.arange(offset[-1]) - offset[owner] + first[owner]
    nominal = pl.DataFrame({"event_time": grid}).select("event_time", known_at=calendar.nominal_known_at())[
        positions
    ]
    values = rows.select(pl.all().exclude("series_id", "event_time").gather(received))
    return values.select(
        ids.gather(owner).alias("series_id"),
        nominal["event_time"],
        pl.col("known_at").fill_null(nominal["known_at"]),
        received.is_null().alias("is_gap"),
        pl.all().exclude("known_at"),
    )


def find_series_starts(series_id: pl.Series) -> np.ndarray:
    """Index of the first row of each series."""
    return np.append(0, np.flatnonzero((series_id[1:] != series_id[:-1]).to_numpy()) + 1)[: len(series_id)]


def _is_gridded(rows: pl.DataFrame, grid: pl.Series, last_step: datetime | None) -> bool:
    """Whether *rows* are aligned already: series in order, one row per step, up to *last_step*."""
    starts = find_series_starts(rows["series_id"])
    names = rows["series_id"].gather(starts)
    if not (names[:-1] < names[1:]).all():
        return False
    times, steps = rows["event_time"].to_physical().to_numpy(), grid.to_physical().to_numpy()
    stops = np.append(starts[1:], len(times))
    first = np.searchsorted(steps, times[starts])
    fits_grid = first + stops - starts <= len(steps)
    if not fits_grid.all() or (
        last_step is not None
        and (
            first + stops - starts
            != np.searchsorted(steps, times.dtype.type(_convert_to_us(last_step)), side="right")
        ).any()
    ):
        return False
    return all(
        np.array_equal(times[start:stop], steps[step : step + stop - start])
        for start, stop, step in zip(starts, stops, first, strict=True)
    )


def _convert_to_us(time: datetime) -> int:
    """Microseconds since 1970."""
    return int(pl.Series([time], dtype=pl.Datetime("us", "UTC")).to_physical()[0])


def get_time_span(rows: pl.DataFrame) -> tuple[datetime, datetime]:
    """First and last `event_time` of *rows*, which are not empty."""
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    return first, last


def find_grid_positions(rows: pl.DataFrame, grid: pl.Series, calendar: Calendar) -> np.ndarray:
    """Position of each row on *grid*. Raises CalendarError for the first row that is off it."""
    step = grid.search_sorted(rows["event_time"]).to_numpy().astype(np.int64)
    is_off = (
        (step >= len(grid))
        | (grid.gather(np.minimum(step, max(len(grid) - 1, 0))) != rows["event_time"]).to_numpy()
        if len(grid)
        else np.ones(len(step), bool)
    )
    if is_off.any():
        row = rows.row(int(np.flatnonzero(is_off)[0]), named=True)
        raise CalendarError(
            f"Series {row['series_id']!r} has a row at {row['event_time']:%F %T}Z, which is no step of"
            f" calendar {calendar.kind!r} every {calendar.every!r} ({int(is_off.sum())} such rows)."
            " Quarantine them in validate, or correct `about.calendar` and `about.every`."
        )
    return step


def _find_latest(rows: pl.DataFrame, positions: np.ndarray, n: int) -> pl.Series:
    """For each of *n* grid rows the index of its latest vintage in *rows*; null for a gap."""
    index = np.arange(len(positions))
    if np.bincount(positions, minlength=n).max() > 1:
        index = rows["known_at"].arg_sort().to_numpy().astype(np.int64)
    received = np.full(n, -1, dtype=np.int64)
    received[positions[index]] = index  # of several vintages the last assignment stays
    latest = pl.Series(received)
    return latest.set(latest < 0, None)
