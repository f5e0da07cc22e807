"""The linear models' arithmetic against slow twins, and what groups and the absolute loss are for."""

import numpy as np
import pytest

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureColumn, FeatureSchema
from tasks.forecasters import build_forecaster
from tasks.forecasters.linear import moments, solve

SCHEMA = FeatureSchema(
    columns=tuple(FeatureColumn(name=name, role=role, lookback_steps=1) for name, role in (("z_last", "level"), ("z_lag_1", "level"), ("kind_value", "free"))),
    last="z_last",
    horizon_steps=2,
    season_steps=1,
)  # fmt: skip


def test_each_step_is_solved_on_the_rows_that_know_it():
    rng = np.random.default_rng(0)
    inputs, target = rng.normal(size=(300, 4)).astype(np.float32), rng.normal(size=(300, 3)).astype(np.float32)
    target[rng.random(target.shape) < 0.3] = np.nan
    found = solve(moments(inputs, target), 0.0)
    for step in range(3):
        known = np.isfinite(target[:, step])
        slow, *_ = np.linalg.lstsq(
            np.column_stack([np.ones(known.sum()), inputs[known]]).astype(float), target[known, step].astype(float), rcond=None
        )
        np.testing.assert_allclose(found[step], slow, rtol=1e-4, atol=1e-5)


def of_two_kinds(n=1200, seed=0):
    """x (n, 3), z (n, 2): rows of kind 1 go on in their direction, those of kind 0 turn back."""
    rng = np.random.default_rng(seed)
    before, moved, kind = rng.normal(size=n), rng.normal(size=n), np.arange(n) % 2
    last = before + moved
    after = last + np.where(kind == 1, 0.8, -0.8) * moved
    return np.column_stack([last, before, kind]).astype(np.float32), np.column_stack([after, after]).astype(np.float32)


def mean_error(x, z, **params):
    half = len(x) // 2
    fit = build_forecaster("ridge", SCHEMA, 1, {"base": "last", "penalty": 1e-6} | params).fit(x[:half], z[:half])
    return np.abs(fit.predict(x[half:]) - z[half:]).mean()


def test_groups_learn_what_one_equation_cannot():
    x, z = of_two_kinds()
    assert mean_error(x, z) > 0.5
    assert mean_error(x, z, groups=[{"column": "kind_value", "parts": 2}]) < 0.01


def test_a_group_with_too_few_rows_takes_the_coefficients_of_all():
    x, z = of_two_kinds(n=24)
    np.testing.assert_allclose(mean_error(x, z, groups=[{"column": "z_last", "parts": 16}]), mean_error(x, z), rtol=1e-5)


def test_the_absolute_loss_follows_the_median():
    """One row in five is far off on one side: least squares is drawn there, the median is not."""
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.normal(size=2000), rng.normal(size=2000), np.zeros(2000)]).astype(np.float32)
    z = x[:, :1] + 0.1 * rng.normal(size=(2000, 2)).astype(np.float32)
    true = z.copy()
    z[rng.random(2000) < 0.2] += 5
    fits = {loss: build_forecaster("ridge", SCHEMA, 1, {"base": "last", "penalty": 1e-6, "loss": loss}).fit(x, z) for loss in ("squared", "absolute")}
    off = {loss: abs(float((fit.predict(x) - true).mean())) for loss, fit in fits.items()}
    assert off["squared"] > 0.9
    assert off["absolute"] < 0.15


def test_a_weight_moves_the_fit_to_the_rows_that_count():
    x, z = of_two_kinds()
    half = build_forecaster("ridge", SCHEMA, 1, {"base": "last", "weight": {"constant": 1e-4, "column": "kind_value"}, "penalty": 1e-6}).fit(x, z)
    of_kind = x[:, 2] == 1
    assert np.abs(half.predict(x) - z)[of_kind].mean() < 0.05 < np.abs(half.predict(x) - z)[~of_kind].mean()


def test_a_group_names_the_column_that_is_missing():
    with pytest.raises(ForecasterError, match=r"'z_mean_99'.*Declare it in `features\.list`"):
        build_forecaster("ridge", SCHEMA, 1, {"groups": [{"column": "z_mean_99", "parts": 2}]})
