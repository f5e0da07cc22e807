"""Times as records write them."""

import polars as pl

from tasks.core.frames import UTC

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
_FIRST, _LAST = -2_208_988_800, 7_258_118_400  # 1900 and 2200: what is outside is no time of a feed
_ZULU = "%Y-%m-%dT%H:%M:%S%.fZ"
_ZONED = "%Y-%m-%dT%H:%M:%S%.f%#z"


def parse_utc_times(written: pl.Series, form: str) -> pl.Series:
    """UTC times; null where *written* is none, or none between 1900 and 2200.

    form: `iso` (with Z or an offset), or an epoch in s, ms, us.
    """
    if form == "iso":
        times = written.str.to_datetime(_ZULU, strict=False, time_unit="us")
        times = times.dt.replace_time_zone("UTC")
        if times.null_count() > written.null_count():
            rest = written.set(times.is_not_null(), None).str.replace(" ", "T", literal=True)
            zoned = rest.str.to_datetime(_ZONED, strict=False, time_unit="us", time_zone="UTC")
            times = times.zip_with(times.is_not_null(), zoned)
    else:
        factor = 1_000_000 // PER_SECOND[form]
        bound = _LAST * PER_SECOND[form]
        numbers = written.set(~written.is_between(-bound, bound).fill_null(value=False), None) * factor
        times = (numbers.round().cast(pl.Int64) if numbers.dtype.is_float() else numbers).cast(UTC)
    seconds = times.dt.epoch("s")
    return times.set(~seconds.is_between(_FIRST, _LAST).fill_null(value=False), None)
