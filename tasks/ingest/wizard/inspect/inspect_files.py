"""Inspecting files: which column has which role, and the series that follow from it."""

from collections.abc import Sequence

from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect.files import FileTable, build_link_names, find_files, read_table
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, InspectedFiles, OwnerAnswers
from tasks.ingest.wizard.inspect.layout import (
    add_column_names,
    build_from_row_series,
    build_from_value_columns,
    is_row_per_series,
)
from tasks.ingest.wizard.inspect.number_columns import convert_tables
from tasks.ingest.wizard.inspect.number_form import find_number_form
from tasks.ingest.wizard.inspect.time_column import find_time_column


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
    roles = ColumnRoles({"kind": "files", "format": answers.format})
    _add_text_fields(tables, answers, roles)
    tables = convert_tables(tables, find_number_form(tables, answers, roles), answers, roles)
    time = find_time_column(tables, answers, roles)
    if time is None and answers.every is not None:
        raise SourceError(
            f"`--every {answers.every}`: no column is the time, so rows are steps and have no length. Remove"
            " the option, or name the time with `--time` and `--time-format`."
        )
    if time is None and is_row_per_series(tables[0], answers):
        return build_from_row_series(tables, roles)
    tables, time = add_column_names(tables, time, answers, roles)
    if not tables[0].header:
        roles.source["columns"] = tables[0].frame.columns
    return build_from_value_columns(tables, time, answers, roles)


def _add_text_fields(tables: Sequence[FileTable], answers: OwnerAnswers, roles: ColumnRoles) -> None:
    """Set the fields of the source that say how text is read."""
    first = tables[0]
    roles.facts += [note for table in tables for note in table.cells.notes]
    if answers.format == "csv":
        roles.source |= {"header": first.header}
        roles.reasons["header"] = (
            "the first row names the columns" if first.header else "the first row holds values already"
        )
        if first.separator != ",":
            roles.source["separator"] = first.separator
    encodings = {table.encoding for table in tables}
    if len(encodings) > 1:
        raise SourceError(
            f"The files have different encodings: {sorted(encodings)}. Convert them to one, for example with"
            " `iconv -t UTF-8`."
        )
    if encodings != {"utf-8"}:
        roles.source["encoding"] = encodings.pop()
        roles.facts.append(f"The text is not UTF-8; it is read as {roles.source['encoding']}.")


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
