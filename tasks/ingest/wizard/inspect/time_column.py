"""Which column is the time, and in which form it is written."""

import re
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, OwnerAnswers
from tasks.ingest.wizard.inspect.times import TimeColumn, find_time_form, parse_time_column

_KNOWN_AT_NAMES = r"known|publish|released|available|ingested|received_at|created|updated|inserted"


def find_time_column(
    tables: Sequence[FileTable], answers: OwnerAnswers, roles: ColumnRoles
) -> TimeColumn | None:
    """The column of time, or None when rows are steps.

    Raises SourceError when the asked column is missing, or when several columns could be the time.
    """
    first = tables[0]
    if answers.time is not None:
        return _find_asked_column(first, answers, roles)
    times = [t for name in first.frame.columns if (t := find_time_form(name, first.frame[name])) is not None]
    times = [t for t in times if t.name not in {answers.target, answers.series}]
    if len(times) > 1:
        times = _remove_known_at(first, times, answers, roles)
    if len(times) > 1:
        names = [t.name for t in times]
        raise SourceError(
            f"{first.path}: columns {names} could each be the time. Give one: `--time {names[0]}` or `--time"
            f" {names[1]}`."
        )
    if not times:
        return None
    roles.reasons["time_column"] = f"reads as {describe_time_form(times[0].form)}; the only column of time"
    return _select_form(first, times[0], answers, roles)


def describe_time_form(form: str) -> str:
    """The form in words: `ms` is "milliseconds since 1970"."""
    return {
        "iso": "ISO 8601",
        "s": "seconds since 1970",
        "ms": "milliseconds since 1970",
        "us": "microseconds since 1970",
    }.get(form, form)


def add_time_fields(time: TimeColumn | None, answers: OwnerAnswers, roles: ColumnRoles) -> None:
    """Set the fields of the source that say how time is read."""
    if time is None:
        roles.source["time_column"] = None
        roles.reasons["time_column"] = (
            "no column reads as time, so rows are steps, and series are aligned at their last"
        )
        roles.questions.append(
            "No column reads as time: rows are taken as steps in the order of the file. If one is the time,"
            " give --time and --time-format."
        )
        return
    roles.source["time_column"] = time.name
    roles.source["time_format"] = time.form
    if not time.zoned and time.form not in {"s", "ms", "us"}:
        roles.source["time_zone"] = answers.time_zone or "UTC"
        roles.reasons["time_zone"] = "as asked" if answers.time_zone else "the times name no zone"


def add_time(table: FileTable, time: TimeColumn | None, zone: str) -> pl.DataFrame:
    """The table with `event_time`, and `__stem`, the file's name without its ending.

    Raises SourceError for a row without a time.
    """
    stem = pl.lit(table.name.removesuffix(".gz").rsplit(".", 1)[0]).alias("__stem")
    if time is None:
        return table.frame.with_row_index("event_time").with_columns(
            pl.col("event_time").cast(pl.Int64), stem
        )
    event_time = parse_time_column(table, time, zone).alias("event_time")
    if len(empty := event_time.is_null().arg_true()):
        raise SourceError(
            f"{table.format_row(int(empty[0]))}: column {time.name!r} is empty ({len(empty)} such rows). Give"
            " the row its time, or remove it."
        )
    return table.frame.drop(time.name).with_columns(event_time, stem)


def _find_asked_column(first: FileTable, answers: OwnerAnswers, roles: ColumnRoles) -> TimeColumn | None:
    """The column that `--time` names."""
    if answers.time is None or answers.time == "none":
        return None
    if answers.time not in first.frame.columns:
        raise SourceError(
            f"`--time {answers.time}`: {first.path} has no such column; it has {first.frame.columns[:12]}."
        )
    time = (
        TimeColumn(answers.time, answers.time_format)
        if answers.time_format
        else find_time_form(answers.time, first.frame[answers.time])
    )
    if time is None:
        raise SourceError(
            f"{first.format_row(0)}: {first.frame[answers.time][0]!r} in column {answers.time!r} reads as no"
            " time. Give `--time-format` with a strptime pattern."
        )
    roles.reasons["time_column"] = "as asked"
    return _select_form(first, time, answers, roles)


def _remove_known_at(
    first: FileTable, times: list[TimeColumn], answers: OwnerAnswers, roles: ColumnRoles
) -> list[TimeColumn]:
    """*times* without the column of knowledge times: by its name, and never before the other."""
    late = [t for t in times if re.search(_KNOWN_AT_NAMES, t.name.lower())]
    others = [t for t in times if t not in late]
    if len(late) != 1 or len(others) != 1:
        return times
    zone = answers.time_zone or "UTC"
    known_at, event_time = (parse_time_column(first, t, zone) for t in (late[0], others[0]))
    if (known_at < event_time).any():
        return times
    roles.source["known_at_column"] = late[0].name
    roles.reasons["known_at_column"] = f"by its name, and never before {others[0].name}"
    return others


def _select_form(first: FileTable, time: TimeColumn, answers: OwnerAnswers, roles: ColumnRoles) -> TimeColumn:
    """Of the forms that all cells have, the one in which the times are most evenly spaced."""
    if answers.time_format:
        return replace(time, form=answers.time_format, rivals=())
    if time.rivals:
        regularity = {p: _compute_regularity(first, replace(time, form=p)) for p in (time.form, *time.rivals)}
        best, second = sorted(regularity, key=lambda p: -regularity[p])[:2]
        if regularity[best] == regularity[second]:
            raise SourceError(
                f"{first.format_row(0)}: {first.frame[time.name][0]!r} in column {time.name!r} reads as"
                f" {best!r} and as {second!r}. Give one: `--time-format '{best}'`."
            )
        roles.questions.append(
            f"Times are read as {best!r}, since they are then evenly spaced. If not, give --time-format."
        )
        return replace(time, form=best, rivals=())
    return time


def _compute_regularity(first: FileTable, time: TimeColumn) -> float:
    """Share of the most frequent distance between successive times."""
    steps = parse_time_column(first, time, "UTC").unique().sort().diff().drop_nulls()
    return convert_to_float(steps.value_counts()["count"].max()) / max(1, len(steps)) if len(steps) else 0.0
