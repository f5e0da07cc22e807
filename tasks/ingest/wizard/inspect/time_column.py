"""Which columns are the time, and in which form they are written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.forms import FIRST_YEAR, has_clock
from tasks.ingest.times import EXCEL, PER_SECOND, as_texts, join_cells, read_written
from tasks.ingest.wizard.inspect.figures import convert_to_float, convert_to_int
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, OwnerAnswers
from tasks.ingest.wizard.inspect.time_forms import NEAR_SCORE, TIME_NAMES, TimeReading, find_readings

_KNOWN_AT_NAMES = r"known|publish|released|available|ingested|received_at|created|updated|inserted"
_SURE_NAMES = (
    r"^(date|time|timestamp|datetime|date_?time|ds|datum|zeit|zeitstempel|fecha|when|day|month|week)$"
)
_LOOKS_LIKE_TIME = r"^\D{0,12}\d{1,4}[-/.: ]+(?:\d{1,2}|[^\W\d_]{3,9})[-/.: ]+\d{1,4}"
_CLOCK = r"^\d{1,2}(?::|\.|h)\d{2}(?:[:.]\d{2}(?:\.\d+)?)?(?:\s*[AaPp]\.?[Mm]\.?)?$"
_HOUR_NAMES = (
    r"(^|[_ ])(hour|hr|hrs|he|hour ?ending|hourending|stunde|heure|hora|hh|time|sp|settlement[_ ]?period"
    r"|period|interval|mtu|quarter_?hour)($|[_ ])"
)
_PART_NAMES = {
    "%Y": r"^(year|yr|yyyy|jahr|annee|année|anno|ano|año)$",
    "%q": r"^(quarter|qtr|q|quartal)$",
    "%m": r"^(month|mon|mo|mm|monat|mois|mes|mese)$",
    "%V": r"^(week|wk|isoweek|iso_week|kw|woche)$",
    "%d": r"^(day|dd|dom|mday|day_of_month|tag|jour|dia|día|giorno)$",
    "%H": r"^(hour|hr|hh|stunde|heure|hora|ora)$",
    "%M": r"^(minute|min|minuten?)$",
}
_STEPS_OF_DAY = {"1h": (23, 25), "30m": (46, 50), "15m": (92, 100)}
MAX_DISTINCT_FRAC = 0.6  # dates of which more are distinct need no second column


@dataclass(frozen=True)
class TimeColumn:
    """The columns that are the time, and how they are read.

    parts: columns that complete *name*.
    form: as in the source's `time_format`.
    zoned: whether the cells name an offset.
    every: the step, where the columns number the steps of a day.
    """

    name: str
    form: str
    zoned: bool = False
    parts: tuple[str, ...] = ()
    every: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the time."""
        return (self.name, *self.parts)


def find_time_column(
    tables: Sequence[FileTable], answers: OwnerAnswers, roles: ColumnRoles
) -> TimeColumn | None:
    """The columns of time, or None when rows are steps.

    Raises SourceError when the asked column is missing, when several columns could be the time, or
    when a column looks like times that cannot be read.
    """
    first = tables[0]
    if answers.time is not None:
        return _find_asked_column(first, answers, roles)
    if (time := _find_parts(first)) is not None:
        roles.reasons["time_column"] = f"{', '.join(time.columns)} together, read as {time.form}"
        return time
    readings = _list_readings(first, answers)
    if len(readings) > 1:
        readings = _remove_digits(first, readings)
    if len(readings) > 1:
        readings = _remove_known_at(readings, roles)
    if len(readings) > 1:
        names = list(readings)
        raise SourceError(
            f"{first.path}: columns {names} could each be the time. Give one: `--time {names[0]}` or `--time"
            f" {names[1]}`."
        )
    if not readings:
        _check_nothing_looks_like_time(first, answers)
        return None
    name, found = next(iter(readings.items()))
    roles.reasons["time_column"] = f"reads as {describe_time_form(found[0].form)}; the only column of time"
    form = _select_form(first, name, found, answers, roles)
    read = next((reading.local for reading in found if reading.form == form), None)
    return _add_clock_column(first, TimeColumn(name, form, zoned=found[0].zoned), roles, read)


def describe_time_form(form: str) -> str:
    """The form in words: `ms` is "milliseconds since 1970"."""
    return {
        "iso": "ISO 8601",
        "s": "seconds since 1970",
        "ms": "milliseconds since 1970",
        "us": "microseconds since 1970",
        "ns": "nanoseconds since 1970",
        EXCEL: "serial days of a spreadsheet",
    }.get(form, form)


def add_time_fields(time: TimeColumn | None, zone: str, answers: OwnerAnswers, roles: ColumnRoles) -> None:
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
    if time.parts:
        roles.source["time_parts"] = list(time.parts)
    roles.source["time_format"] = time.form
    if answers.time_zone or zone != "UTC" or not (time.zoned or time.form in PER_SECOND):
        roles.source["time_zone"] = zone
        roles.reasons.setdefault("time_zone", "as asked" if answers.time_zone else "the times name no zone")
    if answers.stamps:
        roles.source["stamps"] = answers.stamps
        roles.reasons["stamps"] = "as asked"


def _list_readings(first: FileTable, answers: OwnerAnswers) -> dict[str, list[TimeReading]]:
    """Column -> its readings, of each column that reads as time."""
    return {
        name: readings
        for i, name in enumerate(first.raw.columns)
        if name not in {answers.target, answers.series}
        and not _is_too_small(first.frame[name])
        and (readings := find_readings(first.raw[name], name, is_first=i == 0))
    }


def _is_too_small(cells: pl.Series) -> bool:
    """Whether a column of numbers has one below every time that is written in digits alone."""
    return cells.dtype == pl.Float64 and not convert_to_float(cells.min()) >= FIRST_YEAR


def _remove_digits(first: FileTable, readings: dict[str, list[TimeReading]]) -> dict[str, list[TimeReading]]:
    """Columns of dates as text win over plain numbers, a column with a clock over its dates."""
    texts = {
        name: found
        for name, found in readings.items()
        if first.raw[name].dtype.is_temporal() or first.frame[name].dtype == pl.String
    }
    left = texts or readings
    if len(left) > 1 and not texts:  # of numbers the ones whose name is a time's, then the first
        named = {n: r for n, r in left.items() if re.search(TIME_NAMES, n.lower())}
        left = named or dict([next(iter(left.items()))])
    fine = {n: r for n, r in left.items() if r[0].local.dt.time().n_unique() > 1}
    for name, found in list(left.items()):
        days = found[0].local.dt.date()
        if name not in fine and any((r[0].local.dt.date() == days).all() for r in fine.values()):
            left = {n: r for n, r in left.items() if n != name}
    return left


def _find_asked_column(first: FileTable, answers: OwnerAnswers, roles: ColumnRoles) -> TimeColumn | None:
    """The columns that `--time` names."""
    if answers.time is None or answers.time == "none":
        return None
    names = [answers.time] if answers.time in first.raw.columns else answers.time.split(",")
    names = [n.strip() for n in names]
    for name in names:
        if name not in first.raw.columns:
            raise SourceError(
                f"`--time {answers.time}`: {first.path} has no such column; it has {first.raw.columns[:12]}."
            )
    roles.reasons["time_column"] = "as asked"
    cells = join_cells(first.raw, names)
    if answers.time_format:
        zoned = read_written(cells, answers.time_format).offset_s.null_count() < len(cells)
        return TimeColumn(names[0], answers.time_format, zoned=zoned, parts=tuple(names[1:]))
    readings = find_readings(cells, "time", is_first=True)
    if not readings:
        raise SourceError(
            f"{first.format_row(0)}: {cells[0]!r} in column {answers.time!r} reads as no time. Give"
            " `--time-format` with a strptime pattern."
        )
    form = _select_form(first, ", ".join(names), readings, answers, roles)
    time = TimeColumn(names[0], form, zoned=readings[0].zoned, parts=tuple(names[1:]))
    return time if time.parts else _add_clock_column(first, time, roles)


def _find_parts(first: FileTable) -> TimeColumn | None:
    """A year and a month (quarter, week, day, hour) in columns of their own."""
    names = {c.strip().lower(): c for c in first.raw.columns}
    found = {
        part: original
        for part, pattern in _PART_NAMES.items()
        for lower, original in names.items()
        if re.match(pattern, lower)
    }
    if "%Y" not in found or not {"%m", "%q", "%V"} & set(found):
        return None
    finer = {"%m": ["%m", "%d", "%H", "%M"], "%q": ["%q"], "%V": ["%V"]}
    first_part = next(p for p in ("%m", "%V", "%q") if p in found)
    parts = ["%Y"]
    for part in finer[first_part]:
        if part not in found:
            break
        parts.append(part)
    form = " ".join(parts).replace("%Y %V", "%G %V")
    columns = [found[p] for p in parts]
    cells = join_cells(first.raw, columns)
    for candidate in (form, form.replace("%m", "%b")):
        readings = read_written(cells, candidate)
        if readings.local.null_count() == 0:
            return TimeColumn(columns[0], candidate, parts=tuple(columns[1:]))
    return None


def _add_clock_column(
    first: FileTable, time: TimeColumn, roles: ColumnRoles, read: pl.Series | None = None
) -> TimeColumn:
    """Dates that repeat, completed by the column that has the clock or the hour of the day.

    read: the times in *time*, where they have been read.
    """
    cells = first.raw[time.name]
    if time.form in PER_SECOND or (not cells.dtype.is_temporal() and has_clock(time.form)):
        return time
    dates = read_written(cells, time.form).local if read is None else read
    if dates.dt.time().n_unique() > 1 or dates.n_unique() > MAX_DISTINCT_FRAC * len(dates):
        return time
    # a typed date and one that is written both join as ISO
    date_form = "%Y-%m-%d" if cells.dtype.is_temporal() or time.form == "iso" else time.form
    for name in first.raw.columns:
        if name == time.name:
            continue
        for form, every in _list_clock_forms(first, name):
            full = f"{date_form} {form}"
            joined = read_written(join_cells(first.raw, [time.name, name]), full)
            if joined.local.null_count() == 0:
                roles.reasons["time_column"] = f"`{time.name}` and `{name}` together, read as {full}"
                if every:
                    roles.questions.append(
                        f"`{name}` is taken as the number of a step of {every} within its day, from 1. If"
                        " these are clocks, give --time-format."
                    )
                return TimeColumn(time.name, full, zoned=False, parts=(name,), every=every)
    return time


def _list_clock_forms(first: FileTable, name: str) -> list[tuple[str, str | None]]:
    """(form, step) of a column that is a clock, or numbers the hours of a day."""
    cells = first.raw[name]
    if cells.dtype == pl.Time:
        return [("%H:%M:%S", None)]
    could_be = as_texts(cells.head(1)).str.contains(rf"{_CLOCK}|^\s*\d+\s*$").any()
    texts = as_texts(cells) if could_be else cells.head(0)
    if texts.null_count() or not len(texts):
        return []
    if texts.str.contains(_CLOCK).all():
        forms = ("%H:%M", "%H:%M:%S", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p", "%H.%M", "%Hh%M")
        return [(form, None) for form in forms]
    numbers = texts.cast(pl.Int64, strict=False)
    if numbers.null_count() or not re.search(_HOUR_NAMES, name.lower()):
        return []
    low, high = convert_to_int(numbers.min()), convert_to_int(numbers.max())
    steps = [every for every, (least, most) in _STEPS_OF_DAY.items() if low == 1 and least <= high <= most]
    if steps:
        return [("%N", steps[0])]
    is_clock = high > 100 and high <= 2400 and bool((numbers % 100 < 60).all())
    return [("%H", None)] if high <= 23 else [("%H%M", None)] if is_clock else []


def _check_nothing_looks_like_time(first: FileTable, answers: OwnerAnswers) -> None:
    """Raises SourceError for a column that has the name or the looks of time but reads as none."""
    for name in first.raw.columns:
        cells = first.raw[name]
        if name in {answers.target, answers.series} or cells.dtype.is_temporal():
            continue
        is_text = first.frame[name].dtype == pl.String
        texts = as_texts(cells).drop_nulls() if is_text else cells.head(0)
        if not len(texts):
            continue
        looks = is_text and convert_to_float(texts.str.contains(_LOOKS_LIKE_TIME).mean()) > 0.8
        is_named = re.match(_SURE_NAMES, name.strip().lower()) is not None
        if looks or (is_named and is_text and convert_to_float(texts.str.contains(r"\d").mean()) > 0.5):
            raise SourceError(
                f"{first.format_row(0)}, column {name!r}: {texts[0]!r} looks like a time but reads as none."
                f" Give `--time {name} --time-format PATTERN` with a strptime pattern, or `--time none` if"
                " rows are steps."
            )


def _remove_known_at(
    readings: dict[str, list[TimeReading]], roles: ColumnRoles
) -> dict[str, list[TimeReading]]:
    """Without the column of knowledge times: by its name, and never before the other."""
    late = [name for name in readings if re.search(_KNOWN_AT_NAMES, name.lower())]
    others = [name for name in readings if name not in late]
    if len(late) != 1 or len(others) != 1:
        return readings
    known_at, event_time = readings[late[0]][0], readings[others[0]][0]
    if known_at.form != event_time.form or (known_at.local < event_time.local).any():
        return readings
    roles.source["known_at_column"] = late[0]
    roles.reasons["known_at_column"] = f"by its name, and never before {others[0]}"
    return {others[0]: readings[others[0]]}


def _select_form(
    first: FileTable, name: str, readings: list[TimeReading], answers: OwnerAnswers, roles: ColumnRoles
) -> str:
    """The most plausible form; a question when another is nearly as plausible."""
    if answers.time_format:
        return answers.time_format
    best = readings[0]
    rivals = [r for r in readings[1:] if not (r.local == best.local).all()]
    near = [r for r in rivals if best.score - r.score < NEAR_SCORE]
    if near:
        rows = _show_rows(first, name, best, near[0])
        roles.unanswered.append(
            f"Column {name!r} reads as {best.form!r} and as {near[0].form!r}: {rows}. Give"
            f" `--time-format '{best.form}'` or `--time-format '{near[0].form}'`."
        )
    elif len(readings) > 1:
        why = "since they are then more evenly spaced" if rivals else "which give the same times here"
        other = f"not as {(rivals or readings[1:])[0].form!r}, {why}" if rivals else f"{why}, as others do"
        roles.questions.append(
            f"Times are read as {best.form!r}, {other}. If not, give --time-format"
            f" '{(rivals or readings[1:])[0].form}'."
        )
    return best.form


def _show_rows(first: FileTable, name: str, best: TimeReading, other: TimeReading) -> str:
    """Three rows in both readings, where they differ."""
    cells = join_cells(first.raw, name.split(", ")) if name not in first.raw.columns else first.raw[name]
    differing = (best.local != other.local).fill_null(value=False).arg_true()[:3]
    shown = [
        f"{cells[int(i)]!r} is {best.local[int(i)]:%F %R} or {other.local[int(i)]:%F %R}" for i in differing
    ]
    return "; ".join(shown)


def replace_name(time: TimeColumn | None, names: dict[str, str]) -> TimeColumn | None:
    """The time with its columns renamed, as those of a file without a header are."""
    if time is None:
        return None
    return replace(
        time, name=names.get(time.name, time.name), parts=tuple(names.get(p, p) for p in time.parts)
    )
