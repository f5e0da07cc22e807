"""Laws of every transform: there and back, rising, nothing below its least value, what a Box-Cox
power lies between."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import boxcox

from tasks.core.about import About, Target
from tasks.core.errors import ParamsError
from tasks.core.kinds.numeric import NumericKind
from tasks.core.transform import inverse_transform_target, transform_target_array

LEAST = {"none": -np.inf, "log": 0.0, "log1p": -1.0, "box_cox": 0.0}
TARGETS = [
    Target(column="y", unit="1", transform=name, power=0.3 if name == "box_cox" else None) for name in LEAST
]
every_transform = pytest.mark.parametrize("target", TARGETS, ids=list(LEAST))


@every_transform
@given(y=st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20))
def test_there_and_back_is_where_it_was(target, y):
    np.testing.assert_allclose(
        inverse_transform_target(target, transform_target_array(target, np.array(y))), y, rtol=1e-9
    )


@every_transform
@given(y=st.lists(st.floats(1e-6, 1e9), min_size=2, max_size=20, unique=True))
def test_the_order_of_values_stays(target, y):
    """So quantiles of z are quantiles of y. Two floats may meet in z, and never change places."""
    z = transform_target_array(target, np.sort(y))
    assert (np.diff(z) >= 0).all()
    assert (np.diff(inverse_transform_target(target, z)) >= 0).all()


@every_transform
def test_what_has_no_z_is_missing(target):
    z = transform_target_array(
        target,
        np.array(
            [
                np.nan,
                np.inf,
                -np.inf,
                LEAST[target.transform],
                np.nextafter(max(LEAST[target.transform], -1e300), np.inf),
            ]
        ),
    )
    assert np.isnan(z[:4]).all()
    assert np.isfinite(z[4])


@every_transform
def test_a_floor_counts_itself_and_nothing_below(target):
    z = transform_target_array(target.model_copy(update={"floor": 2.0}), np.array([1.999, 2.0, 3.0]))
    assert np.isfinite(z).tolist() == [False, True, True]


@given(y=st.floats(1e-3, 1e6), power=st.floats(1e-12, 0.99))
def test_box_cox_is_scipys(y, power):
    z = transform_target_array(Target(column="y", unit="1", transform="box_cox", power=power), np.array([y]))
    np.testing.assert_allclose(z, boxcox(y, power), rtol=1e-9, atol=1e-12)


def test_a_box_cox_value_that_no_y_has_gives_the_end_of_the_range():
    assert inverse_transform_target(TARGETS[-1], np.array([-1e9, -1 / 0.3])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"transform": "box_cox"}, "`power` goes with"),
        ({"transform": "log", "power": 0.5}, "`power` goes with"),
        ({"transform": "log", "floor": 0.0}, "not defined"),
    ],
)
def test_what_does_not_go_together_is_refused(target, said):
    with pytest.raises(ValidationError, match=said):
        Target(column="y", unit="1", **target)


def test_a_mean_does_not_pass_through_box_cox():
    about = About(description="", every="1d", target=TARGETS[-1], horizon_steps=1, primary_score="rmse")
    with pytest.raises(ParamsError, match="none passes through box_cox"):
        NumericKind().check(about)
