"""The values that are watched: a column for each value of each series, on the calendar's grid."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.frames import SERIES, select_as_of
from tasks.core.reports.monitor import UnwatchedStream
from tasks.features import add_target
from tasks.monitor.rows import RowsSpan

MAX_SHOWN = 40  # streams; a page with more is hard to read


def build_streams(
    rows: pl.DataFrame, about: About, span: RowsSpan, grid: pl.Series, series_ids: Sequence[str]
) -> pl.DataFrame:
    """event_time and a column `<series>:<column>` for each of *series_ids* and each value column.

    It is a float of numbers, NaN where missing, and a string of categories, null where missing.
    The target is a value column, too. Rows are on the calendar's grid. Steps that have not come
    yet, of covariates known ahead, are left out.
    grid: the calendar's steps of the *span*.
    """
    known = select_as_of(rows, span.newest_known_at).filter(pl.col("event_time") <= span.last)
    newest = known.with_columns(add_target(known, about)["y"])
    columns = [
        c
        for c in _list_value_columns(newest.columns)
        if _is_watched(newest.schema[c]) and not (c == "y" and about.target.column in newest.columns)
    ]
    ids = pl.Series(series_ids)
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


def list_unwatched(schema: pl.Schema, expected: Sequence[str]) -> list[UnwatchedStream]:
    """The columns that `build_streams` leaves out.

    schema: of the rows.
    expected: columns of the rows that the champion was trained on.
    """
    missing = [
        UnwatchedStream(stream=f"*:{c}", reason=f"the rows have no column {c!r}, which the champion knows")
        for c in expected
        if c not in schema
    ]
    return missing + [
        UnwatchedStream(stream=f"*:{c}", reason="it holds neither numbers nor categories")
        for c in _list_value_columns(schema)
        if not _is_watched(schema[c])
    ]


def _list_value_columns(names: Iterable[str]) -> list[str]:
    return [c for c in names if c not in SERIES.key]


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype in {pl.Boolean, pl.Null}


def _is_watched(dtype: pl.DataType) -> bool:
    return _is_number(dtype) or dtype in {pl.String, pl.Categorical, pl.Enum}


def select_shown_streams(streams: pl.DataFrame, since: datetime, sample: int) -> pl.DataFrame:
    """Streams of Evidently's page: those of numbers with values on both sides, at most 40.

    sample: rows on either side of *since*, spread over the whole span.
    """
    is_after = pl.col("event_time") >= since
    before, after = streams.filter(~is_after), streams.filter(is_after)
    numbers = [c for c in streams.columns[1:] if streams.schema[c] == pl.Float64]
    names = [c for c in numbers if all(part[c].is_finite().any() for part in (before, after))]
    sampled = (part[:: max(1, -(-part.height // sample))] for part in (before, after))
    shown = pl.concat(sampled).select("event_time", *names[:MAX_SHOWN])
    return shown.rechunk()  # a part would keep all rows in memory


def join_groups(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Frames of different streams at the same times as one, in the order of `sort_names`."""
    if not frames:
        return pl.DataFrame()
    joined = pl.concat([frames[0], *(frame.drop("event_time") for frame in frames[1:])], how="horizontal")
    return joined.select("event_time", *sort_names(joined.columns[1:]))


def sort_names(names: Iterable[str]) -> list[str]:
    """Names of streams by their column, in the order of the first ones; within one as they come."""
    columns: dict[str, list[str]] = {}
    for name in names:
        columns.setdefault(name.partition(":")[2], []).append(name)
    return [name for of_column in columns.values() for name in of_column]
