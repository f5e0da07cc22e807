"""`thread_sums.py`: what stages decide or write, from rows whose sums depend on their order; prints
the sha256 of each as JSON. The number of threads is that of POLARS_MAX_THREADS."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.core.frames import SERIES
from tasks.core.score_table import (
    build_skill_table,
    compute_mean_scores,
    compute_series_scales,
    score_elements,
)
from tasks.core.seasonal import build_seasonal_from_rows
from tasks.features import FeatureParams
from tasks.features.leaks import find_leaks
from tasks.features.stage import build_feature_set
from tasks.feed.aggregate import build_bars
from tasks.feed.params import AggregateParams
from tasks.ingest.params import FilesSource
from tasks.ingest.tables import aggregate_rows
from tasks.ingest.wizard.inspect.grid import find_grid
from tasks.ingest.wizard.inspect.target import compute_spread_ratio, compute_spread_slope, select_transform
from tasks.monitor.outcome import compute_figures
from tasks.validate.params import ColumnRule, ValidateParams
from tasks.validate.stage import validate_rows

START = datetime(2024, 1, 1, tzinfo=UTC)
N_SERIES, N_STEPS = 6, 6000
ABOUT = About.model_validate(
    {
        "description": "made up",
        "every": "1h",
        "target": {"column": "y", "unit": "1"},
        "horizon_steps": 2,
        "season_steps": 24,
        "primary_score": "mase",
        "covariates": {"past": ["x"]},
    }
)
PARAMS = FeatureParams.model_validate(
    {
        "list": [
            {"kind": "lag", "column": "z", "steps": [1, 2]},
            {"kind": "mean", "column": "z", "window_steps": [24]},
            {"kind": "std", "column": "z", "window_steps": [24]},
            {"kind": "ewm", "column": "z", "span_steps": [12]},
            {"kind": "value", "column": "x"},
            {"kind": "cross", "column": "z", "of": ["mean", "std"]},
        ]
    }
)
SOURCE = {
    "kind": "files",
    "files": ["*.csv"],
    "format": "csv",
    "layout": "long",
    "value_columns": ["y", "x"],
    "time_column": "t",
}


def make_rows():
    rng = np.random.default_rng(1)
    n = N_SERIES * N_STEPS
    times = [START + timedelta(hours=i) for i in range(N_STEPS)]
    season = 1 + 0.3 * np.sin(2 * np.pi * np.arange(N_STEPS) / 24)
    y, x = (np.exp(rng.normal(0, 0.3, (N_SERIES, N_STEPS)).cumsum(axis=1) / 10) * season for _ in range(2))
    return SERIES.conform(
        pl.DataFrame(
            {
                "series_id": np.repeat([f"s{i}" for i in range(N_SERIES)], N_STEPS),
                "event_time": pl.Series(times * N_SERIES).cast(pl.Datetime("us", "UTC")),
                "y": y.ravel(),
                "x": np.where(rng.random(n) < 0.9, x.ravel(), np.nan),
            }
        ).with_columns(pl.col("x").fill_nan(None), known_at=pl.col("event_time").dt.offset_by("1h"))
    )


def make_forecasts(rows):
    rng = np.random.default_rng(2)
    parts = [
        rows.select(
            "series_id",
            "event_time",
            "y",
            cutoff=pl.col("event_time").dt.offset_by(f"-{step - 1}h"),
            step=pl.lit(step, pl.Int32),
            model=pl.lit(model),
        ).with_columns(y_hat=pl.col("y") * pl.Series(np.exp(rng.normal(0, 0.2, rows.height))))
        for model in ("a", "b")
        for step in (1, 2)
    ]
    return pl.concat(parts).sort("model", "series_id", "cutoff", "step")


def iterate_results():
    rows = make_rows()
    contract = ValidateParams(
        max_quarantine_frac=0.5, columns={"y": ColumnRule(min=0), "x": ColumnRule(nullable=True)}
    )
    yield (
        "validate: profile",
        validate_rows(rows, ABOUT, contract, report=lambda _: None).profile.model_dump_json(),
    )
    built = build_feature_set(rows, ABOUT, PARAMS)
    yield "features: table", built.table
    yield "features: centres", built.params.model_dump_json()
    yield (
        "features: leaks",
        find_leaks(rows, ABOUT, built.params, built.table, built.calendar).model_dump_json(),
    )
    forecasts = make_forecasts(rows)
    scales = compute_series_scales(rows, 24)
    yield "scores: series scales", scales
    scored = score_elements(forecasts, ["mae", "rmse", "bias", "mase", "rmsse"], scales=scales)
    for by in ((), ("series_id",), ("step",), ("series_id", "step"), ("year",), ("cutoff",)):
        yield f"scores: means by {by}", compute_mean_scores(scored, by)
        yield f"scores: skill by {by}", build_skill_table(scored, "a", "mae", by)
    seasonal = build_seasonal_from_rows(rows, ABOUT, build_calendar(ABOUT))
    yield "scores: seasonal scale", seasonal.scale.tobytes()
    outcomes = forecasts.with_columns(
        loss=(pl.col("y") - pl.col("y_hat")).abs(),
        error=pl.col("y_hat") - pl.col("y"),
        is_covered=pl.col("y") > 0.5,
        is_seen=pl.lit(value=False),
        is_late=pl.lit(value=False),
        is_corrected=pl.lit(value=False),
    )
    yield (
        "monitor: figures",
        json.dumps(compute_figures(outcomes, ["series_id"]) + compute_figures(outcomes, [])),
    )
    source = FilesSource.model_validate({**SOURCE, "aggregate": "mean"})
    for how in ("mean", "sum"):
        dense = rows.with_columns(pl.col("event_time").dt.truncate("1d"), __read_at=pl.int_range(pl.len()))
        yield f"ingest: {how}", aggregate_rows(dense, source.model_copy(update={"aggregate": how}))[0]
    ticks = rows.select(
        "series_id",
        "event_time",
        "y",
        _source=pl.lit("a"),
        _offset=pl.int_range(pl.len()),
        _timestamp="known_at",
    )
    spec = AggregateParams.model_validate(
        {"every": "1d", "columns": {"y": {"of": "y", "by": "mean"}, "s": {"of": "y", "by": "sum"}}}
    )
    yield "feed: bars", build_bars(ticks, spec, START + timedelta(days=200))
    z = rows.with_columns(__z=pl.col("y").log())
    yield "wizard: spreads", repr((compute_spread_slope(rows, "y", 24), compute_spread_ratio(z, "__z")))
    yield "wizard: transform", repr(select_transform(rows, "y", 24))
    yield "wizard: grid", repr(find_grid(z, "__z", integer_time=False))


def hash_of(result):
    if isinstance(result, pl.DataFrame):
        result = b"".join(
            repr(result[c].to_list()).encode()
            if not result.schema[c].is_float()
            else result[c].fill_null(-1.5).to_numpy().tobytes()
            for c in result.columns
        )
    return hashlib.sha256(result if isinstance(result, bytes) else result.encode()).hexdigest()


if __name__ == "__main__":
    print(json.dumps({name: hash_of(result) for name, result in iterate_results()}))
