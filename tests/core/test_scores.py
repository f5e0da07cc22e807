import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_pinball_loss,
    mean_squared_error,
)

from tasks.core.errors import ScoreInputError
from tasks.core.scores import (
    absolute_error,
    absolute_percentage_error,
    bias,
    coverage,
    crps_from_quantiles,
    crps_from_samples,
    interval_score,
    mae,
    mape,
    mase,
    mase_scale,
    msis,
    owa,
    pinball,
    qlike,
    rmse,
    rmsse,
    rmsse_scale,
    skill,
    smape,
    squared_error,
)

with warnings.catch_warnings(action="ignore"):  # of its docstrings' escapes, when Python compiles them
    import utilsforecast.losses as peer

RNG = np.random.default_rng(0)
Y, Y_HAT = RNG.gamma(2.0, size=200), RNG.gamma(2.0, size=200)
VALUES = arrays(np.float64, st.just((4, 12)), elements=st.floats(-1e3, 1e3, allow_subnormal=False))


@given(VALUES)
def test_errors_agree_with_scikit_learn(values):
    y, y_hat = values[0], values[1]
    assert mae(y, y_hat) == pytest.approx(mean_absolute_error(y, y_hat))
    assert rmse(y, y_hat) ** 2 == pytest.approx(mean_squared_error(y, y_hat))
    assert pinball(y, y_hat, 0.1).mean() == pytest.approx(mean_pinball_loss(y, y_hat, alpha=0.1))
    away = np.where(np.abs(y) < 1, 1.0, y)
    assert mape(away, y_hat) == pytest.approx(100 * mean_absolute_percentage_error(away, y_hat))


@settings(deadline=None)  # the first call imports it
@given(VALUES)
def test_scores_agree_with_utilsforecast(values):
    y, y_hat, other, past = values
    low, high, season, ids = np.minimum(y_hat, other), np.maximum(y_hat, other), 3, ["a"] * 12
    past = past + np.arange(12) ** 2  # so that the season's differences are not all 0
    frame = pl.DataFrame({"unique_id": ids, "y": y, "m": y_hat, "m-lo-80": low, "m-hi-80": high})
    train = pl.DataFrame({"unique_id": ids, "ds": np.arange(12), "y": past})

    def said(score, *args, **kwargs):
        return pytest.approx(score(frame, ["m"], *args, **kwargs)["m"].item(), rel=1e-9, abs=1e-9)

    assert mae(y, y_hat) == said(peer.mae)
    assert rmse(y, y_hat) == said(peer.rmse)
    assert bias(y, y_hat) == said(peer.bias)
    assert smape(y, y_hat).mean() / 200 == said(peer.smape)
    assert coverage(y, low, high) == said(peer.coverage, level=80)
    assert interval_score(y, low, high, 0.8).mean() == said(peer.winkler_score, level=80)
    assert mase(y, y_hat, past, season) == said(peer.mase, seasonality=season, train_df=train)
    assert rmsse(y, y_hat, past, season) == said(peer.rmsse, seasonality=season, train_df=train)
    columns = {"m": ["m-lo-80", "m-hi-80"]}
    pinballs = peer.mqloss(frame, columns, quantiles=np.array([0.25, 0.75]))["m"].item()
    crps = crps_from_quantiles(y, np.column_stack([low, high]), (0.25, 0.75)).mean()
    assert crps == pytest.approx(2 * pinballs, rel=1e-9, abs=1e-9)


@given(VALUES)
def test_the_interval_score_is_the_pinball_losses_of_its_two_ends(values):
    y, low, high = values[0], *np.sort(values[1:3], axis=0)
    both = pinball(y, low, 0.1) + pinball(y, high, 0.9)
    np.testing.assert_allclose(interval_score(y, low, high, 0.8), 2 / 0.2 * both, rtol=1e-9, atol=1e-9)


@given(VALUES, st.data())
def test_what_is_not_known_does_not_count(values, data):
    y, y_hat, low, width = values
    hidden = data.draw(arrays(bool, 12).filter(lambda h: not h.all()))
    gaps, high = np.where(hidden, np.nan, y), low + np.abs(width)
    for score in (mae, rmse, bias):
        assert score(gaps, y_hat) == pytest.approx(score(y[~hidden], y_hat[~hidden]))
        assert np.isnan(score(np.full(12, np.nan), y_hat))
    assert coverage(gaps, low, high) == coverage(y[~hidden], low[~hidden], high[~hidden])
    losses = (
        absolute_error,
        squared_error,
        smape,
        lambda y, q: pinball(y, q, 0.3),
        lambda y, q: interval_score(y, q, q + 1, 0.5),
    )
    assert all((np.isnan(loss(gaps, y_hat)) == hidden).all() for loss in losses)


def test_percentages_by_hand():
    assert absolute_percentage_error(np.array([2.0, -4.0]), np.array([3.0, -3.0])).tolist() == [50.0, 25.0]
    with pytest.raises(ScoreInputError, match="y is 0 at 1 of 2"):
        mape(np.array([0.0, 1.0]), np.ones(2))


def test_interval_scores_by_hand():
    """Level .8: a width of 2, and 10 for each unit outside.

    Training 0 1 0 2, season 2, has scale .5.
    """
    y, low, high = np.array([1.0, 3.0, -1.0]), np.zeros(3), np.full(3, 2.0)
    assert interval_score(y, low, high, 0.8).tolist() == pytest.approx([2.0, 12.0, 12.0])
    assert msis(y, low, high, 0.8, np.array([0.0, 1.0, 0.0, 2.0]), 2) == pytest.approx(26 / 3 / 0.5)
    with pytest.raises(ScoreInputError, match="between 0 and 1"):
        interval_score(y, low, high, 80)


def test_crps_of_samples_is_the_area_between_both_distribution_functions():
    """Integral of (F - 1[x >= y])^2, piece by piece between the sorted draws and y: an
    independent route."""
    samples, y = RNG.normal(size=9), 0.3
    edges = np.sort(np.append(samples, y))
    middle = (edges[1:] + edges[:-1]) / 2
    share = (samples[None, :] <= middle[:, None]).mean(axis=1)
    area = np.sum(np.square(share - (middle >= y)) * np.diff(edges))
    assert crps_from_samples(np.array(y), samples) == pytest.approx(area)
    # One draw is a point, and the score its error
    assert crps_from_samples(np.array([2.0]), np.array([[5.0]])).tolist() == [3.0]


def test_crps_of_many_quantiles_is_that_of_a_normal_by_its_formula():
    """Gneiting & Raftery 2007, equation 5: for N(0, 1) at y = 0 it is 2 pdf(0) - 1/sqrt(pi)."""
    from scipy.stats import norm

    levels = (np.arange(2000) + 0.5) / 2000
    exact = 2 * norm.pdf(0) - 1 / np.sqrt(np.pi)
    assert crps_from_quantiles(np.array(0.0), norm.ppf(levels), tuple(levels)) == pytest.approx(
        exact, abs=1e-4
    )
    assert crps_from_samples(np.array(0.0), norm.ppf(levels)) == pytest.approx(exact, abs=1e-3)


def test_crps_refuses_quantiles_that_do_not_rise_and_draws_of_another_shape():
    with pytest.raises(ScoreInputError, match="rise strictly"):
        crps_from_quantiles(np.zeros(2), np.zeros((2, 2)), (0.9, 0.1))
    with pytest.raises(ScoreInputError, match="draws of shape"):
        crps_from_samples(np.zeros(2), np.zeros((3, 5)))


def test_shapes_that_differ_are_refused_and_not_spread():
    with pytest.raises(ScoreInputError, match="one shape"):
        mae(np.zeros(3), np.zeros((3, 1)))


def test_rmsse_by_hand():
    """Training 0 1 0 2, season 1: squares 1, 1, 4; errors 1 and 3: sqrt(5) / sqrt(2)."""
    assert rmsse(np.array([1.0, 3.0]), np.zeros(2), np.array([0.0, 1.0, 0.0, 2.0])) == pytest.approx(
        np.sqrt(5 / 2)
    )
    with pytest.raises(ScoreInputError, match="RMSSE is undefined"):
        rmsse_scale(np.ones(5), 1)


def test_skill_is_what_is_saved_of_the_baselines_loss():
    assert skill(3.0, 4.0) == 0.25
    assert skill(5.0, 4.0) == -0.25
    with pytest.raises(ScoreInputError, match="above 0"):
        skill(1.0, 0.0)


def test_qlike_by_hand():
    """y = 2, y_hat = 1: variance ratio 4, loss 4 - ln 4 - 1; right is 0."""
    assert qlike(np.array([2.0, 3.0]), np.array([1.0, 3.0])).tolist() == pytest.approx([3 - np.log(4), 0.0])


def test_qlike_is_least_at_the_root_of_the_mean_square():
    candidates = np.linspace(0.5, 6, 2000)
    best = candidates[np.argmin([qlike(Y, np.full_like(Y, c)).mean() for c in candidates])]
    assert best == pytest.approx(np.sqrt(np.mean(Y**2)), abs=0.005)


def test_qlike_refuses_a_forecast_that_is_not_positive():
    with pytest.raises(ScoreInputError, match="y_hat > 0"):
        qlike(Y, Y_HAT - 10)


def test_smape_by_hand_and_zero_over_zero():
    assert smape(np.array([1.0, 0.0]), np.array([3.0, 0.0])).tolist() == [100.0, 0.0]


def test_mase_by_hand():
    """Training 0 1 0 2, season 2: mean(|0-0|, |2-1|) = 0.5; errors 1 and 2: 1.5 / 0.5 = 3."""
    assert mase(np.array([1.0, 2.0]), np.array([0.0, 0.0]), np.array([0.0, 1.0, 0.0, 2.0]), 2) == 3.0


def test_mase_refuses_what_has_no_scale():
    with pytest.raises(ScoreInputError, match="repeats exactly"):
        mase_scale(np.array([1.0, 2.0, 1.0, 2.0]), 2)
    with pytest.raises(ScoreInputError, match="more than season_steps"):
        mase_scale(np.array([1.0, 2.0]), 2)


def test_owa_of_naive2_is_one():
    assert owa(18.383, 2.395, 18.383, 2.395) == 1.0


def test_coverage_counts_only_what_is_known():
    y = np.array([1.0, 2.0, np.nan, 9.0])
    assert coverage(y, np.zeros(4), np.full(4, 3.0)) == pytest.approx(2 / 3)
    assert np.isnan(coverage(np.array([np.nan]), np.zeros(1), np.ones(1)))
