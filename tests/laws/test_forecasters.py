"""Laws of every forecaster: a new entry of FORECASTERS gets these for free."""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
from chosen import CHOSEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import NETS
from panels import feature_table, small_panel, small_schema

from tasks.core.errors import ForecasterError
from tasks.core.folds import WalkForward
from tasks.core.schema import SERIES_KEY, FeatureColumn, FeatureSchema, encode_series_id
from tasks.forecasters import FORECASTERS, Forecaster, build_forecaster, get_forecaster_class, load_forecaster

STEPS = 4
SHORT = {"epochs": 3, "batch_rows": 256}  # of a net
PARAMS = {
    "window_mean": {"window_steps": 3},
    "har": {"windows_steps": [1, 3]},
    "lightgbm": {"min_data_in_leaf": 20},
    "xgboost": {"min_child_weight": 20},
    "catboost": {"depth": 3},
    "mlp": SHORT,
    "nlinear": SHORT,
    "gru": SHORT,
    "lstm": SHORT,
    "patch_transformer": SHORT | {"patch_steps": 2, "stride_steps": 1},
    "sklearn": {"estimator": "tree.DecisionTreeRegressor", "params": {"max_depth": 4}},
}
VARIANTS = {  # what parameters make of a model is under law too
    "lightgbm aligned": (
        "lightgbm",
        {"min_data_in_leaf": 20, "base": "seasonal", "aligned_steps": [2], "columns": ["z_lag_1"]},
    ),
    "lightgbm repeated": ("lightgbm", {"min_data_in_leaf": 20, "strategy": "recursive", "base": "seasonal"}),
    "xgboost of absolute errors": (
        "xgboost",
        {
            "min_child_weight": 20,
            "loss": "absolute",
            "weight": {"column": "z_lag_1", "constant": 2, "in_z": True},
        },
    ),
    "catboost of a quantile": ("catboost", {"depth": 3, "loss": "quantile", "quantile": 0.8}),
    "ridge of absolute errors": (
        "ridge",
        {"loss": "absolute", "weight": {"column": "z_lag_1", "constant": 20}, "max_rows": 500},
    ),
    "ridge of groups": (
        "ridge",
        {
            "groups": [{"column": "z_last", "parts": 3}, {"column": "z_lag_1", "over": "z_last", "parts": 2}],
            "penalty": 0.01,
        },
    ),
    "ridge of the series' groups": (
        "ridge",
        {
            "groups": [
                {"by": "series", "column": "z_lag_1", "over": "z_last", "parts": 2},
                {"by": "length", "parts": 2},
            ],
            "columns": ["z_lag_1"],
        },
    ),
    "all steps of sklearn": (
        "sklearn:linear_model.LinearRegression",
        {"steps": "outputs", "base": "seasonal"},
    ),
}
LOCAL = {"ets", "theta", "arima", "garch", "prophet"}  # they know each series by itself
KEYS = [encode_series_id("a"), encode_series_id("b")]
OF_THE_ROW = ("time_days", "time_day_frac", *SERIES_KEY)  # always known
NAMES = list(CHOSEN) or sorted([*FORECASTERS, *VARIANTS])
law = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def schema_of(scaled=False, seasonal=True, steps=STEPS):
    """Thirteen columns of every role, those of the row's time and series last; the season has
    four steps."""
    roles = {
        "z_last": "level",
        "z_lag_1": "level",
        "z_lag_2": "level",
        "z_lag_3": "level",
        "z_mean_3": "level",
        "z_std_8": "spread",
    }
    roles |= {
        "close_value": "free",
        "calendar_weekday": "free",
        "close_lag_1": "free",
        **dict.fromkeys(OF_THE_ROW, "free"),
    }
    columns = tuple(FeatureColumn(name=name, role=role, lookback_steps=8) for name, role in roles.items())
    last_season = tuple(f"z_lag_{-s % 4}" if -s % 4 else "z_last" for s in range(1, steps + 1))
    return FeatureSchema(
        columns=columns,
        last="z_last",
        seasonal=last_season if seasonal else (),
        scale="z_std_8" if scaled else None,
        horizon_steps=steps,
        season_steps=4 if seasonal else 1,
    )


def pairs(n=600, seed=0, level=0.0, unit=1.0, missing=0.1, steps=STEPS):
    """x (n, 13) and z (n, steps) of a seasonal autoregression at *level*, with holes in both; the
    last value is always there.

    The first half is series a, the rest b.
    """
    rng = np.random.default_rng(seed)
    z = np.zeros(n + 20)
    for t in range(1, len(z)):
        z[t] = 0.8 * z[t - 1] + rng.standard_normal()
    z = level + unit * (z + 2 * np.sin(np.arange(len(z)) * np.pi / 2))
    at = np.arange(10, 10 + n)
    x = np.column_stack(
        [
            *(z[at - k] for k in range(4)),
            np.mean([z[at - k] for k in range(3)], axis=0),
            np.std([z[at - k] for k in range(8)], axis=0),
            z[at] * 3,
            at % 7,
            z[at - 1] * 3,
        ]
    )
    x[:, 1:][rng.random((n, 8)) < missing] = np.nan
    x = np.column_stack([x, [(20_000 + i // 4, i % 4 / 4, *KEYS[i >= n // 2]) for i in range(n)]])
    ahead = np.column_stack([z[at + s] for s in range(1, steps + 1)])
    ahead[rng.random(ahead.shape) < missing / 2] = np.nan
    return x.astype(np.float32), ahead.astype(np.float32)


def fitted(name, schema=None, x=None, z=None, seed=1):
    schema = schema or schema_of()
    if x is None:
        x, z = pairs(steps=schema.horizon_steps)
    return unfitted(name, schema, seed).fit(x, z)


def unfitted(name, schema, seed=1, **more):
    """The model or variant *name* with its parameters, *more* on top."""
    forecaster, params = VARIANTS.get(name, (name, {**PARAMS.get(name, {}), **CHOSEN.get(name, {})}))
    return build_forecaster(forecaster, schema, seed, {**params, **more})


def through_onnx(forecaster, x, path):
    forecaster.to_onnx(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"]).run(
        ["z_hat"], {"x": x}
    )[0]


@pytest.fixture(scope="module")
def fits():
    """One fit of each forecaster on the same pairs."""
    return {name: fitted(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_forecaster_keeps_the_protocol(name, fits):
    assert isinstance(fits[name], Forecaster)
    z_hat = fits[name].predict(pairs()[0])
    assert (z_hat.shape, z_hat.dtype) == ((600, STEPS), np.float32)
    assert fits[name].predict(pairs()[0][:0]).shape == (0, STEPS)


@pytest.mark.parametrize("name", NAMES)
@law
@given(
    rows=st.lists(
        st.tuples(
            st.floats(-(2.0**100), 2.0**100, width=32),
            *(st.floats(-(2.0**100), 2.0**100, width=32) | st.just(float("nan")) for _ in range(8)),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_forecasts_are_finite_whatever_is_unknown(name, fits, rows):
    x = np.column_stack([np.array(rows), [(20_000 + i, 0.5, *KEYS[i % 2]) for i in range(len(rows))]]).astype(
        np.float32
    )
    assert np.isfinite(fits[name].predict(x)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_series_without_history_is_answered_by_global_models_alone(name, fits, tmp_path):
    x = pairs()[0]
    x[:, -2:] = encode_series_id("stranger")
    assert np.isfinite(fits[name].predict(x)).all() == (name not in LOCAL)
    assert np.isfinite(through_onnx(fits[name], x, tmp_path / "model.onnx")).all() == (name not in LOCAL)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_stay_untouched(name):
    x, z = pairs()
    x_before, z_before = x.copy(), z.copy()
    fitted(name, x=x, z=z).predict(x)
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(z, z_before)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_fit(name, fits, tmp_path):
    again = fitted(name)
    np.testing.assert_array_equal(again.predict(pairs()[0]), fits[name].predict(pairs()[0]))
    again.to_onnx(tmp_path / "again.onnx")
    fits[name].to_onnx(tmp_path / "first.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "first.onnx").read_bytes()
    assert saved_bytes(again, tmp_path / "again") == saved_bytes(fits[name], tmp_path / "first")


def saved_bytes(forecaster, folder: Path):
    folder.mkdir()
    forecaster.save(folder)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("scaled", [False, True], ids=["as they come", "scaled"])
@pytest.mark.parametrize(("level", "unit"), [(0.0, 1.0), (1e5, 1e3), (-1e-3, 1e-5)])
@pytest.mark.parametrize("name", NAMES)
def test_saved_loaded_and_onnx_forecast_the_same(name, level, unit, scaled, tmp_path):
    x, z = pairs(level=level, unit=unit)
    fit = fitted(name, schema_of(scaled), x, z)
    fit.save(tmp_path)
    expected, sd = fit.predict(x), np.nanstd(z.astype(np.float64))
    np.testing.assert_array_equal(load_forecaster(tmp_path).predict(x), expected)
    assert (
        np.abs(through_onnx(fit, x, tmp_path / "model.onnx").astype(np.float64) - expected).max() / sd <= 1e-5
    )
    assert not list(tmp_path.rglob("*.pkl"))


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_answers_any_number_of_rows(name, fits, tmp_path):
    x = pairs()[0]
    for n in (1, 2, 600):
        assert through_onnx(fits[name], x[:n], tmp_path / "model.onnx").shape == (n, STEPS)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_forecast_alike_in_any_company(name, fits):
    x = pairs()[0]
    order = np.random.default_rng(3).permutation(len(x))
    together = fits[name].predict(x)
    np.testing.assert_allclose(fits[name].predict(x[order]), together[order], atol=2e-5)
    np.testing.assert_allclose(
        np.concatenate([fits[name].predict(x[i : i + 1]) for i in range(50)]), together[:50], atol=2e-5
    )


def known_series(table):
    """The small table and its schema with a price, the row's time and its series' keys beside."""
    price = (pl.col("z") / 10).exp().cast(pl.Float32)
    keys = [
        pl.col("series_id")
        .map_elements(lambda s, i=i: float(encode_series_id(s)[i]), return_dtype=pl.Float64)
        .cast(pl.Float32)
        .alias(name)
        for i, name in enumerate(SERIES_KEY)
    ]
    day = pl.col("event_time").dt.epoch("d").cast(pl.Float32)
    times = [day.alias("time_days"), (day * 0).alias("time_day_frac")]
    wider = table.with_columns(
        price.alias("close_value"), price.shift(1).over("series_id").alias("close_lag_1"), *times, *keys
    )
    further = (
        FeatureColumn(name=name, role="free", lookback_steps=1) for name in wider.columns[table.width :]
    )
    return wider, small_schema().model_copy(update={"columns": (*small_schema().columns, *further)})


@pytest.mark.parametrize("name", NAMES)
def test_later_rows_change_no_forecast(name):
    """Cut the table after an origin, or put nonsense there: fit and forecast as of that origin
    stay as they are."""
    walk, at = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=10), 250
    params = {"window_mean": {"window_steps": 5}, "har": {"windows_steps": [1, 5]}}.get(name, {})
    table, schema = known_series(feature_table(n_steps=300))
    nonsense = table.with_columns(
        pl.exclude("series_id", "event_time", "known_at", "is_gap", *OF_THE_ROW) * 0 + 10**6
    )
    cutoff = table["event_time"].unique().sort()[at]
    later = table["event_time"] > cutoff
    variants = [
        table,
        table.filter(~later),
        table.filter(~later).vstack(nonsense.filter(later)).sort("series_id", "event_time"),
    ]
    forecasts = []
    for variant in variants:
        panel = small_panel(table=variant, schema=schema)
        x, _ = panel.at(np.array([at]))
        forecasts.append(unfitted(name, schema, **params).fit(*panel.training(at, walk)).predict(x))
    np.testing.assert_array_equal(forecasts[1], forecasts[0])
    np.testing.assert_array_equal(forecasts[2], forecasts[0])


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_parameter_is_refused_with_the_known_ones(name):
    with pytest.raises(ForecasterError, match=r"no_such_thing.*Its parameters are"):
        unfitted(name, schema_of(), no_such_thing=1)


@pytest.mark.parametrize("n", [1, 3, 10])
@pytest.mark.parametrize("name", NAMES)
def test_few_rows_are_enough(name, n):
    x, z = pairs(n)
    assert np.isfinite(fitted(name, x=x, z=np.nan_to_num(z)).predict(x)).all()


@pytest.mark.parametrize("scaled", [False, True], ids=["as they come", "scaled"])
@pytest.mark.parametrize("name", NAMES)
def test_constant_data_are_forecast_as_they_are(name, scaled):
    x, z = np.full((300, 13), 7, dtype=np.float32), np.full((300, STEPS), 7, dtype=np.float32)
    x[:, 5] = 0  # standard deviation
    x[:, -2:] = KEYS[0]
    np.testing.assert_allclose(fitted(name, schema_of(scaled), x, z).predict(x), 7, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_without_targets_still_gets_a_forecast(name, tmp_path):
    x, z = pairs()
    z[:, 2] = np.nan
    fit = fitted(name, x=x, z=z)
    assert np.isfinite(fit.predict(x)).all()
    z[:] = np.nan
    assert np.isfinite(fitted(name, x=x, z=z).predict(x)).all()


@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize("name", NAMES)
def test_any_horizon_and_no_season_work(name, steps, tmp_path):
    fit = fitted(name, schema_of(seasonal=False, steps=steps))
    x = pairs(steps=steps)[0]
    np.testing.assert_allclose(through_onnx(fit, x, tmp_path / "model.onnx"), fit.predict(x), atol=2e-5)


@pytest.mark.parametrize(
    "name", ["har", "ridge", "lightgbm", "xgboost", "catboost", "sklearn", "lightgbm repeated", *NETS]
)
def test_a_signal_is_learned(name):
    """On rows that no fit has seen, a seasonal autoregression is forecast better than by its
    last value."""
    more = {"epochs": 30} if name in NETS else {}
    x, z = pairs(2000, missing=0.02)
    fit, naive = (
        unfitted(m, schema_of(), **p).fit(x[:1500], z[:1500]) for m, p in ((name, more), ("last_value", {}))
    )
    error, naive_error = (np.nanmean(np.square(m.predict(x[1500:]) - z[1500:])) for m in (fit, naive))
    # The season is no straight line of the weekday
    assert error < {"har": 0.8, "nlinear": 0.5}.get(name, 0.4) * naive_error


def test_trees_improve_on_their_base_where_it_cannot_bend():
    x, z = pairs(3000, missing=0)
    z += 3 * np.abs(x[:, :1] - 1)
    errors = {}
    for name in ("ridge", "lightgbm", "xgboost", "catboost"):
        fit = build_forecaster(name, schema_of(), 1, {}).fit(x[:2500], z[:2500])
        errors[name] = np.mean(np.square(fit.predict(x[2500:]) - z[2500:]))
    assert max(errors[name] for name in ("lightgbm", "xgboost", "catboost")) < 0.8 * errors["ridge"]


@pytest.mark.parametrize(
    ("name", "params"), [("window_mean", {"window_steps": 22}), ("har", {"windows_steps": [1, 22]})]
)
def test_a_missing_window_column_names_the_feature_to_declare(name, params):
    with pytest.raises(ForecasterError, match=r"z_mean_22.*kind: mean, column: z, window_steps: \[22\]"):
        build_forecaster(name, schema_of(), 1, params)


@pytest.mark.parametrize("name", NAMES)
def test_an_unfitted_or_foreign_model_says_so(name, fits, tmp_path):
    with pytest.raises(ForecasterError, match="has learned nothing"):
        unfitted(name, schema_of()).predict(pairs()[0])
    with pytest.raises(ForecasterError, match="13 columns"):
        fits[name].predict(np.zeros((2, 3), dtype=np.float32))
    fits[name].save(tmp_path)
    other = "har" if name.startswith("ridge") else "ridge"
    with pytest.raises(ForecasterError, match="Load it with the class that wrote it"):
        get_forecaster_class(other).load(tmp_path)
    with pytest.raises(ForecasterError, match="holds no readable"):
        type(fits[name]).load(tmp_path / "nowhere")


def test_an_unknown_forecaster_is_refused_with_the_known_ones():
    with pytest.raises(ForecasterError, match="last_value"):
        build_forecaster("lastvalue", schema_of(), 1, {})
