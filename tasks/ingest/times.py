"""Parsing the cells of a time column, as UTC with microseconds."""

from typing import Literal
from zoneinfo import ZoneInfo

import polars as pl

from tasks.core.errors import SourceError
from tasks.core.frames import UTC
from tasks.ingest.cells import FileCells

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_ZONED = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
_LOCAL = pl.Datetime("us")


def parse_times(
    cells: FileCells, column: str, form: str, zone: str, *, dates: bool, series: pl.Series | None = None
) -> pl.Series:
    """The column's times, under its name.

    form: `iso`, an epoch unit or a strptime pattern.
    zone: of times that name none.
    dates: steps are a day or more, and a step is a local date (00:00 UTC of that date); with the
    zone's clock, summer and winter would be on different grids.
    series: series of each row. An hour that the clock repeats is the first one, and the second one
    if it occurs again in its series; None: always the second, since a `known_at` must not be too
    early. An hour that the clock skips is one hour later.
    Raises SourceError with the row for a cell that is empty or no time.
    """
    _check_zone(zone)
    texts = cells.frame[column]
    moments, local = _parse_texts(texts, form)
    unparsed = (moments.is_null() & local.is_null()).arg_true()
    if len(unparsed):
        cell = texts[int(unparsed[0])]
        raise SourceError(
            f"{cells.format_cell(int(unparsed[0]), column)}:"
            f" {'the cell is empty' if cell is None else repr(cell) + ' is no time'} of the form {form!r}"
            f" ({len(unparsed)} such rows). Correct the rows, or set `time_format` to `iso`, `s`, `ms`,"
            " `us` or a strptime pattern."
        )
    if dates and zone != "UTC":
        day = moments.dt.convert_time_zone(zone).dt.replace_time_zone(None)
        return _merge_times(local, day).cast(UTC).alias(column)
    return _merge_times(moments, _convert_to_utc(local, zone, series)).alias(column)


def _merge_times(first: pl.Series, second: pl.Series) -> pl.Series:
    return first.zip_with(first.is_not_null(), second)


def _parse_texts(texts: pl.Series, form: str) -> tuple[pl.Series, pl.Series]:
    """(moments in UTC, local times); at most one of the two is known in each row."""
    no_moment, no_local = (
        pl.Series([None] * len(texts), dtype=UTC),
        pl.Series([None] * len(texts), dtype=_LOCAL),
    )
    if texts.dtype.is_temporal():
        zoned = getattr(texts.dtype, "time_zone", None) is not None
        return (texts.cast(UTC), no_local) if zoned else (no_moment, texts.cast(_LOCAL))
    if form in _PER_SECOND:
        return _parse_epochs(texts, _PER_SECOND[form]), no_local
    texts = texts.cast(pl.String)
    if form != "iso":
        return _parse_by_pattern(texts, form, no_moment, no_local)
    texts = (
        texts.str.replace(r"^(\S{10})[ ]+", "${1}T")
        .str.replace(r"\s*Z$", "+00:00")
        .str.replace(" ", "", literal=True)
    )
    has_zone = texts.str.contains(r"T.*[+-]\d{2}:?\d{2}$").fill_null(value=False)
    local = (
        _parse_by_first_match(texts.set(has_zone, None), _NAIVE, no_local) if not has_zone.all() else no_local
    )
    return (
        _parse_by_first_match(texts.set(~has_zone, None), _ZONED, no_moment) if has_zone.any() else no_moment
    ), local


def _parse_by_first_match(texts: pl.Series, patterns: tuple[str, ...], nothing: pl.Series) -> pl.Series:
    times = nothing
    for pattern in patterns:
        if times.null_count() == texts.null_count():
            break
        zone = "UTC" if nothing.dtype == UTC else None
        times = _merge_times(
            times, texts.str.to_datetime(pattern, strict=False, time_unit="us", time_zone=zone)
        )
    return times


def _parse_epochs(cells: pl.Series, per_second: int) -> pl.Series:
    factor = 1_000_000 // per_second
    whole = (
        cells.cast(pl.Int64, strict=False)
        if not cells.dtype.is_float()
        else pl.Series([None] * len(cells), dtype=pl.Int64)
    )
    micros = whole * factor
    if micros.null_count():  # a fraction of a second, or a number written 1.5e12
        micros = _merge_times(
            micros,
            (cells.cast(pl.Float64, strict=False).fill_nan(None) * factor)
            .round()
            .cast(pl.Int64, strict=False),
        )
    return micros.cast(UTC)


def _parse_by_pattern(
    texts: pl.Series, form: str, no_moment: pl.Series, no_local: pl.Series
) -> tuple[pl.Series, pl.Series]:
    try:
        if "%z" in form or "%#z" in form:
            return texts.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC"), no_local
        # a month alone is its first day
        if not any(mark in form for mark in ("%d", "%e", "%j", "%D", "%F", "%s")):
            return no_moment, (texts + " 01").str.to_datetime(form + " %d", strict=False, time_unit="us")
        if not any(mark in form for mark in ("%H", "%I", "%T", "%R", "%s")):
            return no_moment, texts.str.to_date(form, strict=False).cast(_LOCAL)
        return no_moment, texts.str.to_datetime(form, strict=False, time_unit="us")
    except pl.exceptions.PolarsError as error:
        raise SourceError(
            f"`time_format` {form!r} is no strptime pattern ({str(error).splitlines()[0][:80]}), for example"
            " `%d.%m.%Y %H:%M`."
        ) from error


def _convert_to_utc(local: pl.Series, zone: str, series: pl.Series | None) -> pl.Series:
    if zone == "UTC":
        return local.cast(UTC)
    latest = _convert_local_times(local, zone, "latest")
    if series is None:
        return latest
    is_repeated = (
        pl.DataFrame({"series": series, "local": local})
        .select((pl.int_range(pl.len()).over("series", "local") > 0) & pl.col("local").is_not_null())
        .to_series()
    )
    return latest.zip_with(is_repeated, _convert_local_times(local, zone, "earliest"))


def _convert_local_times(local: pl.Series, zone: str, ambiguous: Literal["earliest", "latest"]) -> pl.Series:
    times = local.dt.replace_time_zone(zone, ambiguous=ambiguous, non_existent="null")
    an_hour_later = local.dt.offset_by("1h").dt.replace_time_zone(
        zone, ambiguous=ambiguous, non_existent="null"
    )
    return _merge_times(times, an_hour_later).dt.convert_time_zone("UTC")


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        raise SourceError(
            f"No time zone {zone!r}. Use an IANA name, for example `Europe/Berlin` or `UTC`."
        ) from error
