"""Rows on which the laws of forecasters run: a seasonal autoregression with holes."""

from datetime import UTC, datetime

import numpy as np
import polars as pl

from tasks.core.about import About, Target
from tasks.core.calendar import Calendar
from tasks.core.schema import SERIES_KEY, FeatureColumn, FeatureSchema, encode_series_id

N_STEPS = 4
N_COLUMNS = 13
SEASON_STEPS = 4
SERIES = ("a", "b")
KEYS = [encode_series_id(name) for name in SERIES]
ROW_COLUMNS = ("time_days", "time_day_frac", *SERIES_KEY)  # known without any value
LEVELS = ("z_last", "z_lag_1", "z_lag_2", "z_lag_3", "z_mean_3")
CALENDAR = Calendar("continuous", "1d")
ABOUT = About(
    description="the rows of the laws",
    every="1d",
    horizon_steps=N_STEPS,
    primary_score="rmse",
    target=Target(column="y", unit="1", transform="none"),
)


def build_schema(*, scaled: bool = False, seasonal: bool = True, steps: int = N_STEPS) -> FeatureSchema:
    """Thirteen columns of every role, those of the row's time and series last.

    scaled: whether the series are measured in units of their spread.
    seasonal: whether there is a season, of four steps.
    steps: of the horizon.
    """
    roles = {**dict.fromkeys(LEVELS, "level"), "z_std_8": "spread"}
    roles |= dict.fromkeys(("close_value", "calendar_weekday", "close_lag_1", *ROW_COLUMNS), "free")
    last_season = tuple(f"z_lag_{-s % 4}" if -s % 4 else "z_last" for s in range(1, steps + 1))
    return FeatureSchema(
        columns=tuple(
            FeatureColumn.model_validate({"name": name, "role": role, "lookback_steps": 8})
            for name, role in roles.items()
        ),
        last="z_last",
        seasonal=last_season if seasonal else (),
        scale="z_std_8" if scaled else None,
        horizon_steps=steps,
        season_steps=SEASON_STEPS if seasonal else 1,
    )


def build_pairs(
    n: int = 600,
    seed: int = 0,
    level: float = 0.0,
    unit: float = 1.0,
    missing: float = 0.1,
    steps: int = N_STEPS,
) -> tuple[np.ndarray, np.ndarray]:
    """x (n, 13) and z (n, steps), float32; the first half of the rows is series a, the rest b.

    level, unit: the values are level + unit * about one.
    missing: fraction of x that is NaN, half of it of z; the last value is always known.
    """
    rng = np.random.default_rng(seed)
    z = level + unit * _draw_autoregression(n + 20, rng)
    index = np.arange(10, 10 + n)
    x = np.column_stack(
        [
            *(z[index - k] for k in range(4)),
            np.mean([z[index - k] for k in range(3)], axis=0),
            np.std([z[index - k] for k in range(8)], axis=0),
            z[index] * 3,
            index % 7,
            z[index - 1] * 3,
        ]
    )
    x[:, 1:][rng.random((n, 8)) < missing] = np.nan
    x = np.column_stack([x, [(20_000 + i // 4, i % 4 / 4, *KEYS[i >= n // 2]) for i in range(n)]])
    ahead = np.column_stack([z[index + s] for s in range(1, steps + 1)])
    ahead[rng.random(ahead.shape) < missing / 2] = np.nan
    return x.astype(np.float32), ahead.astype(np.float32)


def build_table(n_steps: int = 300) -> pl.DataFrame:
    """FEATURES of two series with the columns of `build_schema`, one row per day."""
    frames: list[pl.DataFrame] = []
    for name, key in zip(SERIES, KEYS, strict=True):
        z = 10 + _draw_autoregression(n_steps, np.random.default_rng(len(frames)))
        frame = pl.DataFrame({"event_time": pl.datetime_range(*_span(n_steps), "1d", eager=True), "z": z})
        lags = {f"z_lag_{k}": pl.col("z").shift(k) for k in (1, 2, 3)}
        frames.append(
            frame.with_columns(
                pl.lit(name).alias("series_id"),
                CALENDAR.nominal_known_at().alias("known_at"),
                pl.lit(value=False).alias("is_gap"),
                pl.col("z").alias("y"),
                z_last=pl.col("z"),
                **lags,
                z_mean_3=pl.col("z").rolling_mean(3),
                z_std_8=pl.col("z").rolling_std(8),
                close_value=(pl.col("z") / 10).exp(),
                calendar_weekday=pl.col("event_time").dt.weekday(),
                close_lag_1=(pl.col("z") / 10).exp().shift(1),
                time_days=pl.col("event_time").dt.epoch("d"),
                time_day_frac=pl.lit(0.0),
                **{column: pl.lit(float(part)) for column, part in zip(SERIES_KEY, key, strict=True)},
            )
        )
    columns = build_schema().names
    return pl.concat(frames).select(
        "series_id", "event_time", "known_at", "is_gap", "y", "z", pl.col(columns).cast(pl.Float32)
    )


def _draw_autoregression(n: int, rng: np.random.Generator) -> np.ndarray:
    """An autoregression of order 1 with a season of four steps."""
    z = np.zeros(n)
    for t in range(1, n):
        z[t] = 0.8 * z[t - 1] + rng.standard_normal()
    return z + 2 * np.sin(np.arange(n) * np.pi / 2)


def _span(n_steps: int) -> tuple[datetime, datetime]:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    return start, CALENDAR.list_next_steps(start, n_steps - 1)[-1]
