"""The linear models' arithmetic against slow twins, and what groups and the absolute loss are
for."""

import numpy as np
import pytest

from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureColumn, FeatureSchema
from tasks.forecasters import build_forecaster
from tasks.forecasters.parts.linear import build_normal_equations, fit_coefficients, fit_reweighted

SCHEMA = FeatureSchema(
    columns=tuple(
        FeatureColumn(name=name, role=role, lookback_steps=1)
        for name, role in (("z_last", "level"), ("z_lag_1", "level"), ("kind_value", "free"))
    ),
    last="z_last",
    horizon_steps=2,
    season_steps=1,
)


def test_each_step_is_solved_on_the_rows_that_know_it():
    rng = np.random.default_rng(0)
    inputs, target = (
        rng.normal(size=(300, 4)).astype(np.float32),
        rng.normal(size=(300, 3)).astype(np.float32),
    )
    target[rng.random(target.shape) < 0.3] = np.nan
    found = fit_coefficients(build_normal_equations(inputs, target), 0.0)
    for step in range(3):
        known = np.isfinite(target[:, step])
        slow, *_ = np.linalg.lstsq(
            np.column_stack([np.ones(known.sum()), inputs[known]]).astype(float),
            target[known, step].astype(float),
            rcond=None,
        )
        np.testing.assert_allclose(found[step], slow, rtol=1e-4, atol=1e-5)


def of_two_kinds(n=1200, seed=0):
    """x (n, 3), z (n, 2): rows of kind 1 go on in their direction, those of kind 0 turn back."""
    rng = np.random.default_rng(seed)
    before, moved, kind = rng.normal(size=n), rng.normal(size=n), np.arange(n) % 2
    last = before + moved
    after = last + np.where(kind == 1, 0.8, -0.8) * moved
    return np.column_stack([last, before, kind]).astype(np.float32), np.column_stack([after, after]).astype(
        np.float32
    )


def mean_error(x, z, **params):
    half = len(x) // 2
    fit = build_forecaster("ridge", SCHEMA, 1, {"base": "last", "penalty": 1e-6} | params).fit(
        x[:half], z[:half]
    )
    return np.abs(fit.predict(x[half:]) - z[half:]).mean()


def test_groups_learn_what_one_equation_cannot():
    x, z = of_two_kinds()
    assert mean_error(x, z) > 0.5
    assert mean_error(x, z, groups=[{"column": "kind_value", "parts": 2}]) < 0.01


def test_a_group_with_too_few_rows_takes_the_coefficients_of_all():
    x, z = of_two_kinds(n=24)
    np.testing.assert_allclose(
        mean_error(x, z, groups=[{"column": "z_last", "parts": 16}]), mean_error(x, z), rtol=1e-5
    )


def test_the_absolute_loss_follows_the_median():
    """One row in five is far off on one side: least squares is drawn there, the median is not."""
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.normal(size=2000), rng.normal(size=2000), np.zeros(2000)]).astype(np.float32)
    z = x[:, :1] + 0.1 * rng.normal(size=(2000, 2)).astype(np.float32)
    true = z.copy()
    z[rng.random(2000) < 0.2] += 5
    fits = {
        loss: build_forecaster("ridge", SCHEMA, 1, {"base": "last", "penalty": 1e-6, "loss": loss}).fit(x, z)
        for loss in ("squared", "absolute")
    }
    off = {loss: abs(float((fit.predict(x) - true).mean())) for loss, fit in fits.items()}
    assert off["squared"] > 0.9
    assert off["absolute"] < 0.15


def test_a_weight_moves_the_fit_to_the_rows_that_count():
    x, z = of_two_kinds()
    half = build_forecaster(
        "ridge",
        SCHEMA,
        1,
        {"base": "last", "weight": {"constant": 1e-4, "column": "kind_value"}, "penalty": 1e-6},
    ).fit(x, z)
    of_kind = x[:, 2] == 1
    assert np.abs(half.predict(x) - z)[of_kind].mean() < 0.05 < np.abs(half.predict(x) - z)[~of_kind].mean()


def test_reweighting_by_blocks_is_weighted_least_squares():
    """Over more rows than a block holds, and of the rows asked for alone; the weights of the
    squared loss stay, so that a closed form is the oracle."""
    rng = np.random.default_rng(4)
    inputs, target = (
        rng.normal(size=(9000, 4)).astype(np.float32),
        rng.normal(size=(9000, 3)).astype(np.float32),
    )
    weight, rows = rng.uniform(0.1, 3, 9000).astype(np.float32), np.flatnonzero(rng.random(9000) < 0.9)
    root = np.sqrt(weight[rows, None].astype(float))
    slow, *_ = np.linalg.lstsq(
        np.column_stack([np.ones(len(rows)), inputs[rows]]) * root, target[rows] * root, rcond=None
    )
    np.testing.assert_allclose(
        fit_reweighted(inputs, target, weight, rows, 0.0, np.zeros((3, 5)), absolute=False), slow.T, atol=1e-5
    )


def of_series(x, series):
    """*x* with the columns that tell its series, and their schema."""
    keys = tuple(FeatureColumn(name=name, role="free", lookback_steps=1) for name in SERIES_KEY)
    return np.column_stack([x, series, series]).astype(np.float32), SCHEMA.model_copy(
        update={"columns": (*SCHEMA.columns, *keys)}
    )


@pytest.mark.parametrize(
    ("by", "n_of_kind_0"),
    [({"by": "length", "parts": 2}, 300), ({"by": "series", "column": "kind_value", "parts": 2}, 600)],
)
def test_groups_follow_the_series(by, n_of_kind_0):
    """Two series of two kinds: one is longer, or differs in a median that single rows deny.

    A third one, never met, gets a forecast too.
    """
    x, z = of_two_kinds()
    kind = x[:, 2] == 1
    keep = np.sort(np.concatenate([np.flatnonzero(~kind)[:n_of_kind_0], np.flatnonzero(kind)]))
    x, z, kind = x[keep], z[keep], kind[keep]
    x[::5, 2] = 1 - x[::5, 2]
    rows, schema = of_series(x, kind)
    fit = build_forecaster(
        "ridge", schema, 1, {"base": "last", "penalty": 1e-6, "groups": [by], "columns": ["z_lag_1"]}
    ).fit(rows, z)
    assert np.abs(fit.predict(rows) - z).mean() < 0.01
    rows[:, 3:] = 7
    assert np.isfinite(fit.predict(rows)).all()


def test_by_length_a_new_series_is_as_the_shortest():
    x, z = of_two_kinds()
    series = np.arange(len(x)) % 3 == 0  # 400 rows of one, 800 of the other
    rows, schema = of_series(x, series)
    fit = build_forecaster(
        "ridge", schema, 1, {"base": "last", "groups": [{"by": "length", "parts": 2}]}
    ).fit(rows, z)
    met, new = rows[series], rows[series].copy()
    new[:, 3:] = 7
    assert (fit.predict(new) == fit.predict(met)).all()


def test_whole_rows_keep_what_was_filled_out_of_the_fit():
    """Half of the rows lack a lag that decides; a fit of the others is exact, and takes all when
    too few are whole."""
    x, z = of_two_kinds()
    whole = x[:, 2] == 1
    params = {"base": "last", "penalty": 1e-6, "columns": ["z_lag_1"], "sees_level": True}
    x[~whole, 1] = np.nan
    fit = build_forecaster("ridge", SCHEMA, 1, params | {"whole_rows": True}).fit(x, z)
    assert (
        np.abs(fit.predict(x) - z)[whole].mean()
        < 0.01
        < np.abs(build_forecaster("ridge", SCHEMA, 1, params).fit(x, z).predict(x) - z)[whole].mean()
    )
    x[3:, 1] = np.nan
    some, every = (
        build_forecaster("ridge", SCHEMA, 1, params | {"whole_rows": of}).fit(x, z) for of in (True, False)
    )
    assert (some.predict(x) == every.predict(x)).all()


def test_what_ridge_does_not_see_moves_nothing():
    x, z = of_two_kinds()
    fit = build_forecaster("ridge", SCHEMA, 1, {"columns": ["z_lag_1"]}).fit(x, z)
    other = x.copy()
    other[:, 2] = 99
    assert (fit.predict(other) == fit.predict(x)).all()


def test_ridge_names_the_unknown_column():
    with pytest.raises(ForecasterError, match=r"`columns` of Ridge names \['close_lag_1'\]"):
        build_forecaster("ridge", SCHEMA, 1, {"columns": ["close_lag_1"]})


def test_the_length_is_no_column():
    with pytest.raises(ForecasterError, match="`by: length` counts rows"):
        build_forecaster("ridge", SCHEMA, 1, {"groups": [{"by": "length", "column": "z_last", "parts": 2}]})


def test_a_group_names_the_column_that_is_missing():
    with pytest.raises(ForecasterError, match=r"'z_mean_99'.*Declare it in `features\.list`"):
        build_forecaster("ridge", SCHEMA, 1, {"groups": [{"column": "z_mean_99", "parts": 2}]})
