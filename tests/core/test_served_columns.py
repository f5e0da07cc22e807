"""What is served and scored keeps to the contract, whatever the members say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.about import About
from tasks.core.kinds import get_kind
from tasks.core.kinds.conformal import Conformal
from tasks.core.kinds.numeric import compute_limits
from tasks.core.kinds.timeline import hold_point

QUANTILES = [0.1, 0.3, 0.5, 0.7, 0.9]


def decode_columns(about, columns):
    return get_kind(about.target).decode_columns(about, columns)


def about_of(quantiles=QUANTILES, **target):
    return About.model_validate(
        {
            "description": "made up",
            "every": "1d",
            "target": {"column": "y", "unit": "1", **target},
            "horizon_steps": 1,
            "quantiles": quantiles,
        }
    )


@given(
    st.lists(st.floats(-50, 50), min_size=5, max_size=5).map(sorted),
    st.floats(-60, 60),
    st.sampled_from([{}, {"min": 0}, {"min": 0, "strict_min": True}, {"min": -3.5, "max": 7.25}, {"max": 4}]),
    st.booleans(),
)
def test_columns_are_within_the_bounds_rise_and_hold_the_point(quantiles, point, bounds, integer):
    about = about_of(integer=integer, **({"bounds": bounds} if bounds else {}))
    columns = hold_point(np.array([[point, *quantiles]]), Conformal(1, 1, about.quantiles, 1, 0.0))
    made = decode_columns(about, columns)[0]
    assert (made >= bounds.get("min", -np.inf)).all()
    assert (made <= bounds.get("max", np.inf)).all()
    if bounds.get("strict_min"):
        assert (made > bounds["min"]).all()
    assert (np.diff(made[1:]) >= 0).all()
    assert made[1] <= made[0] <= made[-1]
    if integer:
        assert (made[1:] == np.rint(made[1:])).all()
    expected = np.clip(point, *compute_limits(about.target))
    assert made[0] == expected == get_kind(about.target).decode(about.target, np.array(point))


@given(st.lists(st.floats(0, 50), min_size=5, max_size=5).map(sorted))
def test_an_interval_of_whole_numbers_covers_what_the_interval_before_covered(quantiles):
    before = np.array([quantiles[2], *quantiles])
    made = decode_columns(about_of(integer=True), before[None])[0]
    for y in range(52):
        assert not before[1] <= y <= before[-1] or made[1] <= y <= made[-1]
    assert np.abs(made[1:] - before[1:]).max() <= 1


def test_what_is_unknown_stays_unknown_and_rounding_does_not_see_noise():
    made = decode_columns(
        about_of(integer=True), np.array([[1.5, *[np.nan] * 5], [5.0, 4.9999999, 5, 5, 5, 5.0000001]])
    )
    assert made[0, 0] == 1.5
    assert np.isnan(made[0, 1:]).all()
    assert made[1].tolist() == [5.0] * 6


@pytest.mark.parametrize("quantiles", [[], [0.5]])
def test_points_alone_and_one_quantile_are_no_interval(quantiles):
    made = decode_columns(about_of(quantiles), np.array([[3.0, *[1.0] * len(quantiles)]]))
    assert made.tolist() == [[3.0, *[1.0] * len(quantiles)]]
