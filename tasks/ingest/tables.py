"""From a file's cells to rows of series."""

import difflib
import re
from collections.abc import Iterable
from datetime import timedelta

import polars as pl
import polars.selectors as cs

from tasks.core.about import About
from tasks.core.calendar import Calendar, format_step_multiple
from tasks.core.errors import SourceError
from tasks.core.frames import UTC
from tasks.ingest.cells import FileCells
from tasks.ingest.numbers import NumberForm, is_empty, parse_numbers
from tasks.ingest.params import FilesSource
from tasks.ingest.times import get_zone_lag_s, is_date_step, parse_times, read_step_times

STEP = "__step"  # the column before event_time, where rows are steps
READ_AT = "__read_at"  # the time of a row before it is moved to the start of its step


def build_file_rows(
    cells: FileCells, source: FilesSource, about: About, calendar: Calendar
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Rows of one file in its order: series_id, event_time and known_at (or STEP), values.

    Values are float64, or text where `about.columns` says so.

    `wide` and `row_per_series` give a row per cell; in `row_per_series` the empty cells before a
    series starts and after it ends are padding, not rows.
    Returns the rows, and notes of what became of the file's rows.
    Raises SourceError for a missing column, and with row and column for a cell that is no number.
    """
    _check_columns(
        cells,
        [
            source.time_column,
            *source.time_parts,
            source.series_column,
            source.known_at_column,
            *source.value_columns,
        ],
    )
    if source.layout == "row_per_series":
        return _build_series_rows(cells, source, about), cells.notes
    keys = _build_keys(cells, source, about, calendar)
    values = pl.DataFrame([_read_values(cells, column, source, about) for column in source.value_columns])
    if source.layout == "long":
        rows = keys.hstack(values.rename(source.rename, strict=False))
        rows, notes = aggregate_rows(rows, source)
        rows = add_rows_known_ahead(rows, source, about, calendar)
        return rows, (*cells.notes, *(f"{cells.name}: {note}" for note in notes))
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
    rows, notes = aggregate_rows(unpivoted.select("series_id", *keys.columns[1:], source.value_name), source)
    return rows, (*cells.notes, *(f"{cells.name}: {note}" for note in notes))


def get_number_form(source: FilesSource) -> NumberForm:
    """How the files write numbers."""
    return NumberForm(source.decimal, source.thousands, source.affixes, source.missing)


def aggregate_rows(rows: pl.DataFrame, source: FilesSource) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """One row per series and step, if the source says how; and a note if rows became fewer.

    Of texts, the last one of a step is kept.
    """
    if source.aggregate is None or STEP in rows.columns:
        return rows.drop(READ_AT, strict=False), ()
    ordered = rows.sort("series_id", READ_AT, maintain_order=True)
    numbers = cs.float()
    texts = cs.string() - cs.by_name("series_id")
    known = numbers.drop_nulls()
    value = {"mean": numbers.mean(), "sum": known.sum(), "last": known.last()}[source.aggregate]
    steps = (
        ordered.group_by("series_id", "event_time", maintain_order=True)
        .agg(
            pl.col("known_at").max(),
            pl.when(numbers.count() > 0).then(value),
            texts.drop_nulls().last(),
        )
        .select(c for c in rows.columns if c != READ_AT)
    )
    if steps.height == rows.height:
        return steps, ()
    note = f"{rows.height:,} rows are aggregated to {steps.height:,} steps by their {source.aggregate}"
    return steps, (note,)


def add_rows_known_ahead(
    rows: pl.DataFrame, source: FilesSource, about: About, calendar: Calendar
) -> pl.DataFrame:
    """*rows*, and before each one the values of its columns that were known ahead.

    A row after the last target of its series has only those: its step is still to come.
    """
    ahead = [source.rename.get(c, c) for c in source.known_ahead_columns]
    if not ahead or STEP in rows.columns:
        return rows
    others = [c for c in rows.columns if c not in {"series_id", "event_time", "known_at", *ahead}]
    has_value = pl.any_horizontal(pl.col(others).is_not_null())
    last = pl.col("event_time").filter(has_value).max()
    rows = rows.with_columns(
        __is_past=(pl.col("event_time") <= last.over("series_id")).fill_null(value=False)
    )
    newest = rows.filter("__is_past")["known_at"].max()
    # a calendar with closed days has fewer steps than days
    n_steps = source.known_ahead_steps * (1 if calendar.kind == "continuous" else 2) + (
        0 if calendar.kind == "continuous" else 4
    )
    earlier = pl.col("known_at").dt.offset_by(f"-{format_step_multiple(about.every, n_steps)}")
    known_ahead = rows.with_columns(
        pl.when(earlier < newest).then(earlier).otherwise(pl.lit(newest)).alias("known_at"),
        *(pl.lit(None, rows.schema[c]).alias(c) for c in others),
    )
    return pl.concat([known_ahead, rows.filter("__is_past")]).drop("__is_past")


def _check_columns(cells: FileCells, columns: Iterable[str | None]) -> None:
    for column in columns:
        if column is not None and column not in cells.frame.columns:
            close = difflib.get_close_matches(column, cells.frame.columns, n=3)
            raise SourceError(
                f"{cells.name} has no column {column!r}{f'; close are {close}' if close else ''}. It has"
                f" {cells.frame.columns[:12]}. Correct the dataset's `ingest.source`."
            )


def _build_keys(cells: FileCells, source: FilesSource, about: About, calendar: Calendar) -> pl.DataFrame:
    series = build_series_column(cells, source)
    if source.time_column is None:
        return pl.DataFrame([series]).with_columns(
            pl.int_range(pl.len(), dtype=pl.Int64).over("series_id").alias(STEP)
        )
    steps = read_step_times(
        cells,
        (source.time_column, *source.time_parts),
        source.time_format,
        source.time_zone,
        every=about.every,
        stamps=source.stamps,
        snap=source.snap_times or source.aggregate is not None,
        series=series,
    )
    lag_s = get_zone_lag_s(steps.event_time, source.time_zone) if is_date_step(about.every) else 0.0
    # the delay covers the hours by which local days end later than those of the grid
    delay = timedelta(seconds=max(0.0, calendar.publish_delay_s - lag_s))
    keys = pl.DataFrame([series, steps.event_time, (steps.end + delay).cast(UTC).alias("known_at")])
    if source.aggregate is not None:
        keys = keys.with_columns(steps.read_at.alias(READ_AT))
    if source.known_at_column is None:
        return keys
    return keys.with_columns(
        parse_times(cells, source.known_at_column, source.time_format, source.time_zone).alias("known_at")
    )


def build_series_column(cells: FileCells, source: FilesSource) -> pl.Series:
    """The series of each row, as text. Raises SourceError for a row without one."""
    if source.series_column is None:
        name = parse_series_of_file(cells.name, source)
        return pl.Series("series_id", [name], dtype=pl.String).new_from_index(0, cells.frame.height)
    series = format_ids(cells.frame[source.series_column]).alias("series_id")
    if series.null_count():
        raise SourceError(
            f"{cells.format_cell(int(series.is_null().arg_true()[0]), source.series_column)}: no series in"
            f" {series.null_count()} rows. Correct or remove them."
        )
    return series


def format_ids(cells: pl.Series) -> pl.Series:
    """Cells as names: text as it is, whole numbers without a decimal point."""
    if cells.dtype.is_float():
        whole = cells.cast(pl.Int64, strict=False)
        cells = whole if bool((whole.cast(cells.dtype) == cells).fill_null(value=True).all()) else cells
    return cells.cast(pl.String)


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


def _read_values(cells: FileCells, column: str, source: FilesSource, about: About) -> pl.Series:
    """The column as `about.columns` declares it, under its name there. Text is as in the file."""
    name = source.rename.get(column, column) if source.layout == "long" else source.value_name
    if about.get_column_type(name) == "float":
        return _read_numbers(cells, column, get_number_form(source))
    texts = format_ids(cells.frame[column])
    return texts.set(texts.str.strip_chars() == "", None)


def _read_numbers(cells: FileCells, column: str, form: NumberForm) -> pl.Series:
    """The column as float64. Raises SourceError for a cell that is no number."""
    values = cells.frame[column]
    numbers = parse_numbers(values, form)
    if numbers.null_count() == values.null_count():
        return numbers
    is_unread = numbers.is_null() & ~is_empty(values)
    if form.missing or values.dtype.is_float():  # a value that means missing was read
        plain = parse_numbers(values, form._replace(missing=()))
        is_unread &= plain.is_null() & ~_is_nan(values)
    bad = is_unread.arg_true()
    if len(bad):
        cell = values[int(bad[0])]
        way_out = (
            "Write it without thousands separators, with a decimal point, or set `ingest.source.decimal`,"
            " `thousands` and `affixes` (`tidemill new` finds them)"
            if any(c.isdigit() for c in str(cell))
            else "Correct the cell, leave it empty"
        )
        raise SourceError(
            f"{cells.format_cell(int(bad[0]), column)}: {cell!r} is not a number ({len(bad)} such cells)."
            f" {way_out}, or remove the column from `value_columns`."
        )
    return numbers


def _is_nan(values: pl.Series) -> pl.Series:
    if values.dtype.is_float():
        return values.is_nan().fill_null(value=False)
    return pl.Series([False]).new_from_index(0, len(values))


def _build_series_rows(cells: FileCells, source: FilesSource, about: About) -> pl.DataFrame:
    columns = list(source.value_columns) or [c for c in cells.frame.columns if c != source.series_column]
    if source.series_column is not None:
        ids = build_series_column(cells, source)
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
    wide = pl.DataFrame(
        [ids, *(_read_values(cells, column, source, about) for column in columns)]
    ).with_columns(order.alias("_row"))
    unpivoted = wide.unpivot(columns, index=["_row", "series_id"], value_name=source.value_name).with_columns(
        order.over("_row").alias(STEP)
    )
    known = pl.col(STEP).filter(pl.col(source.value_name).is_not_null())
    is_inside = pl.col(STEP).is_between(known.min().over("_row"), known.max().over("_row"))
    return unpivoted.filter(is_inside).sort("_row", STEP).select("series_id", STEP, source.value_name)
