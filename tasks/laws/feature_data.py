"""Rows on which the laws of features run: bars of a few series, with holes and missing values."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About, Covariates, Target
from tasks.core.calendar import build_calendar
from tasks.core.frames import SERIES

START = datetime(2024, 1, 1, tzinfo=UTC)
BARS = ("open", "high", "low", "close", "volume")
LEVELS_AND_MOVES = ((0.01, 0.1), (100.0, 0.02), (1e5, 1e-7))  # the last hardly moves


class SeriesShape(NamedTuple):
    """What one series is like.

    first: index of its first step on the grid.
    level: of its prices; move: their standard deviation per step, in logs.
    missing_frac: of steps without values; absent_frac: of steps without a row.
    """

    n_steps: int
    first: int = 0
    level: float = 100.0
    move: float = 0.02
    missing_frac: float = 0.0
    absent_frac: float = 0.0


def build_about(calendar: str = "continuous", columns: Sequence[str] = ()) -> About:
    """A dataset of bars, every six hours or on weekdays; *columns*: further covariates."""
    return About(
        description="law",
        every="1d" if calendar == "weekdays" else "6h",
        calendar=calendar,
        target=Target(column="gk", unit="1", derive="garman_klass", transform="log1p"),
        covariates=Covariates(past=(*BARS, *columns)),
        horizon_steps=4,
        season_steps=3,
        publish_delay_s=60,
    )


def build_rows(
    about: About, shapes: Sequence[SeriesShape], rng: np.random.Generator, columns: Sequence[str] = ()
) -> pl.DataFrame:
    """SERIES of one series for each of *shapes*; further *columns* are random numbers."""
    n_grid = max(shape.first + shape.n_steps for shape in shapes)
    end = START + timedelta(days=2 * n_grid)  # weekends are no steps
    calendar = build_calendar(about, reach=(START, end))
    grid = calendar.grid(START, end)
    frames = []
    for k, shape in enumerate(shapes):
        n = shape.n_steps
        close = shape.level * np.exp(shape.move * rng.standard_normal(n).cumsum())
        opening = close * np.exp(shape.move * rng.standard_normal(n))
        high = np.maximum(opening, close) * np.exp(shape.move * rng.random(n))
        low = np.minimum(opening, close) * np.exp(-shape.move * rng.random(n))
        prices = {"open": opening, "high": high, "low": low, "close": close}
        values = {**prices, "volume": rng.integers(0, 9, n) * 1e4}
        values |= {column: rng.standard_normal(n) for column in columns}
        is_known, is_there = (rng.random(n) >= frac for frac in (shape.missing_frac, shape.absent_frac))
        is_there[0] |= not is_there.any()
        times = grid[shape.first : shape.first + n]
        frame = pl.DataFrame({"series_id": [f"s{k}"] * n, "event_time": times, **values})
        known = (pl.when(pl.Series(is_known)).then(pl.col(c)).alias(c) for c in values)
        frames.append(frame.with_columns(known).filter(pl.Series(is_there)))
    return SERIES.conform(pl.concat(frames).with_columns(known_at=calendar.nominal_known_at()))


def draw_rows(
    rng: np.random.Generator, n_steps: int, columns: Sequence[str] = ()
) -> tuple[pl.DataFrame, About]:
    """Rows of one to three series of up to *n_steps* steps, and what they are."""
    about = build_about(str(rng.choice(["continuous", "weekdays"])), columns)
    shapes = []
    for _ in range(rng.integers(1, 4)):
        level, move = LEVELS_AND_MOVES[rng.integers(len(LEVELS_AND_MOVES))]
        missing_frac, absent_frac = float(rng.choice([0.0, 0.2])), float(rng.choice([0.0, 0.3, 0.7]))
        n, first = int(rng.integers(1, n_steps + 1)), int(rng.integers(0, 11))
        shapes.append(SeriesShape(n, first, level, move, missing_frac, absent_frac))
    return build_rows(about, shapes, rng, columns), about
