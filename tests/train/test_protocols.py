"""Published protocols through the product's own features, train stage and scores: a wrong
harness would not give these numbers."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.dataset import Dataset
from tasks.core.frames import SERIES
from tasks.core.scores import mase_scale, owa, smape
from tasks.features import FeatureParams, build_feature_schema, build_features
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

pytestmark = pytest.mark.shared
HOURLY = Calendar("continuous", "1h")
NAIVE2_SMAPE_PCT, NAIVE2_MASE = 18.383, 2.395  # the competition's own, on the hourly series


def _about(horizon_steps, season_steps):
    return About(
        description="protocol",
        every="1h",
        horizon_steps=horizon_steps,
        season_steps=season_steps,
        target={"column": "value", "unit": "1"},
        primary_score="mae",
    )


def _train(model, rows, about, gate_steps, n_cutoffs):
    params = FeatureParams.model_validate({"list": [], "last_within_steps": 1})
    table = build_features(SERIES.conform(rows), about, params, HOURLY)
    walk = TrainParams(n_cutoffs=n_cutoffs, stride_steps=1, refit_every_cutoffs=n_cutoffs, min_train_steps=24)
    data = TrainingData(table, Dataset(about, HOURLY, build_feature_schema(about, params)), gate_steps)
    return fit_model(model, data, walk, {}, log=lambda _: None).forecasts


def test_repeat_last_on_etth1_gives_the_published_errors(shared_data):
    """Stride 1, 96 steps, all 2,785 windows of the test part, z-scored by the training part: MSE
    1.294, MAE .713."""
    wide = pl.read_csv(shared_data / "ett/ETTh1.csv", try_parse_dates=True).head(14400)
    values = [c for c in wide.columns if c != "date"]
    scaled = wide.select(
        pl.col("date").dt.replace_time_zone("UTC").dt.cast_time_unit("us").alias("event_time"),
        *((pl.col(c) - pl.col(c).head(8640).mean()) / pl.col(c).head(8640).std(ddof=0) for c in values),
    )
    rows = scaled.unpivot(values, index="event_time", variable_name="series_id").with_columns(
        known_at=HOURLY.nominal_known_at()
    )
    forecasts = _train("last_value", rows, _about(96, 1), gate_steps=96, n_cutoffs=2785)
    error = (forecasts["y"] - forecasts["y_hat"]).to_numpy()
    assert len(error) == 7 * 2785 * 96
    assert np.mean(error**2) == pytest.approx(1.294, abs=0.0006)
    assert np.mean(np.abs(error)) == pytest.approx(0.713, abs=0.0006)


def test_seasonal_naive_on_m4_hourly_gives_the_published_scores(shared_data):
    """Official test, 48 steps, season 24: sMAPE 13.912, MASE 1.193, OWA .628."""
    train_part, test_part = (
        pl.read_csv(shared_data / f"m4/Hourly-{part}.csv", infer_schema_length=None)
        for part in ("train", "test")
    )
    end = datetime(2000, 1, 1, tzinfo=UTC)
    frames, histories = [], {}
    for known, ahead in zip(train_part.rows(), test_part.rows(), strict=True):
        history, future = ([float(v) for v in row[1:] if v is not None] for row in (known, ahead))
        histories[known[0]] = np.array(history)
        y = history + future
        event_time = [end - timedelta(hours=len(y) - 1 - i) for i in range(len(y))]
        frames.append(pl.DataFrame({"series_id": known[0], "event_time": event_time, "value": y}))
    rows = (
        pl.concat(frames)
        .with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))
        .with_columns(known_at=HOURLY.nominal_known_at())
    )
    forecasts = _train("seasonal_naive", rows, _about(48, 24), gate_steps=48, n_cutoffs=1)
    assert forecasts.height == 414 * 48
    smape_pct = smape(forecasts["y"].to_numpy(), forecasts["y_hat"].to_numpy()).mean()
    by_series = forecasts.group_by("series_id").agg(
        (pl.col("y") - pl.col("y_hat")).abs().mean().alias("error")
    )
    mase_value = np.mean([error / mase_scale(histories[s], 24) for s, error in by_series.rows()])
    assert smape_pct == pytest.approx(13.912, abs=0.0006)
    assert mase_value == pytest.approx(1.193, abs=0.0006)
    assert owa(smape_pct, mase_value, NAIVE2_SMAPE_PCT, NAIVE2_MASE) == pytest.approx(0.628, abs=0.0006)
