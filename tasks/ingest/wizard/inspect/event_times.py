"""The times of the files' rows, read as ingest reads them, and the zone whose days they are."""

import re
from collections.abc import Sequence
from typing import Literal

import polars as pl

from tasks.core.frames import UTC
from tasks.ingest.tables import format_ids
from tasks.ingest.times import AS_WRITTEN, PER_SECOND, as_texts, is_date_step, join_cells, read_step_times
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, OwnerAnswers
from tasks.ingest.wizard.inspect.steps import find_every
from tasks.ingest.wizard.inspect.time_column import TimeColumn

TIME, STEM = "__time", "__stem"  # columns of the wizard's frame; files may have any other name
_ANY_STEP = "1s"  # while the length of a step is not known
_NOON = 12
# a zone in parentheses or brackets: MTU (CET), time [Europe/Berlin]; not a unit
_ZONE_IN_NAME = r"[(\[]((?:[A-Z]{2,4}T|MEZ|MESZ)(?:/[A-Z]{2,5})?|[A-Z][a-z]+/[A-Z]\w+)[)\]]"
_HOUR_24 = r"(?:^|[ T])24:?00|^\d{8}24(?:0000|00)?$"


def add_times(table: FileTable, time: TimeColumn | None, zone: str) -> pl.DataFrame:
    """The table's columns of values with TIME, and STEM, the file's name without its ending.

    Raises SourceError for a row without a time.
    """
    stem = pl.lit(table.name.removesuffix(".gz").rsplit(".", 1)[0]).alias(STEM)
    if time is None:
        return table.frame.with_row_index(TIME).with_columns(pl.col(TIME).cast(pl.Int64), stem)
    times = read_step_times(table.cells, time.columns, time.form, zone, every=time.every or _ANY_STEP)
    return table.frame.drop(time.columns).with_columns(times.event_time.alias(TIME), stem)


def find_zone(
    tables: Sequence[FileTable], time: TimeColumn | None, answers: OwnerAnswers, roles: ColumnRoles
) -> str:
    """The zone of the times: as asked, of the file's type, or the days that the cells show."""
    if time is None or answers.time_zone:
        return answers.time_zone or "UTC"
    first = tables[0].raw
    typed_zone = getattr(first[time.name].dtype, "time_zone", None)
    if typed_zone not in {None, "UTC"}:
        roles.reasons["time_zone"] = "the zone of the column's type"
        return str(typed_zone)
    is_moment = time.zoned or time.form in PER_SECOND
    if not is_moment:
        return "UTC"
    moments = read_step_times(tables[0].cells, time.columns, time.form, "UTC", every=_ANY_STEP).event_time
    steps = moments.unique().sort().diff().drop_nulls().dt.total_hours()
    if not len(steps) or float(steps.median() or 0) < 23:  # type: ignore[arg-type]
        return "UTC"
    written = read_step_times(tables[0].cells, time.columns, time.form, AS_WRITTEN, every="1d").event_time
    clocks = moments.dt.time().unique()
    if written.dt.time().n_unique() == 1 and (written != moments).any():
        roles.reasons["time_zone"] = "days as the cells show them, each with its own offset"
        roles.questions.append(
            "The times have offsets and no zone: days are those that the cells show. Give --time-zone, for"
            " example Europe/Berlin, so that later days end when the zone's clock changes."
        )
        return AS_WRITTEN
    hours = moments.dt.hour().unique().sort().to_list()
    is_shifted = len(hours) == 2 and hours[1] - hours[0] in {1, 23}
    if len(clocks) <= 2 and (is_shifted or (len(hours) == 1 and hours[0] >= _NOON)):
        day = moments[0]
        roles.unanswered.append(
            f"Each row of {time.name!r} is at {' or '.join(f'{h:02}' for h in hours)} h UTC, which may be the"
            f" midnight of a zone: {'; '.join(_show_days(moments))}. Give `--time-zone ZONE` (for example"
            f" Europe/Berlin) or `--time-zone UTC`. The first row is {day:%F %R} UTC."
        )
    return "UTC"


def describe_zone_question(time: TimeColumn | None) -> str:
    """What is assumed of times without a zone; a zone in the column's name is named."""
    if time is not None and (match := re.search(_ZONE_IN_NAME, time.name)):
        return (
            f"The cells of {time.name!r} name no zone, and its name says {match[1]}; UTC is assumed. Give"
            " --time-zone, for example Europe/Berlin, or Etc/GMT-1 for an hour before UTC all year."
        )
    return (
        "The times name no zone; UTC is assumed. If they are local, give --time-zone, for example"
        " Europe/Berlin."
    )


def _show_days(moments: pl.Series) -> list[str]:
    """Three rows as days of UTC, and of a zone in which they are midnights."""
    shown = []
    for moment in moments.head(3):
        later = pl.Series([moment], dtype=UTC).dt.offset_by(f"{24 - moment.hour}h" if moment.hour else "0h")[
            0
        ]
        shown.append(f"{moment:%F %R} is the day {moment:%F} (UTC) or {later:%F} (a zone's)")
    return shown


def find_stamps(
    tables: Sequence[FileTable], time: TimeColumn | None, answers: OwnerAnswers, roles: ColumnRoles
) -> Literal["hour_beginning", "hour_ending"]:
    """Whether times are the start of a step or its end: 24:00 is only ever an end."""
    if answers.stamps is not None or time is None:
        return answers.stamps or "hour_beginning"
    if time.form in PER_SECOND or tables[0].raw[time.name].dtype.is_temporal() or "%N" in time.form:
        return "hour_beginning"
    for table in tables:
        texts = as_texts(join_cells(table.raw, time.columns))
        late = texts.str.contains(_HOUR_24).fill_null(value=False)
        if "%H" not in time.form and time.form != "iso":
            continue
        if late.any():
            roles.source["stamps"] = "hour_ending"
            roles.reasons["stamps"] = (
                f"24:00 occurs ({table.format_row(int(late.arg_true()[0]))}), which is an end"
            )
            roles.facts.append("Times are the end of their step, since 24:00 occurs. If not, give --stamps.")
            return "hour_ending"
    return "hour_beginning"


def read_final_times(
    frame: pl.DataFrame,
    tables: Sequence[FileTable],
    time: TimeColumn,
    zone: str,
    series: str | None,
    answers: OwnerAnswers,
    stamps: Literal["hour_beginning", "hour_ending"],
) -> pl.DataFrame:
    """*frame* with TIME as ingest reads it once step, series, zone and stamps are known."""
    if zone == "UTC" and stamps == "hour_beginning":
        return frame
    ids = [
        format_ids(t.raw[series]) if series else pl.Series([t.name]).new_from_index(0, t.raw.height)
        for t in tables
    ]
    every = time.every or answers.every or _find_step(frame, ids)
    times = [
        read_step_times(
            t.cells, time.columns, time.form, zone, every=every, stamps=stamps, series=names
        ).event_time
        for t, names in zip(tables, ids, strict=True)
    ]
    return frame.with_columns(pl.concat(times).alias(TIME))


def _find_step(frame: pl.DataFrame, ids: list[pl.Series]) -> str:
    rows = frame.select(pl.concat(ids).alias("series_id"), pl.col(TIME).alias("event_time"))
    return find_every(rows.sort("series_id", "event_time"))[0]


def is_local_clock(frame: pl.DataFrame) -> bool:
    """Whether the times have an hour, so that it matters whose clock they show."""
    return bool((frame[TIME].dt.time().n_unique() > 1) or (frame[TIME].dt.hour() != 0).any())


__all__ = ["STEM", "TIME", "add_times", "find_stamps", "find_zone", "is_date_step", "read_final_times"]
