"""Fits in threads of one process: each is what it is alone, and linear algebra stays on one thread until the last has ended."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from panels import small_panel, small_schema
from threadpoolctl import threadpool_info, threadpool_limits

from tasks.core.windows import WalkForward
from tasks.forecasters import FORECASTERS, build_forecaster, forecaster_class
from tasks.forecasters.formula import _one_thread

WALK = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=1)
PARAMS = {"har": {"windows_steps": [1, 5]}, "lightgbm": {"min_data_in_leaf": 20}}
ATS = [150, 200, 250, 300, 350, 399] * 2
SIDE_BY_SIDE = [name for name in FORECASTERS if getattr(forecaster_class(name), "releases_gil", False)]


def _blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_a_fit_in_a_thread_is_the_fit_alone(name):
    panel = small_panel()
    x, _ = panel.at(np.arange(300, 400))

    def forecast(at):
        return build_forecaster(name, small_schema(), 1, PARAMS.get(name, {})).fit(*panel.training(at, WALK)).predict(x)

    alone = [forecast(at) for at in ATS]
    with ThreadPoolExecutor(4) as pool:
        for one, beside in zip(alone, pool.map(forecast, ATS), strict=True):
            np.testing.assert_array_equal(one, beside)


def test_the_limit_is_lifted_by_the_last_and_not_by_the_first():
    with threadpool_limits(limits=2, user_api="blas"):
        first, last = _one_thread(), _one_thread()
        first.__enter__()
        last.__enter__()
        first.__exit__(None, None, None)
        assert _blas_threads() == {1}
        last.__exit__(None, None, None)
        assert _blas_threads() == {2}
