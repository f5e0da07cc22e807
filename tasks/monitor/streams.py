"""The values that are watched: a column for each value of each series, on the calendar's grid."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.frames import get_newest_known_at, select_as_of
from tasks.core.reports.monitor import UnwatchedStream
from tasks.features import add_target

_N_SHOWN = 40  # streams; a page with more is hard to read


def build_streams(rows: pl.DataFrame, about: About, calendar: Calendar) -> pl.DataFrame:
    """event_time and a column `<series>:<column>` for each series and value column.

    It is a float of numbers, NaN where missing, and a string of categories, null where missing.
    The target is a value column, too. Rows are on the calendar's grid. Steps that have not come
    yet, of covariates known ahead, are left out.
    """
    as_of = get_newest_known_at(rows)
    known = select_as_of(rows, as_of)
    newest = known.with_columns(add_target(known, about)["y"])
    has_come = (calendar.nominal_known_at() <= as_of) | pl.col("y").is_not_null()
    newest = newest.filter(pl.col("event_time") <= newest.filter(has_come)["event_time"].max())
    columns = [
        c
        for c in _list_value_columns(newest)
        if _is_watched(newest.schema[c]) and not (c == "y" and about.target.column in newest.columns)
    ]
    times = newest["event_time"].unique().sort()
    grid = calendar.grid(times[0], times[-1])
    ids = newest["series_id"].unique().sort()
    row, column = (
        grid.search_sorted(newest["event_time"]).to_numpy(),
        ids.search_sorted(newest["series_id"]).to_numpy(),
    )
    gridded: dict[str, np.ndarray | pl.Series] = {}
    for name in columns:
        is_number = _is_number(newest.schema[name])
        dense = np.full((len(grid), len(ids)), np.nan if is_number else None)
        values = newest[name].cast(pl.Float64 if is_number else pl.String)
        dense[row, column] = (values.fill_null(float("nan")) if is_number else values).to_numpy()
        shown = about.target.column if name == "y" else name
        for i, series in enumerate(ids):
            filled = dense[:, i] if is_number else pl.Series(dense[:, i].tolist(), dtype=pl.String)
            gridded[f"{series}:{shown}"] = filled
    return pl.DataFrame({"event_time": grid, **gridded})


def list_unwatched(rows: pl.DataFrame, expected: Sequence[str]) -> list[UnwatchedStream]:
    """The columns that `build_streams` leaves out.

    expected: columns of the rows that the champion was trained on.
    """
    missing = [
        UnwatchedStream(stream=f"*:{c}", reason=f"the rows have no column {c!r}, which the champion knows")
        for c in expected
        if c not in rows.columns
    ]
    return missing + [
        UnwatchedStream(stream=f"*:{c}", reason="it holds neither numbers nor categories")
        for c in _list_value_columns(rows)
        if not _is_watched(rows.schema[c])
    ]


def _list_value_columns(rows: pl.DataFrame) -> list[str]:
    return [c for c in rows.columns if c not in {"series_id", "event_time", "known_at"}]


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype in {pl.Boolean, pl.Null}


def _is_watched(dtype: pl.DataType) -> bool:
    return _is_number(dtype) or dtype in {pl.String, pl.Categorical, pl.Enum}


def select_shown_streams(streams: pl.DataFrame, since: datetime, sample: int) -> pl.DataFrame | None:
    """Streams of Evidently's page: at most 40.

    sample: rows on either side of *since*, spread over the whole span.
    Returns None when no stream has values on both sides.
    """
    is_after = pl.col("event_time") >= since
    before, after = streams.filter(~is_after), streams.filter(is_after)
    numbers = [c for c in streams.columns[1:] if streams.schema[c] == pl.Float64]
    names = [c for c in numbers if all(part[c].is_finite().any() for part in (before, after))]
    if not names:
        return None
    sampled = (part[:: max(1, -(-part.height // sample))] for part in (before, after))
    return pl.concat(sampled).select("event_time", *names[:_N_SHOWN])
