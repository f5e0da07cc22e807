"""Boosters and estimators beside HAR on the default data: QLIKE of each index and seconds of a fit;
nothing is asserted.

About three minutes on 2 cores.
"""

import time

import numpy as np
import pytest
from small_checkout import small_checkout

from tasks.core.frames import FEATURES
from tasks.core.scores import qlike
from tasks.edges.artifacts import read_frame
from tasks.edges.dataset import read_features_dataset
from tasks.edges.params import read_about
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

pytestmark = pytest.mark.bench

WALK = TrainParams(n_cutoffs=2750, stride_steps=1, refit_every_cutoffs=126, min_train_steps=1000)
GATE_STEPS, FIRST_SCORED = 250, 300  # the level factor of the first cutoffs rests on too few outcomes
MODELS = {
    "har": ("har", {}),
    "ridge": ("ridge", {}),
    "lightgbm": ("lightgbm", {}),
    "xgboost": ("xgboost", {}),
    "catboost": ("catboost", {}),
    "lightgbm, absolute loss": ("lightgbm", {"loss": "absolute"}),
    "lightgbm, early stopping": ("lightgbm", {"held_frac": 0.2, "n_trees": 300}),
    "lightgbm, recursive": ("lightgbm", {"strategy": "recursive", "base": "last", "n_trees": 150}),
    "lightgbm, weekday and month named": (
        "lightgbm",
        {"categorical": ["calendar_weekday", "calendar_month"]},
    ),
    "extra trees of scikit-learn": (
        "sklearn:ensemble.ExtraTreesRegressor",
        {"params": {"n_estimators": 30, "min_samples_leaf": 100}},
    ),
}


def test_boosters_and_estimators_beside_har(tmp_path):
    mill = small_checkout(tmp_path, whole=True)
    mill.repro("features")
    about, source = read_about(), mill.root / "data/features"
    table = read_frame(source / "table.parquet", FEATURES)
    data = TrainingData(table, read_features_dataset(source, about), GATE_STEPS)
    scores = {}
    for name, (forecaster, params) in MODELS.items():
        started = time.process_time()
        trained = fit_model(forecaster, data, WALK, params, log=lambda _: None)
        seconds = (time.process_time() - started) / (len(trained.facts.folds) + 1)
        scores[name] = _qlike(trained.forecasts.sort("series_id", "cutoff", "step"), about.horizon_steps)
        against = ", ".join(
            f"{100 * (one / har - 1):+.1f} %" for one, har in zip(scores[name], scores["har"], strict=True)
        )
        print(
            f"{name:<36} QLIKE {np.mean(scores[name]):.4f}, against HAR by index {against:<20} CPU"
            f" {seconds:.2f} s a fit, forecasts too"
        )


def _qlike(forecasts, steps):
    """Mean QLIKE of each series; each step's forecasts times the root mean square of y / y_hat
    over the cutoffs whose outcome was known."""
    n_series = forecasts["series_id"].n_unique()
    y, y_hat = (
        forecasts[name].to_numpy().astype(float).reshape(n_series, -1, steps) for name in ("y", "y_hat")
    )
    ratio = np.square(y / y_hat)
    level = np.sqrt(np.nancumsum(ratio, axis=1) / np.cumsum(np.isfinite(ratio), axis=1))[:, :-steps]
    return np.nanmean(qlike(y[:, steps:], y_hat[:, steps:] * level)[:, FIRST_SCORED:], axis=(1, 2))
