"""Which columns are time, how they are written, and in which zone."""

from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from tasks.core.errors import SourceError
from tasks.core.frames import UTC
from tasks.ingest.wizard.figures import number

_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?\s*(Z|[+-]\d{2}:?\d{2})?$"
_ZONE = r"(Z|[T ].*[+-]\d{2}:?\d{2})$"
_DATES = ("%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y%m%d", "%d %b %Y", "%b %d, %Y", "%Y.%m.%d")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S", "%H%M%S")
_MONTHS = ("%Y-%m", "%Y/%m", "%b %Y", "%m/%Y")
# What an epoch of the years 1980 to 2100 looks like in each unit; nothing else that people write lies in these ranges as a rising integer.
_EPOCHS = {"s": (3.1e8, 4.2e9), "ms": (3.1e11, 4.2e12), "us": (3.1e14, 4.2e15)}
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


@dataclass(frozen=True)
class TimeColumn:
    """A column that can be read as time. *form* is `iso`, `s`, `ms`, `us`, `datetime` or a strptime pattern; *zoned*: each cell names its zone."""

    name: str
    form: str
    zoned: bool = False
    rivals: tuple[str, ...] = ()


def recognise(name: str, cells: pl.Series) -> TimeColumn | None:
    """How *cells* can be read as time, or None. *rivals* are other patterns that read every cell as well."""
    known = cells.drop_nulls()
    if not len(known):
        return None
    if cells.dtype.is_temporal():
        return TimeColumn(name, "datetime", zoned=getattr(cells.dtype, "time_zone", None) is not None)
    return _written(name, known) if cells.dtype == pl.String else _counted(name, known)


def _written(name: str, known: pl.Series) -> TimeColumn | None:
    sample = known.head(200)
    if (epoch := sample.cast(pl.Float64, strict=False)).null_count() == 0 and not sample.str.contains(r"^\d{8}$").all():
        return _counted(name, epoch if len(known) == len(sample) else known.cast(pl.Float64, strict=False))
    if sample.str.contains(_ISO).all():
        return TimeColumn(name, "iso", zoned=bool(known.str.contains(_ZONE).any()))
    fitting = [p for p in _patterns() if _parses(sample, p) and _parses(known, p)]
    return TimeColumn(name, fitting[0], rivals=tuple(fitting[1:])) if fitting else None


def _patterns() -> list[str]:
    # A month alone is read as its first day, which strptime cannot do; `%Y-%m` cells get `-01` from the parser below.
    return [date + clock for clock in _CLOCKS for date in _DATES] + list(_MONTHS)


def _parses(cells: pl.Series, pattern: str) -> bool:
    try:
        return _strptime(cells, pattern).null_count() == 0
    except pl.exceptions.PolarsError:
        return False


def _strptime(cells: pl.Series, pattern: str) -> pl.Series:
    if pattern in _MONTHS:
        return (cells + " 01").str.to_datetime(pattern + " %d", strict=False, time_unit="us")
    if not any(mark in pattern for mark in ("%H", "%M")):
        return cells.str.to_date(pattern, strict=False).cast(pl.Datetime("us"))
    return cells.str.to_datetime(pattern, strict=False, time_unit="us")


def _counted(name: str, known: pl.Series) -> TimeColumn | None:
    if not known.dtype.is_numeric():
        return None
    values = known.cast(pl.Float64)
    if values.null_count() or not (values == values.floor()).all():
        return None
    low, high = number(values.min()), number(values.max())
    for unit, (least, most) in _EPOCHS.items():
        if least <= low and high <= most and values.n_unique() > 1:
            return TimeColumn(name, unit)
    return None


def parse(cells: pl.Series, column: TimeColumn, zone: str, path: Path, first_row: int) -> pl.Series:
    """*cells* as UTC. *zone* is that of cells that name none. Raises SourceError with the row for what does not parse."""
    if column.form in _PER_SECOND:
        per_second = _PER_SECOND[column.form]
        return (cells.cast(pl.Float64, strict=False) * (1_000_000 / per_second)).round().cast(pl.Int64).cast(pl.Datetime("us")).cast(UTC)
    if column.form == "datetime":
        stamped = cells.cast(pl.Datetime("us", getattr(cells.dtype, "time_zone", None)))
        return stamped.dt.convert_time_zone("UTC") if column.zoned else _in_zone(stamped, zone)
    if column.form == "iso":
        return _iso(cells, column, zone, path, first_row)
    return _refuse_unread(cells, _in_zone(_strptime(cells, column.form), zone), column, path, first_row)


def _iso(cells: pl.Series, column: TimeColumn, zone: str, path: Path, first_row: int) -> pl.Series:
    zoned = cells.str.contains(_ZONE)
    if column.zoned and not zoned.all():
        row = int((~zoned.fill_null(value=True)).arg_true()[0])
        raise SourceError(
            f"{path}, row {row + first_row}: column {column.name!r} has {cells[row]!r} without a time zone, other rows name one. "
            "Write all with a zone, or all without and give `--time-zone`."
        )
    text = cells.str.replace(" ", "T", literal=True).str.replace_all(" ", "", literal=True)
    text = pl.select(pl.when(text.str.contains("T")).then(text).otherwise(text + "T00:00")).to_series() if not text.str.contains("T").all() else text
    if column.zoned:
        text = text.str.replace(r"Z$", "+00:00")
        read = text.str.to_datetime("%+", strict=False, time_unit="us", time_zone="UTC")
        if read.null_count() > cells.null_count():
            read = text.str.to_datetime("%Y-%m-%dT%H:%M%#z", strict=False, time_unit="us", time_zone="UTC")
    else:
        read = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us")
        if read.null_count() > cells.null_count():
            short = text.str.to_datetime("%Y-%m-%dT%H:%M", strict=False, time_unit="us")
            read = read.zip_with(read.is_not_null(), short)
        read = _in_zone(read, zone)
    return _refuse_unread(cells, read, column, path, first_row)


def _in_zone(naive: pl.Series, zone: str) -> pl.Series:
    """Local times to UTC; an hour that the clock repeats is taken the first time, one that it skips is moved on by an hour."""
    if zone == "UTC":
        return naive.cast(UTC)
    check_zone(zone)
    local = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    skipped = naive.dt.offset_by("1h")
    moved = skipped.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return local.zip_with(local.is_not_null(), moved).dt.convert_time_zone("UTC")


def check_zone(zone: str) -> None:
    """Raises SourceError for a zone that the IANA data base does not know."""
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        raise SourceError(f"No time zone {zone!r}. Use an IANA name, for example `Europe/Berlin` or `UTC`.") from error


def _refuse_unread(cells: pl.Series, read: pl.Series, column: TimeColumn, path: Path, first_row: int) -> pl.Series:
    lost = (read.is_null() & cells.is_not_null()).arg_true()
    if len(lost):
        row = int(lost[0])
        raise SourceError(
            f"{path}, row {row + first_row}: {cells[row]!r} in column {column.name!r} is no time of the form {column.form!r} ({len(lost)} such rows). "
            "Mend the row, or give `--time-format` with a strptime pattern."
        )
    return read
