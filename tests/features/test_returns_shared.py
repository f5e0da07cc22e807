"""Hourly crypto returns through the whole engine: nothing here can forecast them, so whoever
seems to has leaked, and the naive champion stays."""

import json

import leak_runs as runs
import numpy as np
import polars as pl
import pytest

from tasks.core.frames import FEATURES
from tasks.edges.artifacts import read_frame
from tasks.edges.dataset import read_features_dataset
from tasks.promote.gate import compare_forecasts
from tasks.promote.params import PromoteParams
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

pytestmark = pytest.mark.shared

N_HOURS, GATE_STEPS = 5000, 500
LIST = [
    {"kind": "lag", "column": "z", "steps": [1, 2, 3, 24]},
    {"kind": "mean", "column": "z", "window_steps": [6, 24, 168]},
    {"kind": "std", "column": "z", "window_steps": [24, 168]},
    {"kind": "abs_return", "column": "close", "steps": [1, 24]},
    {"kind": "garman_klass"},
    {"kind": "calendar", "parts": ["hour", "weekday"]},
]
TARGET = {"column": "return", "unit": "log return of the hour", "derive": "bar_return"}
MODELS = {"window_mean": {"window_steps": 168}, "ridge": {}, "lightgbm": {}}


@pytest.fixture(scope="module")
def coins(shared_data):
    """The newest hours of four coins, as bars."""
    names = ("time", "open", "high", "low", "close", "volume")
    frames = []
    for coin in ("BTC", "ETH", "XRP", "LTC"):
        bars = json.loads((shared_data / f"binance_1h/{coin}_USDT-1h.json").read_text())[-N_HOURS:]
        frames.append(
            pl.DataFrame(bars, schema=list(names), orient="row").with_columns(
                pl.from_epoch("time", "ms").dt.replace_time_zone("UTC"), meter=pl.lit(coin)
            )
        )
    return pl.concat(frames, how="vertical_relaxed")


@pytest.fixture(scope="module")
def trained(coins, tmp_path_factory):
    about = {"horizon_steps": 2, "season_steps": 24, "primary_score": "rmse"}
    root = runs.root_of(tmp_path_factory.mktemp("coins"), coins, LIST, target=TARGET, about=about)
    verdict, about = runs.verdict_of(root), runs.inputs(root)[1]
    folder = root / "data/features"
    table = read_frame(folder / "table.parquet", FEATURES)
    data = TrainingData(table, read_features_dataset(folder, about), GATE_STEPS)
    walk = TrainParams(n_cutoffs=2000, stride_steps=1, refit_every_cutoffs=1000, min_train_steps=1000)
    walked = {m: fit_model(m, data, walk, own, log=lambda _: None) for m, own in MODELS.items()}
    return verdict, about, walked


def test_the_gate_finds_nothing_and_bounds_returns_as_returns(trained):
    verdict = trained[0]
    assert verdict.findings == ()
    assert (verdict.checks["too_good"]["max_r2"], verdict.checks["too_good"]["max_hit_frac"]) == (0.01, 0.53)
    assert verdict.checks["too_good"]["r2"] < 0.01


@pytest.mark.parametrize("model", ["ridge", "lightgbm"])
def test_no_model_explains_a_hundredth_of_them_out_of_sample(trained, model):
    """R2 against the forecast 0; the sign is right in less than 53 of 100 hours."""
    made = trained[2][model].forecasts.filter(pl.col("y").is_not_null())
    y, y_hat = made["y"].to_numpy(), made["y_hat"].to_numpy()
    assert made.height > 15_000
    assert 1 - np.square(y - y_hat).sum() / np.square(y).sum() < 0.01
    assert (np.sign(y) == np.sign(y_hat))[y != 0].mean() < 0.53


@pytest.mark.parametrize("model", ["ridge", "lightgbm"])
def test_promotion_keeps_the_naive_champion(trained, model):
    _, about, walked = trained
    params = PromoteParams(gate_steps=GATE_STEPS, min_gate_rows=60, alpha=0.05, min_gain_frac=0.005)
    gate = compare_forecasts(walked[model].gate, walked["window_mean"].gate, about, params)
    assert gate.n_cutoffs >= GATE_STEPS - 2
    assert gate.passed is False
