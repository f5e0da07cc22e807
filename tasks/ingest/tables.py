"""From a file's cells to rows of series."""

import difflib
import re
from collections.abc import Iterable

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import SourceError
from tasks.core.frames import UTC
from tasks.ingest.cells import NULLS, FileCells
from tasks.ingest.params import FilesSource
from tasks.ingest.times import parse_times

STEP = "step"  # the column before event_time, where rows are steps


def build_file_rows(cells: FileCells, source: FilesSource, about: About, calendar: Calendar) -> pl.DataFrame:
    """Rows of one file in its order: series_id, event_time and known_at (or STEP), float64 values.

    `wide` and `row_per_series` give a row per cell; in `row_per_series` the empty cells before a
    series starts and after it ends are padding, not rows.
    Raises SourceError for a missing column, and with row and column for a cell that is no number.
    """
    _check_columns(
        cells, [source.time_column, source.series_column, source.known_at_column, *source.value_columns]
    )
    if source.layout == "row_per_series":
        return _build_series_rows(cells, source)
    keys = _build_keys(cells, source, about, calendar)
    values = pl.DataFrame([_parse_numbers(cells, column) for column in source.value_columns])
    if source.layout == "long":
        return keys.hstack(values)
    unpivoted = (
        keys.drop("series_id")
        .hstack(values)
        .unpivot(
            source.value_columns,
            index=keys.columns[1:],
            variable_name="series_id",
            value_name=source.value_name,
        )
    )
    return unpivoted.select("series_id", *keys.columns[1:], source.value_name)


def _check_columns(cells: FileCells, columns: Iterable[str | None]) -> None:
    for column in columns:
        if column is not None and column not in cells.frame.columns:
            close = difflib.get_close_matches(column, cells.frame.columns, n=3)
            raise SourceError(
                f"{cells.name} has no column {column!r}{f'; close are {close}' if close else ''}. It has"
                f" {cells.frame.columns[:12]}. Correct the dataset's `ingest.source`."
            )


def _build_keys(cells: FileCells, source: FilesSource, about: About, calendar: Calendar) -> pl.DataFrame:
    series = _build_series_column(cells, source)
    if source.time_column is None:
        return pl.DataFrame([series]).with_columns(
            pl.int_range(pl.len(), dtype=pl.Int64).over("series_id").alias(STEP)
        )
    dates = about.every.rstrip("0123456789")[-1:] in {"d", "w", "q", "y"} or about.every.endswith("mo")
    times = parse_times(
        cells, source.time_column, source.time_format, source.time_zone, dates=dates, series=series
    )
    times = times.dt.truncate(about.every) if source.snap_times else times
    keys = pl.DataFrame([series, times.alias("event_time")]).with_columns(
        calendar.nominal_known_at().cast(UTC).alias("known_at")
    )
    if source.known_at_column is None:
        return keys
    return keys.with_columns(
        parse_times(cells, source.known_at_column, source.time_format, source.time_zone, dates=False).alias(
            "known_at"
        )
    )


def _build_series_column(cells: FileCells, source: FilesSource) -> pl.Series:
    if source.series_column is None:
        return pl.Series(
            "series_id", [parse_series_of_file(cells.name, source)] * cells.frame.height, dtype=pl.String
        )
    series = cells.frame[source.series_column].cast(pl.String).alias("series_id")
    if series.null_count():
        raise SourceError(
            f"{cells.format_cell(int(series.is_null().arg_true()[0]), source.series_column)}: no series in"
            f" {series.null_count()} rows. Correct or remove them."
        )
    return series


def parse_series_of_file(name: str, source: FilesSource) -> str:
    """The series of the file *name*: the group of `series_pattern`, its stem, or the constant."""
    if source.series_pattern is not None:
        match = re.search(source.series_pattern, name)
        if match is None:
            raise SourceError(
                f"The file name {name!r} does not match `series_pattern` {source.series_pattern!r}. Correct"
                " the pattern, or remove the file."
            )
        return match[1]
    return (
        name.removesuffix(".gz").rsplit(".", 1)[0] if source.series_from == "file_stem" else source.series_id
    )


def _parse_numbers(cells: FileCells, column: str) -> pl.Series:
    """The column as float64. Raises SourceError for a cell that is no number."""
    values = cells.frame[column]
    if values.dtype == pl.String:
        values = values.set(values.is_in(sorted(NULLS)), None)
    numbers = (
        values.cast(pl.Float64, strict=False)
        if values.dtype.is_numeric() or values.dtype in {pl.String, pl.Boolean, pl.Null}
        else values.clear(len(values)).cast(pl.Float64)
    )
    bad = (numbers.is_null() & values.is_not_null()).arg_true()
    if len(bad):
        cell = values[int(bad[0])]
        way_out = (
            "Write it without thousands separators, with a decimal point"
            if any(c.isdigit() for c in str(cell))
            else "Correct the cell, leave it empty"
        )
        raise SourceError(
            f"{cells.format_cell(int(bad[0]), column)}: {cell!r} is not a number ({len(bad)} such cells)."
            f" {way_out}, or remove the column from `value_columns`."
        )
    return numbers.fill_nan(None)


def _build_series_rows(cells: FileCells, source: FilesSource) -> pl.DataFrame:
    columns = list(source.value_columns) or [c for c in cells.frame.columns if c != source.series_column]
    if source.series_column is not None:
        ids = _build_series_column(cells, source)
    else:
        name = parse_series_of_file(cells.name, source)
        ids = pl.Series(
            "series_id",
            [name if cells.frame.height == 1 else f"{name}_{i}" for i in range(1, cells.frame.height + 1)],
        )
    if ids.is_duplicated().any():
        raise SourceError(
            f"{cells.name}: series {ids.filter(ids.is_duplicated())[0]!r} has several rows. In layout"
            " `row_per_series` each series has one."
        )
    order = pl.int_range(pl.len(), dtype=pl.Int64)
    wide = pl.DataFrame([ids, *(_parse_numbers(cells, column) for column in columns)]).with_columns(
        order.alias("_row")
    )
    unpivoted = wide.unpivot(columns, index=["_row", "series_id"], value_name=source.value_name).with_columns(
        order.over("_row").alias(STEP)
    )
    known = pl.col(STEP).filter(pl.col(source.value_name).is_not_null())
    is_inside = pl.col(STEP).is_between(known.min().over("_row"), known.max().over("_row"))
    return unpivoted.filter(is_inside).sort("_row", STEP).select("series_id", STEP, source.value_name)
