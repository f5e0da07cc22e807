"""What `mase` and `owa` measure with: by hand, against utilsforecast, and without a look ahead."""

import warnings

import numpy as np
import polars as pl
import pytest
from panels import CALENDAR, feature_table, small_about, small_panel

from tasks.core.errors import ScoreInputError
from tasks.core.scores import compute_primary_loss, smape
from tasks.core.seasonal import Seasonal, build_seasonal_from_panel, build_seasonal_from_rows

with warnings.catch_warnings(action="ignore"):  # of its docstrings' escapes, when Python compiles them
    import utilsforecast.losses as peer

SCALED = pytest.mark.parametrize("score", ["mase", "owa"])


def seasonal(y, season_steps=1, known_pos=None):
    y = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
    known = (
        np.broadcast_to(np.arange(len(y))[:, None], y.shape)
        if known_pos is None
        else np.asarray(known_pos).reshape(y.shape)
    )
    times = CALENDAR.list_next_steps(feature_table(n_steps=2)["event_time"][0], len(y))
    return Seasonal(times, tuple(f"s{i}" for i in range(y.shape[1])), y, known, season_steps)


def test_the_scale_is_the_mean_seasonal_difference_so_far():
    np.testing.assert_array_equal(seasonal([1, 2, 4, 3]).scale.ravel(), [np.nan, 1, 3 / 2, 4 / 3])
    np.testing.assert_array_equal(
        seasonal([1, 2, 4, 3], season_steps=2).scale.ravel(), [np.nan, np.nan, 3, 2]
    )
    np.testing.assert_array_equal(seasonal([1, np.nan, 4, 3]).scale.ravel(), [np.nan, np.nan, np.nan, 1])


def test_a_value_that_comes_late_counts_from_then_on():
    np.testing.assert_array_equal(
        seasonal([1, 2, 4, 3], known_pos=[0, 3, 2, 3]).scale.ravel(), [np.nan, np.nan, np.nan, 4 / 3]
    )


def test_a_series_that_stands_still_has_no_scale():
    assert np.isnan(seasonal([[1, 1], [1, 2], [1, 3]]).scale[:, 0]).all()


def test_the_naive_repeats_the_last_whole_season():
    of = seasonal([10, 20, 30, 40], season_steps=3)
    np.testing.assert_array_equal(
        of.naive(np.full(4, 3), np.zeros(4, dtype=int), np.arange(1, 5)), [20, 30, 40, 20]
    )
    assert np.isnan(of.naive(np.array([1]), np.array([0]), np.array([1])))


def test_nothing_after_a_cutoff_moves_its_scale_or_naive():
    rng = np.random.default_rng(0)
    y = rng.gamma(2, size=(60, 3))
    spoilt = y.copy()
    spoilt[31:] = 1e6
    one, other = seasonal(y, 7), seasonal(spoilt, 7)
    np.testing.assert_array_equal(one.scale[:31], other.scale[:31])
    at = np.full((3, 1), 30), np.arange(3)[:, None], np.arange(1, 20)
    np.testing.assert_array_equal(one.naive(*at), other.naive(*at))


def test_they_agree_with_utilsforecast_at_a_cutoff():
    """MASE by its training part; OWA is the mean of the ratios of its sMAPE and MASE to those of
    the seasonal naive."""
    rng, season, origin, steps = np.random.default_rng(1), 4, 39, 6
    y = rng.gamma(2, size=(60, 3)) + 5
    of, ids = seasonal(y, season), np.arange(3)[:, None]
    truth, y_hat = y[origin + 1 : origin + 1 + steps].T, rng.gamma(2, size=(3, steps)) + 5
    at = np.full((3, 1), origin), ids, np.arange(1, steps + 1)
    naive, scaling = of.naive(*at), of.scaling_errors(truth, *at)
    names = np.repeat(["s0", "s1", "s2"], steps)
    frame = pl.DataFrame({"unique_id": names, "y": truth.ravel(), "m": y_hat.ravel(), "n": naive.ravel()})
    past = pl.DataFrame(
        {"unique_id": np.repeat(["s0", "s1", "s2"], origin + 1), "y": y[: origin + 1].T.ravel()}
    )
    mase, owned = peer.mase(frame, ["m", "n"], season, past).mean(), peer.smape(frame, ["m", "n"]).mean()
    assert compute_primary_loss("mase", truth, y_hat, scaling).mean() == pytest.approx(mase["m"].item())
    expected = (mase["m"].item() / mase["n"].item() + owned["m"].item() / owned["n"].item()) / 2
    assert compute_primary_loss("owa", truth, y_hat, scaling).mean() == pytest.approx(expected)
    assert compute_primary_loss("owa", truth, naive, scaling).mean() == pytest.approx(1.0)


def test_rows_are_measured_as_the_grid_is():
    about = small_about("owa")
    table, panel = feature_table(), small_panel(about)
    rows = pl.DataFrame(
        {
            "series_id": ["s1", "s0", "s1", "x"],
            "event_time": [panel.event_time[i] for i in (50, 60, 399, 60)],
            "step": [1, 3, 2, 1],
            "y": 1.0,
        }
    )
    for of in (build_seasonal_from_panel(panel), build_seasonal_from_rows(table, about, CALENDAR)):
        found = of.scaling_errors_of_rows(rows)
        np.testing.assert_array_equal(
            found.scale, [of.scale[49, 1], of.scale[57, 0], of.scale[397, 1], np.nan]
        )
        naive = panel.y[[49, 57, 397], [1, 0, 1]]  # a season of 1
        assert found.naive_smape_pct == pytest.approx(smape(np.ones(3), naive).mean())
    assert build_seasonal_from_panel(small_panel(small_about("mae"))) is None


@SCALED
def test_what_cannot_be_measured_says_why(score):
    with pytest.raises(ScoreInputError, match="scaling"):
        compute_primary_loss(score, np.ones(2), np.ones(2))
    still = seasonal(np.ones(5)).scaling_errors(
        np.ones(2), np.full(2, 2), np.zeros(2, dtype=int), np.array([1, 2])
    )
    with pytest.raises(ScoreInputError, match="repeats it exactly"):
        compute_primary_loss(score, np.ones(2), np.ones(2), still)
