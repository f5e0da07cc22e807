"""Laws of walking forward: folds serve every cutoff once, and a misfit plan is refused."""

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


@law
@given(st.integers(0, 60), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2))
def test_a_plan_that_does_not_fit_names_the_number_that_does(last_origin, min_train, stride, embargo):
    walk = walk_of(n_cutoffs=100, stride_steps=stride, min_train_steps=min_train, embargo_steps=embargo)
    if last_origin + 1 >= min_train + HORIZON + embargo + 99 * stride:
        return
    with pytest.raises(FoldError, match="100 cutoffs every") as told:
        build_folds(last_origin + 1, last_origin, HORIZON, walk)
    if "to at most" in str(told.value):
        fitting = int(str(told.value).split("to at most ")[1].split(",")[0])
        build_folds(last_origin + 1, last_origin, HORIZON, walk.model_copy(update={"n_cutoffs": fitting}))
        with pytest.raises(FoldError):
            build_folds(
                last_origin + 1, last_origin, HORIZON, walk.model_copy(update={"n_cutoffs": fitting + 1})
            )
    else:
        with pytest.raises(FoldError):
            build_folds(last_origin + 1, last_origin, HORIZON, walk.model_copy(update={"n_cutoffs": 1}))


@pytest.mark.parametrize(
    "key", ["n_cutoffs", "stride_steps", "refit_every_cutoffs", "min_train_steps", "window_steps"]
)
def test_a_walk_without_a_step_is_refused(key):
    with pytest.raises(ValueError, match=key):
        walk_of(**{key: 0})
