"""Estimators of scikit-learn by name: each says what its graph says, and what cannot be served
is refused with the reason."""

import numpy as np
import onnxruntime as ort
import pytest
from test_trees import schema_of, walk_of

from tasks.core.errors import ForecasterError
from tasks.forecasters import build_forecaster, load_forecaster

ESTIMATORS = {
    "linear_model.Ridge": {},
    "linear_model.HuberRegressor": {},
    "ensemble.RandomForestRegressor": {"n_estimators": 10, "max_depth": 5},
    "ensemble.ExtraTreesRegressor": {"n_estimators": 10, "max_depth": 5},
    "ensemble.GradientBoostingRegressor": {"n_estimators": 20},
    "neighbors.KNeighborsRegressor": {"n_neighbors": 9},
    "svm.SVR": {"C": 0.5},
    "neural_network.MLPRegressor": {"hidden_layer_sizes": [8], "max_iter": 500, "tol": 0.01},
}


def unfitted(name, schema=None, **params):
    return build_forecaster(f"sklearn:{name}", schema or schema_of(), 1, {"base": "last", **params})


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_learns_and_its_graph_serves_it(name, tmp_path):
    x, z = walk_of(700)
    fit, again = (unfitted(name, params=ESTIMATORS[name]).fit(x[:500], z[:500]) for _ in range(2))
    np.testing.assert_array_equal(fit.predict(x), again.predict(x))
    fit.save(tmp_path)
    np.testing.assert_array_equal(load_forecaster(tmp_path).predict(x), fit.predict(x))
    fit.to_onnx(tmp_path / "model.onnx")
    served = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]).run(
        ["z_hat"], {"x": x}
    )[0]
    np.testing.assert_allclose(served, fit.predict(x), atol=1e-5)
    naive, error = (
        np.nanmean(np.square(z_hat - z)[500:]) for z_hat in (np.repeat(x[:, :1], 3, axis=1), fit.predict(x))
    )
    assert error < 0.95 * naive
    assert not list(tmp_path.rglob("*.pkl"))


@pytest.mark.parametrize(
    "name", ["linear_model.Ridge", "ensemble.RandomForestRegressor", "neighbors.KNeighborsRegressor"]
)
def test_all_steps_at_once_are_the_estimators_own_answer(name, tmp_path):
    """Held against scikit-learn itself on the same inputs."""
    x, z = walk_of(600)
    fit = unfitted(name, steps="outputs", params=ESTIMATORS[name]).fit(x, z)
    whole = np.isfinite(z).all(axis=1)
    inputs = fit.normalizer.transform(x).inputs
    estimator = fit._build_estimator().fit(inputs[whole], fit.normalizer.target(x, z, x[:, :1])[whole])
    np.testing.assert_allclose(fit.predict(x), x[:, :1] + estimator.predict(inputs), atol=1e-4)


def test_weights_of_rows_reach_the_estimator():
    x, z = walk_of(600)
    x = np.column_stack([x, np.arange(600) % 2]).astype(np.float32)
    spoiled = np.where(x[:, -1:] == 0, z + 5, z)
    weight = {"constant": 0, "column": "close_value"}
    fit = unfitted(
        "ensemble.ExtraTreesRegressor", schema_of("close_value"), weight=weight, params={"max_depth": 4}
    ).fit(x, spoiled)
    assert abs(np.nanmean((fit.predict(x) - z)[x[:, -1] == 1])) < 0.3
    with pytest.raises(ForecasterError, match="accepts no weights of rows"):
        unfitted("neighbors.KNeighborsRegressor", schema_of("close_value"), weight=weight).fit(x, z)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("linear_model.Rigde", {}, r"no regressor 'linear_model.Rigde'.*linear_model.Ridge"),
        (
            "RandomForestRegressor",
            {},
            r"no regressor 'RandomForestRegressor'.*ensemble.RandomForestRegressor",
        ),
        ("linear_model.LogisticRegression", {}, r"no regressor"),
        ("multioutput.MultiOutputRegressor", {}, r"cannot be built from params.yaml.*estimator"),
        ("ensemble.RandomForestRegressor", {"n_estimator": 5}, r"no parameter 'n_estimator'.*n_estimators"),
    ],
)
def test_a_wrong_name_is_refused_with_close_matches(name, params, message):
    with pytest.raises(ForecasterError, match=message):
        unfitted(name, params=params)


def test_what_cannot_be_fitted_or_served_says_why():
    x, z = walk_of(200)
    with pytest.raises(ForecasterError, match=r"cannot be fitted.*alpha"):
        unfitted("linear_model.Ridge", params={"alpha": -1}).fit(x, z)
    with pytest.raises(ForecasterError, match=r"IsotonicRegression (has no graph|cannot be fitted)"):
        unfitted("isotonic.IsotonicRegression").fit(x, z)
    with pytest.raises(ForecasterError, match=r"has no graph that can be served"):
        unfitted("kernel_ridge.KernelRidge").fit(x, z)
