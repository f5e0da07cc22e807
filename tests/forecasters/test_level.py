"""Which models see the level of a series: none with `base: last`, as in NLinear (Zeng et al.

2023).
"""

import json

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureColumn, FeatureSchema
from tasks.forecasters import build_forecaster, load_forecaster

N_LAGS, HORIZON_STEPS = 8, 3
SHORT = {"epochs": 2, "batch_rows": 128}
WITHOUT_LEVEL = {
    "ridge": ("ridge", {"base": "last"}),
    "ridge of absolute errors": ("ridge", {"base": "last", "loss": "absolute"}),
    "ridge of groups": ("ridge", {"base": "last", "groups": [{"column": "weekday", "parts": 2}]}),
    "ridge on the season that does not see the level": ("ridge", {"base": "seasonal", "sees_level": False}),
    "nlinear": ("nlinear", SHORT),
    "nlinear on the season": ("nlinear", SHORT | {"base": "seasonal"}),
    "mlp": ("mlp", SHORT | {"base": "last"}),
    "gru": ("gru", SHORT | {"base": "last"}),
}


def make_schema(*, n_lags=N_LAGS, horizon_steps=HORIZON_STEPS, spread=False, season=True):
    """z_last and its lags, a weekday, and a scale column if *spread*; the season has four steps."""
    roles = {"z_last": "level", **{f"z_lag_{k}": "level" for k in range(1, n_lags + 1)}, "weekday": "free"}
    roles |= {"z_std_8": "spread"} if spread else {}
    seasonal = [f"z_lag_{-s % 4}" if -s % 4 else "z_last" for s in range(1, horizon_steps + 1)]
    columns = [FeatureColumn(name=name, role=role, lookback_steps=n_lags) for name, role in roles.items()]
    return FeatureSchema(
        columns=tuple(columns),
        last="z_last",
        seasonal=tuple(seasonal) if season else (),
        scale="z_std_8" if spread else None,
        horizon_steps=horizon_steps,
        season_steps=4 if season else 1,
    )


def make_pairs(n=400, *, n_lags=N_LAGS, horizon_steps=HORIZON_STEPS, spread=False, seed=0, drift=0.02):
    """x (n, columns) and z (n, horizon_steps): autoregressive around a drifting level, multiples
    of 2^-10."""
    rng, changes = np.random.default_rng(seed), np.zeros(n + n_lags + horizon_steps)
    for t in range(1, len(changes)):
        changes[t] = 0.6 * changes[t - 1] + rng.normal()
    level = np.round((changes + drift * np.arange(len(changes))) * 1024) / 1024
    origins = np.arange(n_lags, n_lags + n)
    lags = [level[origins - k] for k in range(n_lags + 1)]
    columns = [*lags, origins % 7, *([np.std(lags, axis=0)] if spread else [])]
    outcomes = [level[origins + s] for s in range(1, horizon_steps + 1)]
    return np.column_stack(columns).astype(np.float32), np.column_stack(outcomes).astype(np.float32)


def shift(x, constant, n_lags=N_LAGS):
    """*x* with *constant* added to the whole series."""
    moved = x.copy()
    moved[:, : n_lags + 1] += np.float32(constant)
    return moved


def run_graph(forecaster, x, path):
    forecaster.to_onnx(path)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(["z_hat"], {"x": x})[0]


def fit_reference(x, z, penalty, n_lags):
    """Ridge on the differences to the last value, with numpy alone: a function from x to its
    forecasts."""
    differences, target = x[:, 1 : n_lags + 1] - x[:, :1], z - x[:, :1]
    mean, sd = differences.mean(axis=0), differences.std(axis=0)
    inputs = (differences - mean) / sd
    centred = inputs - inputs.mean(axis=0)
    normal = centred.T @ centred + penalty * len(x) * np.eye(n_lags)
    slope = np.linalg.solve(normal, centred.T @ (target - target.mean(axis=0)))
    intercept = target.mean(axis=0) - inputs.mean(axis=0) @ slope

    def forecast(other):
        other = other.astype(np.float64)
        return other[:, :1] + intercept + ((other[:, 1 : n_lags + 1] - other[:, :1] - mean) / sd) @ slope

    return forecast


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_ridge_with_base_last_on_lags_alone_is_nlinear_in_closed_form(penalty, tmp_path):
    """Two series 50 apart in one fit, and a third at a level that the fit has not met; the
    graph, too."""
    lags = tuple(f"z_lag_{k}" for k in range(1, N_LAGS + 1))
    (low, z_low), (high, z_high), (new, _) = (make_pairs(seed=seed, drift=0.0) for seed in (0, 1, 2))
    x, z = np.concatenate([low, shift(high, 50)]), np.concatenate([z_low, z_high + 50])
    expected = fit_reference(x.astype(np.float64), z.astype(np.float64), penalty, N_LAGS)
    own = {"base": "last", "penalty": penalty, "columns": lags}
    fit = build_forecaster("ridge", make_schema(), 1, own).fit(x, z)
    np.testing.assert_allclose(fit.predict(new), expected(new), atol=2e-6)
    np.testing.assert_allclose(run_graph(fit, new, tmp_path / "ridge.onnx"), expected(new), atol=2e-6)
    moved = shift(new, -64)
    np.testing.assert_allclose(fit.predict(moved), expected(moved), rtol=1e-6, atol=2e-6)


@pytest.fixture(scope="module")
def fits():
    schema, (x, z) = make_schema(), make_pairs()
    return {name: build_forecaster(m, schema, 1, own).fit(x, z) for name, (m, own) in WITHOUT_LEVEL.items()}


@pytest.mark.parametrize("name", WITHOUT_LEVEL)
@settings(max_examples=10, deadline=None)
@given(constant=st.integers(-1000, 1000))
def test_a_constant_added_to_a_series_moves_its_forecasts_by_that_constant(name, constant, fits):
    x, _ = make_pairs(n=50, seed=7)
    np.testing.assert_allclose(
        fits[name].predict(shift(x, constant)) - constant,
        fits[name].predict(x),
        atol=1e-6 * (10 + abs(constant)),
    )


@pytest.mark.parametrize("constant", [-512, 512])
def test_a_constant_added_to_all_that_ridge_learns_from_moves_its_forecasts_by_that_constant(constant):
    (x, z), new = make_pairs(), make_pairs(n=50, seed=7)[0]
    ridges = [build_forecaster("ridge", make_schema(), 1, {"base": "last"}) for _ in range(2)]
    before = ridges[0].fit(x, z).predict(new)
    after = ridges[1].fit(shift(x, constant), z + np.float32(constant)).predict(shift(new, constant))
    np.testing.assert_allclose(after - constant, before, atol=2e-4)


def test_where_the_level_drifts_ridge_without_it_is_better():
    """Series that wander, learned from their first halves: the level promises a return that
    never comes."""
    schema, errors = make_schema(n_lags=2, horizon_steps=24, season=False), {None: 0.0, True: 0.0}
    for seed in range(8):
        x, z = make_pairs(n=800, n_lags=2, horizon_steps=24, seed=seed)
        for sees_level in errors:
            own = {"base": "last", "sees_level": sees_level}
            fit = build_forecaster("ridge", schema, 1, own).fit(x[:400], z[:400])
            errors[sees_level] += float(np.square(fit.predict(x[400:]) - z[400:]).mean())
    assert errors[None] < 0.9 * errors[True]


@pytest.mark.parametrize("model", ["ridge", "mlp"])
def test_the_level_is_seen_where_it_is_asked_for_and_with_base_auto(model):
    x, z = make_pairs()
    schema, own = make_schema(season=False), {} if model == "ridge" else SHORT
    choices = [own | {"base": "last", "sees_level": True}, own, own | {"base": "last"}]
    fits = [build_forecaster(model, schema, 1, params).fit(x, z) for params in choices]
    asked, auto, last = (fit.predict(x) for fit in fits)
    assert (asked == auto).all()  # without a season `auto` is the last value
    assert (asked != last).any()


def test_with_a_scale_the_level_is_seen_only_where_it_is_asked_for():
    (x, z), new = make_pairs(spread=True), make_pairs(n=50, seed=7, spread=True)[0]
    moves = {}
    for sees_level in (None, True):
        fit = build_forecaster("ridge", make_schema(spread=True), 1, {"sees_level": sees_level}).fit(x, z)
        moves[sees_level] = np.abs(fit.predict(shift(new, 64)) - 64 - fit.predict(new)).max()
    assert moves[None] < 1e-4
    assert moves[True] > 1e-2


def test_ridge_with_base_last_and_no_other_column_adds_a_constant_to_the_last_value(tmp_path):
    x, z = make_pairs(drift=1.0)
    x, columns = x[:, :1], make_schema().columns[:1]
    schema = FeatureSchema(columns=columns, last="z_last", horizon_steps=HORIZON_STEPS, season_steps=1)
    fit = build_forecaster("ridge", schema, 1, {"base": "last"}).fit(x, z)
    np.testing.assert_allclose(fit.predict(x), x + (z - x).mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(run_graph(fit, x, tmp_path / "ridge.onnx"), fit.predict(x), atol=1e-4)


@pytest.mark.parametrize(("model", "own"), [("ridge", {"base": "last"}), ("nlinear", SHORT)])
def test_a_fit_from_before_the_choice_keeps_the_level_that_it_saw(model, own, tmp_path):
    x, z = make_pairs()
    fit = build_forecaster(model, make_schema(), 1, own | {"sees_level": True}).fit(x, z)
    fit.save(tmp_path)
    about = json.loads((tmp_path / "forecaster.json").read_text())
    del about["params"]["sees_level"]
    (tmp_path / "forecaster.json").write_text(json.dumps(about))
    with np.load(tmp_path / "learned.npz") as learned:
        older = {name: array for name, array in learned.items() if name != "preamble.sees_level"}
    np.savez(tmp_path / "learned.npz", **older)
    assert (load_forecaster(tmp_path).predict(x) == fit.predict(x)).all()


def test_a_net_does_not_go_on_from_one_that_saw_the_level():
    x, z = make_pairs()
    start = build_forecaster("gru", make_schema(), 1, SHORT).fit(x, z)
    with pytest.raises(ForecasterError, match="`sees_level` is True there and False here"):
        build_forecaster("gru", make_schema(), 1, SHORT | {"base": "last"}).fit(x, z, start)
