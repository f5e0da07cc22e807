"""Comparisons: against statsmodels and arch, which were written by others, and by the share of
wrong verdicts that they state."""

import numpy as np
import pytest
import statsmodels.api as sm
from arch.bootstrap import MCS
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.compare import compute_block_size, diebold_mariano, model_confidence_set
from tasks.core.cosine import compute_cosine_test
from tasks.core.errors import ScoreInputError


def _memory(rng, n, m=1, rho=0.5):
    """(n, m) autoregressions with standard deviation 1."""
    out = rng.normal(size=(n, m))
    for t in range(1, n):
        out[t] = rho * out[t - 1] + np.sqrt(1 - rho**2) * out[t]
    return out


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 300), overlap=st.integers(1, 8))
def test_diebold_mariano_is_a_regression_on_a_constant_with_newey_west_errors(seed, n, overlap):
    d = _memory(np.random.default_rng(seed), n)[:, 0] + 0.1
    test = diebold_mariano(d, overlap)
    fitted = sm.OLS(d, np.ones(n)).fit(
        cov_type="HAC", cov_kwds={"maxlags": test.lags, "use_correction": False}
    )
    harvey = np.sqrt((n + 1 - 2 * overlap + overlap * (overlap - 1) / n) / n)
    assert test.t == pytest.approx(fitted.tvalues[0] * harvey)
    assert diebold_mariano(-d, overlap).p == pytest.approx(1 - test.p)


def test_diebold_mariano_of_constants_goes_by_the_sign():
    assert [diebold_mariano(np.full(20, c)).p for c in (1.0, -1.0, 0.0)] == [0.0, 1.0, 1.0]


def test_equal_models_are_told_apart_about_as_rarely_as_stated():
    """2,000 A/A pairs of 250 cutoffs at a nominal 5 %; on 60 with memory Diebold-Mariano is
    known to say it too often, the gate's test is not."""
    rng = np.random.default_rng(0)
    long = [diebold_mariano(_memory(rng, 250, rho=0.3)[:, 0]).p < 0.05 for _ in range(2000)]
    assert 0.035 <= np.mean(long) <= 0.075
    short = [
        (diebold_mariano(d).p < 0.05, compute_cosine_test(d).p < 0.05)
        for d in (_memory(rng, 60, rho=0.7)[:, 0] for _ in range(2000))
    ]
    ours, gates = np.mean(short, axis=0)
    assert gates <= 0.09 <= ours <= 0.18


@pytest.mark.parametrize("seed", range(4))
def test_the_confidence_set_is_that_of_another_implementation(seed):
    """arch's own, T_max, moving blocks of the same length: p of each model to the noise of 2,000
    draws."""
    rng = np.random.default_rng(seed)
    losses = _memory(rng, 400, 5) + np.array([0.0, 0.02, 0.12, 0.2, 0.6])
    theirs = MCS(losses, size=0.1, block_size=8, reps=2000, method="max", bootstrap="circular", seed=seed)
    theirs.compute()
    expected = theirs.pvalues["Pvalue"].sort_index().to_numpy()
    found = model_confidence_set(losses, 8, seed, 2000).p
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_the_best_of_equal_models_is_lost_about_as_rarely_as_stated(rho):
    """Four equal models: all of them are best, and the set of alpha 10 % holds all in about 90 %
    of 400 samples of 250 cutoffs."""
    rng = np.random.default_rng(1)
    whole = [
        model_confidence_set(_memory(rng, 250, 4, rho), compute_block_size(250), i, 300).members(0.1).all()
        for i in range(400)
    ]
    assert 0.86 <= np.mean(whole) <= 0.95


def test_a_model_that_is_clearly_worse_leaves_and_its_double_shares_its_fate():
    rng = np.random.default_rng(2)
    losses = _memory(rng, 300, 2) + np.array([0.0, 2.0])
    found = model_confidence_set(np.column_stack([losses, losses[:, 1]]), 5, 0)
    assert found.members(0.1).tolist() == [True, False, False]
    assert model_confidence_set(losses[:, [0, 0]], 5, 0).p.tolist() == [1.0, 1.0]


def test_the_same_seed_gives_the_same_set():
    losses = _memory(np.random.default_rng(3), 100, 3)
    np.testing.assert_array_equal(model_confidence_set(losses, 5, 7).p, model_confidence_set(losses, 5, 7).p)


def test_too_little_to_compare_says_how_much_there_is():
    with pytest.raises(ScoreInputError, match="there are 5"):
        diebold_mariano(np.ones(5))
    with pytest.raises(ScoreInputError, match="block has 20"):
        model_confidence_set(np.ones((20, 2)), 20, 0)
