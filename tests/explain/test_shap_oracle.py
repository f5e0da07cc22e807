"""Our Shapley values of every linear and tree member against the exact ones of the library shap.

Those of a release of every model of params.yaml add up to its forecasts.
"""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.explanations import check_explained
from support.small_release import build_small_body, cutoff_at, small_rows

from tasks.core.panel import build_panel
from tasks.core.schema import FeatureColumn, FeatureSchema
from tasks.explain.shapley import compute_shapley
from tasks.features import build_features
from tasks.forecasters import FORECASTERS, build_forecaster, get_forecaster_class
from tasks.forecasters.parts.trees import BoostedTrees
from tasks.release import load_release, load_unsealed_release, write_manifest

LINEAR = {
    "last_value": {},
    "seasonal_naive": {},
    "window_mean": {"window_steps": 3},
    "har": {"windows_steps": [1, 3]},
    "ridge": {"penalty": 0.01},
    "nlinear": {"epochs": 3},
    "sklearn": {"estimator": "linear_model.Ridge"},
}
TREES = {
    "lightgbm": {"min_data_in_leaf": 5, "n_trees": 20},
    "xgboost": {"min_child_weight": 5, "n_trees": 20},
    "catboost": {"depth": 3, "n_trees": 20},
    "sklearn:tree.DecisionTreeRegressor": {"params": {"max_depth": 5}},
}
N_ORDERS = 300  # of the 120 that five columns have, drawn with repetition, each also backwards


def make_schema():
    roles = {
        "z_last": "level",
        "z_lag_1": "level",
        "z_lag_2": "level",
        "z_mean_3": "level",
        "temperature": "free",
    }
    columns = tuple(FeatureColumn(name=name, role=role, lookback_steps=3) for name, role in roles.items())
    seasonal = ("z_lag_1", "z_last")
    return FeatureSchema(columns=columns, last="z_last", seasonal=seasonal, horizon_steps=2, season_steps=2)


def make_pairs(n=400):
    """x (n, 5) and z (n, 2) whose changes depend on the product of two columns."""
    rng = np.random.default_rng(0)
    lags, temperature = rng.normal(10, 1, (n, 3)), rng.normal(size=n)
    x = np.column_stack([lags, lags.mean(axis=1), temperature]).astype(np.float32)
    moves = (lags[:, 0] - lags[:, 1]) * temperature
    z = lags[:, :1] + np.column_stack([0.5 * moves, moves]) + 0.1 * rng.normal(size=(n, 2))
    return x, z.astype(np.float32)


def explain_with_shap(f, x, background):
    """(n, F, H) of the library: exact values, what is left out of a coalition drawn from
    *background*."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib's and its own deprecated names, at its import
        import shap

        masker = shap.maskers.Independent(background, max_samples=len(background))
        return shap.explainers.Exact(f, masker)(x).values


@pytest.mark.parametrize(
    ("model", "own", "tolerance"),
    [
        *((model, own, 1e-4) for model, own in LINEAR.items()),
        *((model, own, 0.05) for model, own in TREES.items()),
    ],
)
def test_parts_of_a_member_are_those_of_shap(model, own, tolerance):
    """Linear members to float32's last digits, trees as near as the drawn orders come, in sd of
    the parts."""
    x, z = make_pairs()
    fit = build_forecaster(model, make_schema(), 1, own).fit(x, z)

    def f(rows):
        return fit.predict(rows.astype(np.float32)).astype(np.float64)

    background, rows = x[:8].astype(np.float64), x[8:12].astype(np.float64)
    ours = compute_shapley(
        f, rows, background, np.arange(x.shape[1]), 1 if model in LINEAR else N_ORDERS, seed=1
    )
    theirs = explain_with_shap(f, rows, background)
    np.testing.assert_allclose(ours.parts, theirs, atol=tolerance * theirs.std())
    assert theirs.std() > 0.1
    assert ours.gap.max() < 1e-5


def test_every_tree_is_compared():
    trees = {name for name in FORECASTERS if issubclass(get_forecaster_class(name), BoostedTrees)}
    assert trees <= set(TREES)


MODELS = {  # of params.yaml
    "last_value": {},
    "window_mean": {"window_steps": 7},
    "seasonal_naive": {},
    "har": {"windows_steps": [1, 7, 14]},
    "ridge": {},
    "lightgbm": {"min_data_in_leaf": 20, "n_trees": 30},
    "mlp": {"epochs": 3, "batch_rows": 256},
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A release of every model of params.yaml, fitted to small rows."""
    folder, rows = tmp_path_factory.mktemp("fitted") / "release", small_rows()
    build_small_body(folder, rows, weights={"ridge": 1.0}, n_history=0)
    release = load_unsealed_release(folder)
    panel = build_panel(
        build_features(rows, release.about, release.features, release.calendar), release.dataset
    )
    x, where = panel.get_inputs(np.arange(20, 330))
    z = np.stack([panel.z[o + 1 : o + 6, s] for o, s in where]).astype(np.float32)
    weights = dict.fromkeys(MODELS, 1 / len(MODELS))
    for name, own in MODELS.items():
        build_forecaster(name, release.schema, 1, own).fit(x, z).to_onnx(folder / f"members/{name}.onnx")
    text = (folder / "ensemble.json").read_text()
    (folder / "ensemble.json").write_text(json.dumps({**json.loads(text), "weights": weights}))
    rows.write_parquet(folder / "rows.parquet")
    write_manifest(folder)
    return load_release(folder)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 0.5), st.integers(200, 399))
def test_parts_of_every_model_add_up_on_random_series(fitted, seed, noise, day):
    explained = check_explained(fitted, small_rows(seed=seed, noise=noise), cutoff_at(day))
    assert explained[0].weights == pytest.approx(dict.fromkeys(sorted(MODELS), 1 / 7))
    assert all(step.members == {} for one in explained for step in one.steps)
