"""Inspecting files: which column has which role, and the series that follow from it."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect.files import FileTable, build_link_names, find_files, read_table
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, InspectedFiles, OwnerAnswers
from tasks.ingest.wizard.inspect.layout import (
    add_column_names,
    build_from_row_series,
    build_from_value_columns,
    is_row_per_series,
)
from tasks.ingest.wizard.inspect.time_column import find_time_column

MIN_NUMBER_FRAC = 0.9  # a column with more numbers is a column of numbers, and the rest are faults


def inspect_files(answers: OwnerAnswers) -> InspectedFiles:
    """Read the files and find out what they hold.

    Raises SourceError for what cannot be read, with file, row and the way out.
    """
    files = find_files(answers.pattern)
    tables = [
        read_table(path, name, answers.format, answers.columns)
        for path, name in zip(files, build_link_names(files), strict=True)
    ]
    _check_same_columns(tables)
    tables = [_convert_types(table) for table in tables]
    roles = ColumnRoles({"kind": "files", "format": answers.format}, {}, [])
    if answers.format == "csv":
        roles.source |= {"header": tables[0].header}
        roles.reasons["header"] = (
            "the first row names the columns" if tables[0].header else "the first row holds values already"
        )
        if tables[0].separator != ",":
            roles.source["separator"] = tables[0].separator
    time = find_time_column(tables, answers, roles)
    if time is None and is_row_per_series(tables[0], answers):
        return build_from_row_series(tables, roles)
    tables = add_column_names(tables, time, answers, roles)
    if not tables[0].header:
        roles.source["columns"] = tables[0].frame.columns
    return build_from_value_columns(tables, time, answers, roles)


def _check_same_columns(tables: Sequence[FileTable]) -> None:
    """Raises SourceError unless all files have the same columns."""
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
    """Numbers as float64, the rest as read. Raises SourceError for text among numbers."""
    cells = table.frame[name]
    if cells.dtype.is_numeric() or cells.dtype == pl.Boolean:
        return cells.cast(pl.Float64)
    if cells.dtype != pl.String:
        return cells
    n_known = cells.len() - cells.null_count()
    numbers = cells.cast(pl.Float64, strict=False)
    text_rows = (numbers.is_null() & cells.is_not_null()).arg_true()
    if not len(text_rows):
        return numbers if n_known else cells.cast(pl.Float64)
    if len(text_rows) <= (1 - MIN_NUMBER_FRAC) * n_known:
        row = int(text_rows[0])
        raise SourceError(
            f"{table.format_row(row)}: {cells[row]!r} in column {name!r}, where {n_known - len(text_rows)} of"
            f" {n_known} cells are numbers ({len(text_rows)} are not). Correct the cell, or leave it empty if"
            " the value is unknown."
        )
    if cells.drop_nulls().head(50).str.contains(r"^[+-]?\d+,\d+$").all():
        raise SourceError(
            f"{table.format_row(0)}: column {name!r} has decimal commas, as in {cells.drop_nulls()[0]!r}."
            " Write decimal points."
        )
    return cells
