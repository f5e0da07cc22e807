"""Whether a column can be read as time: in which form, and in which zone."""

from dataclasses import dataclass

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.times import parse_times
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.files import FileTable

_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?\s*(Z|[+-]\d{2}:?\d{2})?$"
_ZONE = r"(Z|[T ].*[+-]\d{2}:?\d{2})$"
_DATES = (
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y%m%d",
    "%d %b %Y",
    "%b %d, %Y",
    "%Y.%m.%d",
)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S", "%H%M%S")
_MONTHS = ("%Y-%m", "%Y/%m", "%b %Y", "%m/%Y")
# an epoch of the years 1980 to 2100 in each unit; other rising integers are not in these ranges
_EPOCHS = {"s": (3.1e8, 4.2e9), "ms": (3.1e11, 4.2e12), "us": (3.1e14, 4.2e15)}


@dataclass(frozen=True)
class TimeColumn:
    """A column that can be read as time.

    form: `iso`, `s`, `ms`, `us` or a strptime pattern.
    zoned: whether each cell names its zone.
    rivals: other patterns that read every cell.
    """

    name: str
    form: str
    zoned: bool = False
    rivals: tuple[str, ...] = ()


def find_time_form(name: str, cells: pl.Series) -> TimeColumn | None:
    """How *cells* can be read as time, or None."""
    known = cells.drop_nulls()
    if not len(known):
        return None
    if cells.dtype.is_temporal():
        return TimeColumn(name, "iso", zoned=getattr(cells.dtype, "time_zone", None) is not None)
    return _find_text_form(name, known) if cells.dtype == pl.String else _find_epoch_form(name, known)


def _find_text_form(name: str, known: pl.Series) -> TimeColumn | None:
    sample = known.head(200)
    if (epoch := sample.cast(pl.Float64, strict=False)).null_count() == 0 and not sample.str.contains(
        r"^\d{8}$"
    ).all():
        return _find_epoch_form(
            name, epoch if len(known) == len(sample) else known.cast(pl.Float64, strict=False)
        )
    if sample.str.contains(_ISO).all():
        return TimeColumn(name, "iso", zoned=bool(known.str.contains(_ZONE).any()))
    patterns = [p for p in _list_patterns() if _is_parsed_by(sample, p) and _is_parsed_by(known, p)]
    return TimeColumn(name, patterns[0], rivals=tuple(patterns[1:])) if patterns else None


def _list_patterns() -> list[str]:
    # strptime cannot read a month alone: _parse_by_strptime adds its first day
    return [date + clock for clock in _CLOCKS for date in _DATES] + list(_MONTHS)


def _is_parsed_by(cells: pl.Series, pattern: str) -> bool:
    try:
        return _parse_by_strptime(cells, pattern).null_count() == 0
    except pl.exceptions.PolarsError:
        return False


def _parse_by_strptime(cells: pl.Series, pattern: str) -> pl.Series:
    if pattern in _MONTHS:
        return (cells + " 01").str.to_datetime(pattern + " %d", strict=False, time_unit="us")
    if not any(mark in pattern for mark in ("%H", "%M")):
        return cells.str.to_date(pattern, strict=False).cast(pl.Datetime("us"))
    return cells.str.to_datetime(pattern, strict=False, time_unit="us")


def _find_epoch_form(name: str, known: pl.Series) -> TimeColumn | None:
    if not known.dtype.is_numeric():
        return None
    values = known.cast(pl.Float64)
    if values.null_count() or not (values == values.floor()).all():
        return None
    low, high = convert_to_float(values.min()), convert_to_float(values.max())
    for unit, (least, most) in _EPOCHS.items():
        if least <= low and high <= most and values.n_unique() > 1:
            return TimeColumn(name, unit)
    return None


def parse_time_column(table: FileTable, column: TimeColumn, zone: str) -> pl.Series:
    """The column as UTC, as ingest will read it.

    zone: of cells that name none.
    Raises SourceError with the row for a cell that does not parse.
    """
    cells = table.frame[column.name]
    if column.zoned and cells.dtype == pl.String and len(rows := (~cells.str.contains(_ZONE)).arg_true()):
        row = int(rows[0])
        raise SourceError(
            f"{table.format_row(row)}: column {column.name!r} has {cells[row]!r} without a time zone, other"
            " rows name one. Write all with a zone, or all without and give `--time-zone`."
        )
    times = parse_times(table.cells, column.name, column.form, "UTC", dates=False)
    if zone == "UTC" or column.zoned:
        return times
    at_midnight = times.dt.time().n_unique() == 1
    return parse_times(table.cells, column.name, column.form, zone, dates=at_midnight)
