"""Features of the time of a step: calendar parts, sine and cosine of periods, and the trend.

A phase is computed from whole microseconds in float64, so it does not drift over decades; the
conversion to float32 is the last step.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

import numpy as np
import polars as pl

from tasks.core.calendar import parse_step_length
from tasks.core.errors import FeatureInputError
from tasks.features.sources import Column, FeatureSource, GriddedRows
from tasks.features.specs import Fourier

_DAY_US = 86_400_000_000
_MONDAY_US = 4 * _DAY_US  # 1970-01-05; 1970 began on a Thursday

CALENDAR = {
    "minute": pl.col("event_time").dt.minute(),
    "hour": pl.col("event_time").dt.hour(),
    "weekday": pl.col("event_time").dt.weekday() - 1,
    "day": pl.col("event_time").dt.day(),
    "day_of_year": pl.col("event_time").dt.ordinal_day(),
    "week": pl.col("event_time").dt.week(),
    "month": pl.col("event_time").dt.month(),
    "quarter": pl.col("event_time").dt.quarter(),
}


def build_calendar_columns(parts: tuple[str, ...]) -> Iterator[Column]:
    """The columns `calendar_<part>` of the step's start in UTC, as numbers."""
    for part in parts:
        # the default binds the loop's part
        yield build_row_column(f"calendar_{part}", lambda gridded, part=part: gridded.numbers(CALENDAR[part]))  # type: ignore[misc]


def build_time_columns() -> Iterator[Column]:
    """The columns `time_days` and `time_day_frac`.

    time_days: whole days since 1970, exact until the year 47,900.
    time_day_frac: elapsed fraction of the day, to 5 ms.
    """
    yield build_row_column(
        "time_days", lambda gridded: np.floor_divide(gridded.event_us, _DAY_US).astype(np.float64)
    )
    yield build_row_column("time_day_frac", lambda gridded: (gridded.event_us % _DAY_US) / _DAY_US)


def build_fourier_columns(spec: Fourier) -> Iterator[Column]:
    """The columns `fourier_<period>_sin_<k>` and `_cos_<k>`, for k = 1 to the order."""
    name, phase = _build_season_phase(spec)
    source = FeatureSource(f"phase:{name}", phase, sees="row")
    for k in range(1, spec.order + 1):
        for wave, compute in (("sin", np.sin), ("cos", np.cos)):
            yield Column(
                f"fourier_{name}_{wave}_{k}",
                "free",
                0,
                (source,),
                lambda past, k=k, compute=compute: compute(2 * np.pi * (k * past.values % 1.0)),
            )


def build_row_column(name: str, read: Callable[[GriddedRows], np.ndarray]) -> Column:
    """A column that is computed from the row's key alone."""
    return Column(name, "free", 0, (FeatureSource(name, read, sees="row"),), lambda past: past.values)


def _build_season_phase(spec: Fourier) -> tuple[str, Callable[[GriddedRows], np.ndarray]]:
    """The period's name, and the phase (0-1) at which each row's step starts."""
    if spec.period is not None:
        return (
            spec.period,
            {
                "day": _compute_day_phase,
                "week": _compute_week_phase,
                "month": _compute_month_phase,
                "year": _compute_year_phase,
            }[spec.period],
        )
    if spec.period_days is not None:
        days = spec.period_days
        return f"{days:g}_days", lambda gridded: gridded.event_us % (days * _DAY_US) / (days * _DAY_US)
    steps = spec.period_steps
    assert steps is not None
    return f"{steps:g}_steps", lambda gridded: count_steps_since_1970(gridded) % steps / steps


def _compute_day_phase(gridded: GriddedRows) -> np.ndarray:
    return (gridded.event_us % _DAY_US) / _DAY_US


def _compute_week_phase(gridded: GriddedRows) -> np.ndarray:
    return ((gridded.event_us - _MONDAY_US) % (7 * _DAY_US)) / (7 * _DAY_US)


def _compute_month_phase(gridded: GriddedRows) -> np.ndarray:
    return _compute_period_phase(gridded, "1mo")


def _compute_year_phase(gridded: GriddedRows) -> np.ndarray:
    return _compute_period_phase(gridded, "1y")


def _compute_period_phase(gridded: GriddedRows, every: str) -> np.ndarray:
    """Elapsed fraction of the step's own month or year, which differ in length."""
    start = pl.col("event_time").dt.truncate(every)
    elapsed, length = (
        (pl.col("event_time") - start).dt.total_microseconds(),
        (start.dt.offset_by(every) - start).dt.total_microseconds(),
    )
    return gridded.numbers(elapsed / length)


def count_steps_since_1970(gridded: GriddedRows) -> np.ndarray:
    """Steps since 1970, a pure function of the time.

    Raises FeatureInputError for an exchange, whose sessions before its first known one are unknown.
    """
    kind, every = gridded.calendar.kind, gridded.calendar.every
    if open_days := gridded.calendar.open_days:
        days = gridded.frame["event_time"].to_numpy().astype("datetime64[D]")
        weekmask = [day in open_days for day in range(1, 8)]
        return np.busday_count("1970-01-01", days, weekmask=weekmask).astype(np.float64)
    if kind != "continuous":
        raise FeatureInputError(
            f"`features.list`: `fourier` counts `period_steps` from 1970, which calendar {kind!r} does not"
            " reach. Give `period` or `period_days`."
        )
    if every.endswith(("mo", "q", "y")):
        count, unit = int(every.rstrip("moqy")), {"o": 1, "q": 3, "y": 12}[every[-1]]
        return gridded.numbers(
            pl.col("event_time").dt.year().cast(pl.Int64) * 12 + pl.col("event_time").dt.month()
        ) / (count * unit)
    return gridded.event_us / (parse_step_length(every) / timedelta(microseconds=1))
