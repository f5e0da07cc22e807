"""Holidays of a country, from the library `holidays`, by a step's date in the given zone.

The library knows today which days were holidays. So a day of mourning that was announced two days
before counts as known long before, and a new version of the library may give a holiday another
date: a Bento pins the version that it was built with.
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
    """The columns `holiday_<country>...` of the parts of *spec*.

    Without ending: 1 on a holiday, else 0. `_until_<n>`, `_since_<n>`: days, at most n, 0 on a
    holiday. `_ahead_<s>`: whether the step s after the row's is one.
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
            lambda gridded: (
                _compute_distance(spec, _convert_to_days(gridded.event_us, spec.time_zone))[0] == 0
            ),
        )
    if "until" in spec.parts:
        yield build_row_column(
            f"{name}_until_{spec.within_days}",
            lambda gridded: _compute_distance(spec, _convert_to_days(gridded.event_us, spec.time_zone))[0],
        )
    if "since" in spec.parts:
        yield build_row_column(
            f"{name}_since_{spec.within_days}",
            lambda gridded: _compute_distance(spec, _convert_to_days(gridded.event_us, spec.time_zone))[1],
        )
    if "ahead" in spec.parts:
        for s in range(1, horizon_steps + 1):
            # the default binds the loop's s
            yield build_row_column(f"{name}_ahead_{s}", lambda gridded, s=s: _is_ahead(spec, gridded, s))  # type: ignore[misc]


def _is_ahead(spec: Holiday, gridded: GriddedRows, s: int) -> np.ndarray:
    """Whether the step *s* after each row is a holiday."""
    of_step = _compute_distance(spec, _convert_to_days(gridded.steps, spec.time_zone))[0] == 0
    return of_step[gridded.positions + s]


def _compute_distance(spec: Holiday, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days to the next holiday and since the last one, each at most `within_days`.

    days: since 1970.
    """
    first, last = (
        date.fromordinal(_EPOCH + int(day))
        for day in (days.min() - spec.within_days, days.max() + spec.within_days)
    )
    known = _list_holidays(spec.country, spec.subdivision, first.year, last.year)
    max_days = spec.within_days
    padded = np.concatenate([[days.min() - 2 * max_days], known, [days.max() + 2 * max_days]])
    days_to = padded[np.searchsorted(padded, days)] - days
    days_since = days - padded[np.searchsorted(padded, days, side="right") - 1]
    return np.minimum(days_to, max_days), np.minimum(days_since, max_days)


def _convert_to_days(event_us: np.ndarray, time_zone: str) -> np.ndarray:
    """The local date of each time, as days since 1970."""
    try:
        local = pl.Series(event_us).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(time_zone)
    except pl.exceptions.ComputeError as error:
        raise FeatureInputError(
            f"`features.list`: holiday has `time_zone: {time_zone}`, which does not exist. Give a name such"
            " as Europe/Berlin."
        ) from error
    return local.dt.date().to_physical().to_numpy().astype(np.int64)


@lru_cache(maxsize=32)
def _list_holidays(country: str, subdivision: str | None, first_year: int, last_year: int) -> np.ndarray:
    """Days since 1970 that are holidays, ascending.

    Raises FeatureInputError for a country or subdivision that the library does not know.
    """
    import holidays

    try:
        days = holidays.country_holidays(country, subdiv=subdivision, years=range(first_year, last_year + 1))
    except NotImplementedError as error:
        raise FeatureInputError(
            f"`features.list`: holiday of country {country!r}, subdivision {subdivision!r}: {error} Codes are"
            " those of the library `holidays`."
        ) from error
    return np.array(sorted(day.toordinal() - _EPOCH for day in days), dtype=np.int64)
