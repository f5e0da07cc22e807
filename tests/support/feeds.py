"""Feeds drawn by hypothesis: bars of a few series, with holes, missing values and prices of all
sizes."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from hypothesis import strategies as st

from tasks.core.about import About, Covariates, Target
from tasks.core.calendar import build_calendar
from tasks.core.frames import SERIES

START = datetime(2024, 1, 1, tzinfo=UTC)
BARS = ("open", "high", "low", "close", "volume")


def about_of(calendar="continuous"):
    return About(
        description="law",
        every="1d" if calendar == "weekdays" else "6h",
        calendar=calendar,
        target=Target(column="gk", unit="1", derive="garman_klass", transform="log1p"),
        covariates=Covariates(past=BARS),
        horizon_steps=4,
        season_steps=3,
        publish_delay_s=60,
    )


@st.composite
def feeds(draw, n_series=3):
    """(rows, about): a few series with holes, missing values and prices from .01 to 1e5, some of
    which hardly move."""
    about = about_of(draw(st.sampled_from(["continuous", "weekdays"])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    grid = build_calendar(about).grid(START, START + timedelta(days=200))
    frames = []
    for k in range(draw(st.integers(1, n_series))):
        n, first = draw(st.integers(1, 45)), draw(st.integers(0, 10))
        base, move = draw(st.sampled_from([(0.01, 0.1), (100.0, 0.02), (1e5, 1e-7)]))
        close = base * np.exp(move * rng.standard_normal(n).cumsum())
        open_ = close * np.exp(move * rng.standard_normal(n))
        high, low = (
            np.maximum(open_, close) * np.exp(move * rng.random(n)),
            np.minimum(open_, close) * np.exp(-move * rng.random(n)),
        )
        frame = pl.DataFrame(
            {
                "series_id": f"s{k}",
                "event_time": grid[first : first + n],
                "open": open_,
                "high": high,
                "low": low,
                "close": close,
                "volume": rng.integers(0, 9, n) * 1e4,
            }
        )
        missing = rng.random(n) < draw(st.sampled_from([0.0, 0.2]))
        frame = frame.with_columns(pl.when(~pl.Series(missing)).then(pl.col(c)) for c in BARS)
        kept = rng.random(n) >= draw(st.sampled_from([0.0, 0.3, 0.7]))
        frames.append(frame.filter(pl.Series(kept) if kept.any() else pl.Series([True] + [False] * (n - 1))))
    rows = pl.concat(frames).with_columns(known_at=build_calendar(about).nominal_known_at())
    return SERIES.conform(rows), about
