"""Parsing the cells of the time columns, as UTC with microseconds: the wizard and ingest use it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import polars as pl

from tasks.core.calendar import parse_step_length
from tasks.core.errors import SourceError
from tasks.core.frames import UTC
from tasks.ingest.cells import NULLS, FileCells
from tasks.ingest.forms import FIRST_YEAR, LAST_YEAR, LOCAL, WrittenTimes, parse_form

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
EXCEL = "excel"  # days since 1899-12-30, the fraction is the clock
AS_WRITTEN = "as_written"  # a zone: days are those that cells show, whatever their offset
_EXCEL_TO_1970_DAYS = 25_569
_ISO_NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_ISO_ZONED = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
# patterns without these can be read by polars' own parser, which is ten times faster
_SLOW_DIRECTIVES = (
    "%y",
    "%b",
    "%B",
    "%h",
    "%p",
    "%I",
    "%z",
    "%#z",
    "%Z",
    "%G",
    "%V",
    "%q",
    "%N",
    "%D",
    "%j",
    "...",
    " %H%M",
)
_DATE_DIRECTIVES = ("%d", "%e", "%F")


def read_written(texts: pl.Series, form: str) -> WrittenTimes:
    """Clocks and offsets of *texts*, text or typed; null where a cell is no time of *form*.

    Times before 1900 or after 2199 are none.
    """
    if texts.dtype.is_temporal():
        return _read_typed(texts)
    if form in PER_SECOND:
        local = _read_epochs(texts, PER_SECOND[form])
        return _build_written(local, pl.Series([0], dtype=pl.Int64).new_from_index(0, len(texts)))
    if form == EXCEL:
        return _build_written(_read_excel(texts))
    texts = as_texts(texts)
    if 2 * texts.hash().n_unique() >= len(texts):  # a sixth of the time of `unique`
        return _read_texts(texts, form)
    distinct = texts.unique()
    columns = zip(WrittenTimes._fields, _read_texts(distinct, form), strict=True)  # series share their times
    table = pl.DataFrame([distinct.alias("text"), *(column.alias(name) for name, column in columns)])
    joined = texts.alias("text").to_frame().join(table, on="text", how="left", maintain_order="left")
    return WrittenTimes(*(joined[name] for name in WrittenTimes._fields))


def _read_texts(texts: pl.Series, form: str) -> WrittenTimes:
    quick = _read_quickly(texts, form)
    if quick.local.null_count() == texts.null_count():
        return quick
    rest = parse_form(texts.set(quick.local.is_not_null(), None), form)
    return WrittenTimes(*(a.zip_with(quick.local.is_not_null(), b) for a, b in zip(quick, rest, strict=True)))


def as_texts(cells: pl.Series) -> pl.Series:
    """Cells as text; whole numbers have no decimal point, and cells that mean null are null."""
    if cells.dtype.is_float():
        whole = cells.cast(pl.Int64, strict=False)
        cells = whole if bool((whole.cast(cells.dtype) == cells).fill_null(value=True).all()) else cells
    texts = cells.cast(pl.String)
    return texts.set(texts.is_in(sorted(NULLS)), None)


def join_cells(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """The cells that form a time: of one column as they are, of several joined by a space."""
    if len(columns) == 1:
        return frame[columns[0]]
    texts = [pl.Series(c, _format_part(frame[c])) for c in columns]
    return pl.DataFrame(texts).select(pl.concat_str(columns, separator=" ")).to_series()


def _format_part(cells: pl.Series) -> pl.Series:
    if cells.dtype == pl.Date or isinstance(cells.dtype, pl.Datetime):
        return cells.dt.strftime("%Y-%m-%d")
    return cells.dt.strftime("%H:%M:%S") if cells.dtype == pl.Time else as_texts(cells)


def _build_written(local: pl.Series, offset_s: pl.Series | None = None) -> WrittenTimes:
    is_plausible = local.dt.year().is_between(FIRST_YEAR, LAST_YEAR - 1).fill_null(value=False)
    nothing = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(local))
    offset = nothing if offset_s is None else offset_s
    return WrittenTimes(local.set(~is_plausible, None), offset.set(~is_plausible, None), nothing)


def _read_typed(cells: pl.Series) -> WrittenTimes:
    if cells.dtype in {pl.Time, pl.Duration}:
        return _build_written(pl.Series([None], dtype=LOCAL).new_from_index(0, len(cells)))
    zone = getattr(cells.dtype, "time_zone", None)
    if zone is None:
        return _build_written(cells.cast(LOCAL))
    local = cells.dt.replace_time_zone(None).cast(LOCAL)
    moments = cells.dt.convert_time_zone("UTC").dt.replace_time_zone(None).cast(LOCAL)
    return _build_written(local, (local - moments).dt.total_seconds())


def _read_epochs(cells: pl.Series, per_second: int) -> pl.Series:
    whole = (
        cells.cast(pl.Int64, strict=False)
        if not cells.dtype.is_float()
        else pl.Series([None], dtype=pl.Int64).new_from_index(0, len(cells))
    )
    micros = (
        whole * (1_000_000 // per_second) if per_second <= 1_000_000 else whole // (per_second // 1_000_000)
    )
    if micros.null_count():  # a fraction of a second, or a number written 1.5e12
        numbers = cells.cast(pl.Float64, strict=False).fill_nan(None)
        fractions = (numbers * (1_000_000 / per_second)).round()
        micros = micros.zip_with(micros.is_not_null(), fractions.cast(pl.Int64, strict=False))
    limit = 10**16  # beyond the year 2286 in microseconds; the cast to a time would overflow
    return micros.set(~micros.is_between(-limit, limit).fill_null(value=False), None).cast(LOCAL)


def _read_excel(cells: pl.Series) -> pl.Series:
    days = cells.cast(pl.Float64, strict=False).fill_nan(None) - _EXCEL_TO_1970_DAYS
    limit = 100_000
    days = days.set(~days.is_between(-limit, limit).fill_null(value=False), None)
    seconds = (days * 86_400).round().cast(pl.Int64)
    # serials have about six digits of a day: up to five seconds off are the digits' own
    minutes = (seconds + 30) // 60 * 60
    is_minute = bool(((seconds - minutes).abs() <= 5).fill_null(value=True).all())
    return ((minutes if is_minute else seconds) * 1_000_000).cast(LOCAL)


def _read_quickly(texts: pl.Series, form: str) -> WrittenTimes:
    """As polars' own parser reads them; null for whatever it does not."""
    nothing = pl.Series([None], dtype=LOCAL).new_from_index(0, len(texts))
    if form == "iso":
        return _read_iso_quickly(texts)
    has_date = any(directive in form for directive in _DATE_DIRECTIVES)
    if not has_date or any(directive in form for directive in _SLOW_DIRECTIVES):
        return _build_written(nothing)
    try:
        if any(directive in form for directive in ("%H", "%T", "%R")):
            return _build_written(texts.str.to_datetime(form, strict=False, time_unit="us"))
        return _build_written(texts.str.to_date(form, strict=False).cast(LOCAL))
    except pl.exceptions.PolarsError:
        return _build_written(nothing)


def _read_iso_quickly(texts: pl.Series) -> WrittenTimes:
    text, is_spaced = pl.col("text"), pl.col("text").str.slice(10, 1) == " "  # 2024-05-01 10:00
    joined = pl.when(is_spaced).then(text.str.replace(" ", "T", literal=True)).otherwise(text)
    texts = texts.alias("text").to_frame().select(joined).to_series()
    texts = texts.str.replace(r"\s*Z$", "+00:00").str.replace(" ", "", literal=True)
    zone = r"T.*([+-]\d{2}:?\d{2})$"
    has_zone = texts.str.contains(zone).fill_null(value=False)
    local = _read_by_first_match(texts.set(has_zone, None), _ISO_NAIVE)
    if not has_zone.any():
        return _build_written(local)
    zoned = texts.set(~has_zone, None)
    moments = _read_by_first_match(zoned, _ISO_ZONED)
    offset = zoned.str.extract(zone).str.replace(":", "", literal=True).cast(pl.Int64)
    hundreds = offset.abs()
    offset_s = offset.sign() * (hundreds // 100 * 3600 + hundreds % 100 * 60)
    shift = (offset_s * 1_000_000).cast(pl.Duration("us"))
    return _build_written(local.zip_with(local.is_not_null(), moments + shift), offset_s)


def _read_by_first_match(texts: pl.Series, patterns: tuple[str, ...]) -> pl.Series:
    """No text is of two *patterns*; that of the first text comes first: a vain one is slow."""
    first = texts.drop_nulls().head(1)
    times = pl.Series([None], dtype=LOCAL).new_from_index(0, len(texts))
    for pattern in sorted(patterns, key=lambda p: _read_pattern(first, p).null_count()):
        missing = texts.set(times.is_not_null(), None)
        if missing.null_count() == len(texts):
            break
        times = _merge_times(times, _read_pattern(missing, pattern))
    return times


def _read_pattern(texts: pl.Series, pattern: str) -> pl.Series:
    if "%#z" not in pattern:
        return texts.str.to_datetime(pattern, strict=False, time_unit="us")
    moments = texts.str.to_datetime(pattern, strict=False, time_unit="us", time_zone="UTC")
    return moments.dt.replace_time_zone(None)


class StepTimes(NamedTuple):
    """The steps of the rows.

    event_time: start of the step, in UTC, or 00:00 UTC of a local date.
    end: the moment at which the step is over.
    read_at: event_time before it was moved to the start of its step.
    """

    event_time: pl.Series
    end: pl.Series
    read_at: pl.Series


def read_step_times(
    cells: FileCells,
    columns: Sequence[str],
    form: str,
    zone: str,
    *,
    every: str,
    stamps: Literal["hour_beginning", "hour_ending"] = "hour_beginning",
    snap: bool = False,
    series: pl.Series | None = None,
) -> StepTimes:
    """Start and end of the step of each row.

    columns: the column of time, and those that complete it.
    zone: of cells that name none. Steps of a day or more are local dates of it (00:00 UTC of the
    date; with the zone's clock, summer and winter would be on different grids), and end with it.
    `as_written`: the dates that the cells show; the offsets say when they end.
    every: length of a step.
    stamps: whether times are the start of a step or its end.
    snap: each time is moved to the start of its step, counted from 1970.
    series: of each row; see `_convert_to_utc`.
    Raises SourceError with the row for a cell that is empty or no time.
    """
    written = _read_complete(cells, columns, form, zone)
    is_dated = is_date_step(every) and zone != "UTC"
    if is_dated:
        event_time = _convert_to_wall(written, zone).cast(UTC)
    else:
        event_time = _convert_to_moments(written, zone, series)
        if written.step_number.null_count() < len(written.step_number):
            length_us = int(parse_step_length(every).total_seconds() * 1e6)
            event_time = event_time + ((written.step_number - 1) * length_us).cast(pl.Duration("us"))
    if stamps == "hour_ending":
        event_time = event_time.dt.offset_by(f"-{every}")
    read_at = event_time
    event_time = event_time.dt.truncate(every) if snap else event_time
    event_time = event_time.alias("event_time")
    end = event_time.dt.offset_by(every)
    if not is_dated:
        return StepTimes(event_time, end, read_at)
    if zone != AS_WRITTEN:
        return StepTimes(event_time, _convert_local_times(end.cast(LOCAL), zone, "latest"), read_at)
    offset = (written.offset_s.fill_null(0) * 1_000_000).cast(pl.Duration("us"))
    known = end - offset
    if stamps == "hour_beginning":
        # A day ends when the next one begins, whose offset is another when the clock changes
        begins = pl.DataFrame({"end": event_time, "begin": event_time - offset}).unique("end", keep="first")
        next_begins = end.alias("end").to_frame().join(begins, on="end", how="left", maintain_order="left")
        known = next_begins["begin"].fill_null(known)
    return StepTimes(event_time, known, read_at)


def parse_times(
    cells: FileCells,
    column: str,
    form: str,
    zone: str,
    *,
    dates: bool = False,
    series: pl.Series | None = None,
) -> pl.Series:
    """The column's times in UTC, under its name.

    dates: as in `read_step_times`, for steps of a day or more.
    series: as in `_convert_to_utc`.
    Raises SourceError with the row for a cell that is empty or no time.
    """
    written = _read_complete(cells, [column], form, zone)
    if dates and zone != "UTC":
        return _convert_to_wall(written, zone).cast(UTC).alias(column)
    return _convert_to_moments(written, zone, series).alias(column)


def is_date_step(every: str) -> bool:
    """Whether a step is a day or more, so that it is a date."""
    return every.rstrip("0123456789")[-1:] in {"d", "w", "q", "y"} or every.endswith("mo")


def get_zone_lag_s(event_time: pl.Series, zone: str) -> float:
    """By how many seconds local days of *zone* end later than days of UTC; 0 east of it."""
    if zone in {"UTC", AS_WRITTEN} or not len(event_time):
        return 0.0
    ends = event_time.unique().sort().dt.offset_by("1d")
    lag = (_convert_local_times(ends.cast(LOCAL), zone, "latest") - ends).dt.total_seconds().max()
    return max(0.0, float(lag))  # type: ignore[arg-type]


def _read_complete(cells: FileCells, columns: Sequence[str], form: str, zone: str) -> WrittenTimes:
    """Raises SourceError for the first row that is no time, or that alone has an offset or none."""
    if zone != AS_WRITTEN:
        _check_zone(zone)
    texts = join_cells(cells.frame, columns)
    written = read_written(texts, form)
    name = ", ".join(columns)
    unparsed = written.local.is_null().arg_true()
    if len(unparsed):
        cell = as_texts(texts)[int(unparsed[0])] if not texts.dtype.is_temporal() else texts[int(unparsed[0])]
        raise SourceError(
            f"{cells.format_cell(int(unparsed[0]), name)}:"
            f" {'the cell is empty' if cell is None else repr(cell) + ' is no time'} of the form {form!r}"
            f" ({len(unparsed)} such rows). Times are of the years {FIRST_YEAR} to {LAST_YEAR - 1}. Correct"
            " or remove the rows, or set `time_format` to `iso`, `s`, `ms`, `us`, `ns`, `excel` or a strptime"
            " pattern (`--time-format`)."
        )
    n_naive = written.offset_s.null_count()
    if 0 < n_naive < len(written.local):
        row = int(written.offset_s.is_null().arg_true()[0])
        raise SourceError(
            f"{cells.format_cell(row, name)}: {texts[row]!r} is without a time zone, other rows name one"
            f" ({n_naive} of {len(texts)} name none). Write all with a zone, or all without and give"
            " `--time-zone`."
        )
    return written


def _merge_times(first: pl.Series, second: pl.Series) -> pl.Series:
    return first.zip_with(first.is_not_null(), second)


def _convert_to_wall(written: WrittenTimes, zone: str) -> pl.Series:
    """The clock of *zone*: as written, or converted where cells name an offset."""
    if zone == AS_WRITTEN or written.offset_s.null_count() == len(written.local):
        return written.local
    moments = _convert_to_moments(written, "UTC", None)
    return moments.dt.convert_time_zone(zone).dt.replace_time_zone(None)


def _convert_to_moments(written: WrittenTimes, zone: str, series: pl.Series | None) -> pl.Series:
    if written.offset_s.null_count() < len(written.local):
        return (written.local - (written.offset_s * 1_000_000).cast(pl.Duration("us"))).cast(UTC)
    return _convert_to_utc(written.local, "UTC" if zone == AS_WRITTEN else zone, series)


def _convert_to_utc(local: pl.Series, zone: str, series: pl.Series | None) -> pl.Series:
    """Local times as UTC.

    series: of each row. An hour that the clock repeats is the first one, and the second one if it
    occurs again in its series, in the order of time: a file may be newest first. None: always the
    second, since a `known_at` must not be too early. An hour that the clock skips is as much later
    as it skips.
    """
    if zone == "UTC":
        return local.cast(UTC)
    latest = _convert_local_times(local, zone, "latest")
    if series is None:
        return latest
    earliest = _convert_local_times(local, zone, "earliest")
    if not (earliest != latest).any():
        return latest
    frame = pl.DataFrame({"series": series, "local": local})
    if _is_newest_first(frame):
        is_repeated = _find_repeated(frame.reverse()).reverse()
    else:
        is_repeated = _find_repeated(frame)
    return latest.zip_with(is_repeated, earliest)


def _is_newest_first(frame: pl.DataFrame) -> bool:
    steps = frame.select(pl.col("local").diff().over("series").dt.total_seconds().sign()).to_series()
    return float(steps.sum() or 0) < 0


def _find_repeated(frame: pl.DataFrame) -> pl.Series:
    return frame.select(
        (pl.int_range(pl.len()).over("series", "local") > 0) & pl.col("local").is_not_null()
    ).to_series()


def _convert_local_times(local: pl.Series, zone: str, ambiguous: Literal["earliest", "latest"]) -> pl.Series:
    times = local.dt.replace_time_zone(zone, ambiguous=ambiguous, non_existent="null").dt.convert_time_zone(
        "UTC"
    )
    for hours in (3, 25):  # a skipped time has the offset of the time before; Samoa skipped a day
        if times.null_count() == local.null_count():
            break
        earlier = local.set(times.is_not_null(), None).dt.offset_by(f"-{hours}h")
        before = earlier.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null")
        times = _merge_times(times, before.dt.convert_time_zone("UTC").dt.offset_by(f"{hours}h"))
    return times


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        raise SourceError(
            f"No time zone {zone!r}. Use an IANA name, for example `Europe/Berlin` or `UTC`."
        ) from error
