"""What a selection promises: chosen inside the window, useless columns go, the graph ignores
what the forecaster ignores, and choices are compared."""

import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
from panels import feature_table, render_reports, small_dataset, small_schema

from tasks.core.errors import ForecasterError, ParamsError
from tasks.core.schema import FeatureColumn
from tasks.forecasters import build_forecaster, load_forecaster
from tasks.train.params import TrainParams
from tasks.train.select import SelectParams, compute_stability, find_ignored_columns
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

WALK = TrainParams(n_cutoffs=40, stride_steps=2, refit_every_cutoffs=10, min_train_steps=100)
NOISE = [f"noise_{i}" for i in range(8)]
SCHEMA = small_schema().model_copy(
    update={
        "columns": (
            *small_schema().columns,
            *(FeatureColumn(name=name, role="free", lookback_steps=0) for name in (*NOISE, "signal")),
        )
    }
)
OWN = {
    "ridge": {},
    "lightgbm": {"min_data_in_leaf": 20},
    "mlp": {"epochs": 2},
    "sklearn": {"estimator": "linear_model.LinearRegression"},
}


def _train(model, table, schema, **model_params):
    data = TrainingData(table, small_dataset(schema=schema), 30)
    return render_reports(fit_model(model, data, WALK, model_params, log=lambda _: None))


def _rows(n=900, seed=0):
    """x (n, F) and z (n, H): what comes is the signal, in the presence of noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(SCHEMA.columns))).astype(np.float32)
    z = x[:, [0]] + 2 * x[:, [SCHEMA.index("signal")]] + 0.3 * rng.normal(size=(n, 3)).astype(np.float32)
    return x, z.astype(np.float32)


@pytest.mark.parametrize("model", ["ridge", "lightgbm"])
def test_what_is_noise_goes_and_the_signal_stays(model):
    x, z = _rows()
    ignored = find_ignored_columns(
        lambda: build_forecaster(model, SCHEMA, 1, OWN[model]), x, z, SelectParams(min_gain_frac=0.002)
    )
    assert "signal" not in ignored
    assert "z_last" not in ignored
    assert len(set(ignored) & set(NOISE)) >= 6


@pytest.mark.parametrize("model", sorted(OWN))
def test_an_ignored_column_changes_no_forecast_here_and_in_the_graph(model, tmp_path):
    x, z = _rows()
    forecaster = build_forecaster(model, SCHEMA, 1, OWN[model])
    forecaster.ignore(("signal", "z_lag_1"))
    forecaster.fit(x, z).save(tmp_path)
    forecaster.to_onnx(tmp_path / "model.onnx")
    said = forecaster.predict(x)
    other = x.copy()
    for name in ("signal", "z_lag_1"):
        other[:, SCHEMA.index(name)] = 1e6
    other[::2, SCHEMA.index("signal")] = np.nan
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    for told in (forecaster.predict(other), load_forecaster(tmp_path).predict(other)):
        np.testing.assert_array_equal(told, said)
    np.testing.assert_allclose(session.run(None, {"x": other})[0], said, rtol=1e-5, atol=1e-5)
    assert load_forecaster(tmp_path).ignored == ("z_lag_1", "signal")


def test_each_fold_chooses_for_itself_and_the_choices_are_reported():
    table = feature_table()
    rng = np.random.default_rng(3)
    table = table.with_columns(
        pl.Series(name, rng.normal(size=table.height).astype(np.float32)) for name in (*NOISE, "signal")
    )
    trained = _train("ridge", table, SCHEMA, select={})
    folds = trained.selection["folds"]
    assert [f["fit_at"] for f in folds][:-1] == [f["fit_at"] for f in trained.plan["folds"]]
    assert folds[-1]["fit_at"] == trained.facts["seen_until"]
    assert set(folds[-1]["columns"]) == set(SCHEMA.names) - set(trained.fit.ignored) - {"z_last"}
    for name, share in trained.selection["kept_frac"].items():
        assert share == pytest.approx(np.mean([name in f["columns"] for f in folds]))
    assert any(f["columns"] != folds[0]["columns"] for f in folds) == (trained.selection["stability"] != 1.0)


def test_stability_is_one_for_the_same_choice_and_its_published_values_by_hand():
    """By hand, 2 choices of 4 columns: {a, b} and {a, c}: p = 1, .5, .5, 0; 1 - (2 x .25 + 0)/4
    x 2 / .25 = 0."""
    assert compute_stability(np.array([[1.0, 1, 0, 0]] * 3)) == 1.0
    assert compute_stability(np.array([[1.0, 1, 0, 0], [1, 0, 1, 0]])) == pytest.approx(0.0)
    assert compute_stability(np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]])) == pytest.approx(-1.0)
    assert compute_stability(np.array([[1.0, 0]])) is None
    assert compute_stability(np.ones((3, 4))) is None


def test_choices_by_chance_have_a_stability_near_zero():
    table = (np.random.default_rng(0).random((400, 50)) < 0.3).astype(float)
    assert abs(compute_stability(table)) < 0.01


def test_a_model_that_needs_its_columns_refuses_to_choose_among_them():
    for model, own in (
        ("last_value", {}),
        ("har", {"windows_steps": [1, 5]}),
        ("lightgbm", {"strategy": "recursive", "base": "last"}),
    ):
        with pytest.raises(ForecasterError, match="names none"):
            _train(model, feature_table(), small_schema(), **own, select={})


def test_columns_that_a_base_or_a_weight_names_are_not_up_for_choice():
    weighted = build_forecaster("lightgbm", small_schema(), 1, {"weight": {"column": "z_lag_1"}})
    assert weighted.dispensable == ("z_mean_5",)
    with pytest.raises(ForecasterError, match="cannot ignore"):
        weighted.ignore(("z_lag_1",))


def test_a_selection_that_cannot_be_is_refused():
    with pytest.raises(ParamsError, match="held_frac"):
        _train("ridge", feature_table(), small_schema(), select={"held_frac": 1.0})
