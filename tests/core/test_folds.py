"""Laws of walking forward: folds serve every cutoff once, and a misfit plan is refused."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import FoldError
from tasks.core.folds import WalkForward, build_folds

HORIZON = 3
law = settings(max_examples=40, deadline=None)


def walk_of(**changes):
    return WalkForward(
        **{"n_cutoffs": 5, "stride_steps": 1, "refit_every_cutoffs": 2, "min_train_steps": 4} | changes
    )


@law
@given(
    st.integers(0, 400),
    st.integers(1, 60),
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 30),
    st.integers(0, 3),
)
def test_folds_serve_every_cutoff_once_up_to_the_last_origin(
    spare, n_cutoffs, stride, refit_every, min_train, embargo
):
    walk = walk_of(
        n_cutoffs=n_cutoffs,
        stride_steps=stride,
        refit_every_cutoffs=refit_every,
        min_train_steps=min_train,
        embargo_steps=embargo,
    )
    last_origin = min_train + HORIZON + embargo + stride * (n_cutoffs - 1) - 1 + spare
    folds = build_folds(last_origin + 50, last_origin, HORIZON, walk)
    origins = np.concatenate([fold.origins for fold in folds])
    assert origins.tolist() == list(range(last_origin - stride * (n_cutoffs - 1), last_origin + 1, stride))
    period = stride * refit_every
    assert all(fold.fit_at <= fold.origins[0] and fold.origins[-1] < fold.fit_at + period for fold in folds)
    assert np.diff([fold.fit_at for fold in folds]).tolist() == [period] * (len(folds) - 1)
    # So many origins have their whole horizon usable at the first cutoff
    assert folds[0].fit_at - HORIZON - embargo + 1 >= min_train


@law
@given(st.integers(0, 200), st.integers(1, 40), st.integers(1, 7), st.integers(1, 9), st.integers(1, 60))
def test_a_longer_history_repeats_the_refits_of_the_shorter(spare, n_cutoffs, stride, refit_every, longer):
    walk = walk_of(n_cutoffs=n_cutoffs, stride_steps=stride, refit_every_cutoffs=refit_every)
    last_origin = 4 + HORIZON + stride * (n_cutoffs - 1) - 1 + spare
    before, after = (
        {fold.fit_at for fold in build_folds(last + 1, last, HORIZON, walk)}
        for last in (last_origin, last_origin + longer)
    )
    assert {at for at in after if at <= last_origin and at >= min(before)} == {
        at for at in before if at >= min(after)
    }


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 90),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(0, 2),
    st.integers(1, 30),
    st.sampled_from([1, 3, 100]),
)
def test_a_plan_that_does_not_fit_names_the_numbers_that_do(
    last_origin, min_train, stride, embargo, horizon, n_cutoffs
):
    """What the message proposes is then accepted, and one more is not."""
    own = {"stride_steps": stride, "embargo_steps": embargo}
    walk = walk_of(n_cutoffs=n_cutoffs, min_train_steps=min_train, **own)
    if last_origin + 1 >= min_train + horizon + embargo + (n_cutoffs - 1) * stride:
        return
    with pytest.raises(FoldError, match=f"{n_cutoffs} cutoffs every") as raised:
        build_folds(last_origin + 1, last_origin, horizon, walk)
    proposed = {
        key: int(n) for key, n in re.findall(r"`[a-z]+\.(\w+)` to (?:at most )?(\d+)", str(raised.value))
    }
    numbers = {"n_cutoffs": n_cutoffs, "min_train_steps": min_train, "horizon_steps": horizon}
    if not proposed:
        lacking = int(re.search(r"at least (\d+) steps more", str(raised.value))[1])
        one = walk_of(n_cutoffs=1, min_train_steps=min_train, **own)
        assert build_folds(last_origin + 1 + lacking, last_origin + lacking, horizon, one)
        return
    _build(last_origin, own, numbers | proposed)
    first = next(iter(proposed))
    with pytest.raises(FoldError):
        _build(last_origin, own, numbers | proposed | {first: proposed[first] + 1})


def _build(last_origin, own, numbers):
    horizon = numbers.pop("horizon_steps")
    return build_folds(last_origin + 1, last_origin, horizon, walk_of(**own, **numbers))


def test_a_horizon_that_the_history_cannot_hold_is_what_has_to_shrink():
    """Not the history before the first cutoff, which is a horizon long at least."""
    walk = walk_of(n_cutoffs=1, min_train_steps=1000)
    with pytest.raises(FoldError, match=r"Set `about\.horizon_steps` to at most 170\.$"):
        build_folds(1420, 1169, 2000, walk)


@pytest.mark.parametrize(
    "key", ["n_cutoffs", "stride_steps", "refit_every_cutoffs", "min_train_steps", "window_steps"]
)
def test_a_walk_without_a_step_is_refused(key):
    with pytest.raises(ValueError, match=key):
        walk_of(**{key: 0})
