"""Small panels for tests of train and ensemble: a random walk or an autoregression on a daily
grid, with few features."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.dataset import Dataset
from tasks.core.panel import Panel, build_panel
from tasks.core.reports.base import Report
from tasks.core.schema import FeatureColumn, FeatureSchema

HORIZON = 3
CALENDAR = Calendar("continuous", "1d")
START = datetime(2020, 1, 1, tzinfo=UTC)


def small_about(primary_score="rmse", transform="none"):
    return About(
        description="a test",
        every="1d",
        horizon_steps=HORIZON,
        primary_score=primary_score,
        target={"column": "y", "unit": "1", "transform": transform},
    )


def small_schema():
    columns = (
        FeatureColumn(name="z_last", role="level", lookback_steps=0),
        FeatureColumn(name="z_lag_1", role="level", lookback_steps=1),
        FeatureColumn(name="z_mean_5", role="level", lookback_steps=4),
    )
    return FeatureSchema(columns=columns, last="z_last", horizon_steps=HORIZON, season_steps=1)


def feature_table(n_steps=400, n_series=2, seed=0, phi=0.7):
    """FEATURES frame of autoregressions around a level of 10."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n_series):
        z = np.zeros(n_steps)
        noise = rng.normal(size=n_steps)
        for t in range(1, n_steps):
            z[t] = phi * z[t - 1] + noise[t]
        z += 10
        event_time = [START + timedelta(days=t) for t in range(n_steps)]
        frame = pl.DataFrame(
            {"series_id": f"s{i}", "event_time": event_time, "z": z},
            schema_overrides={"event_time": pl.Datetime("us", "UTC")},
        )
        frames.append(
            frame.with_columns(
                known_at=CALENDAR.nominal_known_at(),
                is_gap=pl.lit(value=False),
                y=pl.col("z"),
                z_last=pl.col("z").cast(pl.Float32),
                z_lag_1=pl.col("z").shift(1).cast(pl.Float32),
                z_mean_5=pl.col("z").rolling_mean(5).cast(pl.Float32),
            )
        )
    return pl.concat(frames).select(
        "series_id", "event_time", "known_at", "is_gap", "y", "z", "z_last", "z_lag_1", "z_mean_5"
    )


def small_dataset(about=None, schema=None) -> Dataset:
    return Dataset(about or small_about(), CALENDAR, schema or small_schema())


def small_panel(about=None, table=None, schema=None, **kwargs) -> Panel:
    table = feature_table(**kwargs) if table is None else table
    return build_panel(table, small_dataset(about, schema))


def render_reports(trained):
    """The result of a training with its reports as their files have them."""
    reports = {
        name: report.render() for name, report in trained._asdict().items() if isinstance(report, Report)
    }
    if trained.search is not None:
        reports["search"] = reports["search"]["searches"]
    return trained._replace(**reports)
