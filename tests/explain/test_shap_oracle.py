"""Our Shapley values of every linear and tree member against the exact ones of the library shap."""

import warnings

import numpy as np
import pytest

from tasks.core.schema import FeatureColumn, FeatureSchema
from tasks.explain.shapley import compute_shapley
from tasks.forecasters import FORECASTERS, build_forecaster, get_forecaster_class
from tasks.forecasters.parts.trees import BoostedTrees

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
