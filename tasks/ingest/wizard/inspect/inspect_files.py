"""Inspecting files: which column has which role, and the series that follow from it."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect.files import FileTable, build_link_names, find_files, read_table
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, InspectedFiles, OwnerAnswers
from tasks.ingest.wizard.inspect.layout import (
    add_bar_names,
    build_from_row_series,
    build_from_value_columns,
    is_row_per_series,
)
from tasks.ingest.wizard.inspect.time_column import find_time_column

NUMBER_FRAC = 0.9  # a column with this share of numbers was meant to be numbers, so the rest are faults


def inspect_files(asked: OwnerAnswers) -> InspectedFiles:
    """Read the files and say what they hold.

    Raises SourceError with file, row and the way out for what cannot be read.
    """
    files = find_files(asked.pattern)
    tables = [
        read_table(path, name, asked.format, asked.columns)
        for path, name in zip(files, build_link_names(files), strict=True)
    ]
    _check_same_columns(tables)
    tables = [_convert_types(table) for table in tables]
    notes = ColumnRoles({"kind": "files", "format": asked.format}, {}, [])
    if asked.format == "csv":
        notes.source |= {"header": tables[0].header}
        notes.reasons["header"] = (
            "the first row names the columns" if tables[0].header else "the first row holds values already"
        )
        if tables[0].separator != ",":
            notes.source["separator"] = tables[0].separator
    time = find_time_column(tables, asked, notes)
    if time is None and is_row_per_series(tables[0], asked):
        return build_from_row_series(tables, notes)
    tables = add_bar_names(tables, time, asked, notes)
    if not tables[0].header:
        notes.source["columns"] = tables[0].frame.columns
    return build_from_value_columns(tables, time, asked, notes)


def _check_same_columns(tables: Sequence[FileTable]) -> None:
    first = tables[0]
    for table in tables[1:]:
        if table.frame.columns != first.frame.columns:
            raise SourceError(
                f"{table.path} has columns {table.frame.columns[:8]}, {first.path} has"
                f" {first.frame.columns[:8]}. One dataset has one layout: give a narrower glob, or make two"
                " datasets."
            )


def _convert_types(table: FileTable) -> FileTable:
    return replace(table, frame=table.frame.select(_convert_column(table, c) for c in table.frame.columns))


def _convert_column(table: FileTable, name: str) -> pl.Series:
    """Numbers as float64, the rest as it came. Raises SourceError for text among numbers."""
    cells = table.frame[name]
    if cells.dtype.is_numeric() or cells.dtype == pl.Boolean:
        return cells.cast(pl.Float64)
    if cells.dtype != pl.String:
        return cells
    known = cells.len() - cells.null_count()
    numbers = cells.cast(pl.Float64, strict=False)
    odd = (numbers.is_null() & cells.is_not_null()).arg_true()
    if not len(odd):
        return numbers if known else cells.cast(pl.Float64)
    if len(odd) <= (1 - NUMBER_FRAC) * known:
        row = int(odd[0])
        raise SourceError(
            f"{table.row(row)}: {cells[row]!r} in column {name!r}, where {known - len(odd)} of {known} cells"
            f" are numbers ({len(odd)} are not). Mend the cell, or leave it empty when the value is unknown."
        )
    if cells.drop_nulls().head(50).str.contains(r"^[+-]?\d+,\d+$").all():
        raise SourceError(
            f"{table.row(0)}: column {name!r} has decimal commas, as in {cells.drop_nulls()[0]!r}. Write"
            " decimal points."
        )
    return cells
