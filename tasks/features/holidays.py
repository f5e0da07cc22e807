"""Holidays of a country, by the library `holidays`, on the date that a step has in the given zone.

The library is told only which years; which days were holidays is what it knows today. So a day of
mourning that was called two days before counts as known long before, and a new version of the
library may date a holiday anew: a Bento pins the version it was built with.
"""

from collections.abc import Iterator
from datetime import date
from functools import lru_cache

import numpy as np
import polars as pl

from tasks.core.errors import FeatureInputError
from tasks.features.seasons import build_row_column
from tasks.features.sources import Column, GriddedRows
from tasks.features.specs import Holiday

_EPOCH = date(1970, 1, 1).toordinal()


def build_holiday_columns(spec: Holiday, horizon_steps: int) -> Iterator[Column]:
    """`holiday_<place>`: 1 or 0; `_until_<n>` and `_since_<n>`: days, at most n, 0 on a holiday;
    `_ahead_<s>`: whether the step s after the row's is one.
    """
    name = "_".join(
        [
            "holiday",
            spec.country,
            *([spec.subdivision] if spec.subdivision else []),
            *([spec.time_zone] if spec.time_zone != "UTC" else []),
        ]
    )
    if "is" in spec.parts:
        yield build_row_column(
            name,
            lambda laid: _compute_distance(spec, _convert_to_days(laid.event_us, spec.time_zone))[0] == 0,
        )
    if "until" in spec.parts:
        yield build_row_column(
            f"{name}_until_{spec.within_days}",
            lambda laid: _compute_distance(spec, _convert_to_days(laid.event_us, spec.time_zone))[0],
        )
    if "since" in spec.parts:
        yield build_row_column(
            f"{name}_since_{spec.within_days}",
            lambda laid: _compute_distance(spec, _convert_to_days(laid.event_us, spec.time_zone))[1],
        )
    if "ahead" in spec.parts:
        for s in range(1, horizon_steps + 1):
            # A default binds the loop's s
            yield build_row_column(f"{name}_ahead_{s}", lambda laid, s=s: _is_ahead(spec, laid, s))  # type: ignore[misc]


def _is_ahead(spec: Holiday, laid: GriddedRows, s: int) -> np.ndarray:
    of_step = _compute_distance(spec, _convert_to_days(laid.steps, spec.time_zone))[0] == 0
    return of_step[laid.place + s]


def _compute_distance(spec: Holiday, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days until the next holiday and since the last one, each at most `within_days`, of *days*
    since 1970.
    """
    first, last = (
        date.fromordinal(_EPOCH + int(day))
        for day in (days.min() - spec.within_days, days.max() + spec.within_days)
    )
    known = _list_holidays(spec.country, spec.subdivision, first.year, last.year)
    far = spec.within_days
    padded = np.concatenate([[days.min() - 2 * far], known, [days.max() + 2 * far]])
    until = padded[np.searchsorted(padded, days)] - days
    since = days - padded[np.searchsorted(padded, days, side="right") - 1]
    return np.minimum(until, far), np.minimum(since, far)


def _convert_to_days(event_us: np.ndarray, time_zone: str) -> np.ndarray:
    """The local date of each time, as days since 1970."""
    try:
        local = pl.Series(event_us).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(time_zone)
    except pl.exceptions.ComputeError as error:
        raise FeatureInputError(
            f"`features.list`: holiday has `time_zone: {time_zone}`, which is none. Give a name such as"
            " Europe/Berlin."
        ) from error
    return local.dt.date().to_physical().to_numpy().astype(np.int64)


@lru_cache(maxsize=32)
def _list_holidays(country: str, subdivision: str | None, first_year: int, last_year: int) -> np.ndarray:
    """Days since 1970 that are holidays, ascending.

    Raises FeatureInputError for a place that the library does not know.
    """
    import holidays

    try:
        found = holidays.country_holidays(country, subdiv=subdivision, years=range(first_year, last_year + 1))
    except NotImplementedError as error:
        raise FeatureInputError(
            f"`features.list`: holiday of country {country!r}, subdivision {subdivision!r}: {error} Codes are"
            " those of the library `holidays`."
        ) from error
    return np.array(sorted(day.toordinal() - _EPOCH for day in found), dtype=np.int64)
