import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error

from tasks.core.errors import ScoreInputError
from tasks.core.scores import absolute_error, coverage, mase, mase_scale, owa, pinball, qlike, smape, squared_error

RNG = np.random.default_rng(0)
Y, Y_HAT = RNG.gamma(2.0, size=200), RNG.gamma(2.0, size=200)


def test_errors_agree_with_scikit_learn():
    assert absolute_error(Y, Y_HAT).mean() == pytest.approx(mean_absolute_error(Y, Y_HAT))
    assert squared_error(Y, Y_HAT).mean() == pytest.approx(mean_squared_error(Y, Y_HAT))
    assert pinball(Y, Y_HAT, 0.1).mean() == pytest.approx(mean_pinball_loss(Y, Y_HAT, alpha=0.1))


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
