"""Which column is the time, and in which form."""

import re
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, OwnerAnswers
from tasks.ingest.wizard.inspect.times import TimeColumn, find_time_form, parse_time_column

_KNOWN_NAMES = r"known|publish|released|available|ingested|received_at|created|updated|inserted"


def find_time_column(
    tables: Sequence[FileTable], asked: OwnerAnswers, notes: ColumnRoles
) -> TimeColumn | None:
    """The column of time, or None when rows are steps.

    Raises SourceError when it is not there or two could be it.
    """
    first = tables[0]
    if asked.time is not None:
        return _find_asked_time(first, asked, notes)
    found = [t for name in first.frame.columns if (t := find_time_form(name, first.frame[name])) is not None]
    found = [t for t in found if t.name not in {asked.target, asked.series}]
    if len(found) > 1:
        found = _filter_known_at(first, found, asked, notes)
    if len(found) > 1:
        names = [t.name for t in found]
        raise SourceError(
            f"{first.path}: columns {names} could each be the time. Say which: `--time {names[0]}` or `--time"
            f" {names[1]}`."
        )
    if not found:
        return None
    notes.reasons["time_column"] = f"reads as {describe_time_form(found[0].form)}; the only column of time"
    return _resolve_time_form(first, found[0], asked, notes)


def _find_asked_time(first: FileTable, asked: OwnerAnswers, notes: ColumnRoles) -> TimeColumn | None:
    if asked.time == "none":
        return None
    if asked.time not in first.frame.columns:
        raise SourceError(
            f"`--time {asked.time}`: {first.path} has no such column, but {first.frame.columns[:12]}."
        )
    form = (
        TimeColumn(asked.time, asked.time_format)
        if asked.time_format
        else find_time_form(asked.time, first.frame[asked.time])
    )
    if form is None:
        raise SourceError(
            f"{first.row(0)}: {first.frame[asked.time][0]!r} in column {asked.time!r} reads as no time. Give"
            " `--time-format` with a strptime pattern."
        )
    notes.reasons["time_column"] = "as asked"
    return _resolve_time_form(first, form, asked, notes)


def _filter_known_at(
    first: FileTable, found: list[TimeColumn], asked: OwnerAnswers, notes: ColumnRoles
) -> list[TimeColumn]:
    """Take away a column that says when a row was known: its name says so, and it is never
    before the other.
    """
    late = [t for t in found if re.search(_KNOWN_NAMES, t.name.lower())]
    rest = [t for t in found if t not in late]
    if len(late) != 1 or len(rest) != 1:
        return found
    zone = asked.time_zone or "UTC"
    known, event = (parse_time_column(first, t, zone) for t in (late[0], rest[0]))
    if (known < event).any():
        return found
    notes.source["known_at_column"] = late[0].name
    notes.reasons["known_at_column"] = f"by its name, and never before {rest[0].name}"
    return rest


def _resolve_time_form(
    first: FileTable, time: TimeColumn, asked: OwnerAnswers, notes: ColumnRoles
) -> TimeColumn:
    if asked.time_format:
        return replace(time, form=asked.time_format, rivals=())
    if time.rivals:
        regular = {p: _compute_regularity(first, replace(time, form=p)) for p in (time.form, *time.rivals)}
        best, second = sorted(regular, key=lambda p: -regular[p])[:2]
        if regular[best] == regular[second]:
            raise SourceError(
                f"{first.row(0)}: {first.frame[time.name][0]!r} in column {time.name!r} reads as {best!r} and"
                f" as {second!r}. Say which: `--time-format '{best}'`."
            )
        notes.questions.append(
            f"Times are read as {best!r}, since they are then evenly spaced. If not, say --time-format."
        )
        return replace(time, form=best, rivals=())
    return time


def _compute_regularity(first: FileTable, time: TimeColumn) -> float:
    """Share of the commonest distance between successive times."""
    steps = parse_time_column(first, time, "UTC").unique().sort().diff().drop_nulls()
    return convert_to_float(steps.value_counts()["count"].max()) / max(1, len(steps)) if len(steps) else 0.0


def describe_time_form(form: str) -> str:
    """The form of a time in words."""
    return {
        "iso": "ISO 8601",
        "s": "seconds since 1970",
        "ms": "milliseconds since 1970",
        "us": "microseconds since 1970",
    }.get(form, form)


def add_time_fields(time: TimeColumn | None, asked: OwnerAnswers, notes: ColumnRoles) -> None:
    """Write the fields of the source that say how time is read."""
    if time is None:
        notes.source["time_column"] = None
        notes.reasons["time_column"] = (
            "no column reads as time, so rows are steps, and series are aligned at their last"
        )
        notes.questions.append(
            "No column reads as time: rows are taken as steps in the order of the file. If there is one, say"
            " --time and --time-format."
        )
        return
    notes.source["time_column"] = time.name
    notes.source["time_format"] = time.form
    if not time.zoned and time.form not in {"s", "ms", "us"}:
        notes.source["time_zone"] = asked.time_zone or "UTC"
        notes.reasons["time_zone"] = "as asked" if asked.time_zone else "the times name no zone"


def add_time(table: FileTable, time: TimeColumn | None, zone: str) -> pl.DataFrame:
    """The table with `event_time`. Raises SourceError for a row without a time."""
    source = pl.lit(table.name.removesuffix(".gz").rsplit(".", 1)[0]).alias("__stem")
    if time is None:
        return table.frame.with_row_index("event_time").with_columns(
            pl.col("event_time").cast(pl.Int64), source
        )
    when = parse_time_column(table, time, zone).alias("event_time")
    if len(lost := when.is_null().arg_true()):
        raise SourceError(
            f"{table.row(int(lost[0]))}: column {time.name!r} is empty ({len(lost)} such rows). Give the row"
            " its time, or remove it."
        )
    return table.frame.drop(time.name).with_columns(when, source)
