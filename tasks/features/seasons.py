"""Seasons and time of a row's step: sine and cosine of calendar periods, and a trend that float32
keeps.

A phase is computed from whole microseconds in float64, so it does not drift over decades; float32
comes last.
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
    """`calendar_<part>`, as numbers, of the step's start in UTC."""
    for part in parts:
        # A default binds the loop's part
        yield build_row_column(f"calendar_{part}", lambda laid, part=part: laid.numbers(CALENDAR[part]))  # type: ignore[misc]


def build_time_columns() -> Iterator[Column]:
    """`time_days`, whole days since 1970, exact until the year 47,900; `time_day_frac`, the part
    of the day that is gone, to 5 ms.
    """
    yield build_row_column(
        "time_days", lambda laid: np.floor_divide(laid.event_us, _DAY_US).astype(np.float64)
    )
    yield build_row_column("time_day_frac", lambda laid: (laid.event_us % _DAY_US) / _DAY_US)


def build_fourier_columns(spec: Fourier) -> Iterator[Column]:
    """`fourier_<period>_sin_<k>` and `_cos_<k>` for k turns a period, 1 to the order."""
    name, phase = _build_season_phase(spec)
    whole = FeatureSource(f"phase:{name}", phase, sees="row")
    for k in range(1, spec.order + 1):
        for wave, compute in (("sin", np.sin), ("cos", np.cos)):
            yield Column(
                f"fourier_{name}_{wave}_{k}",
                "free",
                0,
                (whole,),
                lambda past, k=k, compute=compute: compute(2 * np.pi * (k * past.values % 1.0)),
            )


def build_row_column(name: str, read: Callable[[GriddedRows], np.ndarray]) -> Column:
    """A column that is known from the row's key alone."""
    return Column(name, "free", 0, (FeatureSource(name, read, sees="row"),), lambda past: past.values)


def _build_season_phase(spec: Fourier) -> tuple[str, Callable[[GriddedRows], np.ndarray]]:
    """The period's name, and where in it each row's step starts, 0 to 1."""
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
        return f"{days:g}_days", lambda laid: laid.event_us % (days * _DAY_US) / (days * _DAY_US)
    steps = spec.period_steps
    assert steps is not None
    return f"{steps:g}_steps", lambda laid: count_steps_since_1970(laid) % steps / steps


def _compute_day_phase(laid: GriddedRows) -> np.ndarray:
    return (laid.event_us % _DAY_US) / _DAY_US


def _compute_week_phase(laid: GriddedRows) -> np.ndarray:
    return ((laid.event_us - _MONDAY_US) % (7 * _DAY_US)) / (7 * _DAY_US)


def _compute_month_phase(laid: GriddedRows) -> np.ndarray:
    return _compute_period_phase(laid, "1mo")


def _compute_year_phase(laid: GriddedRows) -> np.ndarray:
    return _compute_period_phase(laid, "1y")


def _compute_period_phase(laid: GriddedRows, every: str) -> np.ndarray:
    """How much of its own month or year is gone at each step; these differ in length, so each is
    its own measure.
    """
    start = pl.col("event_time").dt.truncate(every)
    gone, length = (
        (pl.col("event_time") - start).dt.total_microseconds(),
        (start.dt.offset_by(every) - start).dt.total_microseconds(),
    )
    return laid.numbers(gone / length)


def count_steps_since_1970(laid: GriddedRows) -> np.ndarray:
    """Steps from 1970 on, a pure function of the time.

    Raises FeatureInputError for an exchange, whose sessions before its first known one nobody
    counts.
    """
    kind, every = laid.calendar.kind, laid.calendar.every
    if kind == "weekdays":
        return np.busday_count(
            "1970-01-01", laid.frame["event_time"].to_numpy().astype("datetime64[D]")
        ).astype(np.float64)
    if kind != "continuous":
        raise FeatureInputError(
            f"`features.list`: `fourier` counts `period_steps` from 1970, which calendar {kind!r} does not"
            " reach. Give `period` or `period_days`."
        )
    if every.endswith(("mo", "q", "y")):
        count, unit = int(every.rstrip("moqy")), {"o": 1, "q": 3, "y": 12}[every[-1]]
        return laid.numbers(
            pl.col("event_time").dt.year().cast(pl.Int64) * 12 + pl.col("event_time").dt.month()
        ) / (count * unit)
    return laid.event_us / (parse_step_length(every) / timedelta(microseconds=1))
