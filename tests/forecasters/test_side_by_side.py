"""Fits in threads of one process: each is what it is alone, and numpy's linear algebra stays on
one thread."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from panels import small_panel, small_schema
from threadpoolctl import threadpool_info

from tasks.core.folds import WalkForward
from tasks.forecasters import FORECASTERS, build_forecaster, get_forecaster_class
from tasks.forecasters.graph.graph_definition import apply_one_blas_thread

WALK = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=1)
PARAMS = {"har": {"windows_steps": [1, 5]}, "lightgbm": {"min_data_in_leaf": 20}}
ATS = [150, 200, 250, 300, 350, 399] * 2
SIDE_BY_SIDE = [name for name in FORECASTERS if getattr(get_forecaster_class(name), "releases_gil", False)]


def _blas_threads():
    return {
        library["num_threads"]
        for library in threadpool_info()
        if library["user_api"] == "blas" and "numpy" in library["filepath"]
    }


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_a_fit_in_a_thread_is_the_fit_alone(name):
    panel = small_panel()
    x, _ = panel.get_inputs(np.arange(300, 400))

    def forecast(at):
        return (
            build_forecaster(name, small_schema(), 1, PARAMS.get(name, {}))
            .fit(*panel.get_training_pairs(at, WALK))
            .predict(x)
        )

    alone = [forecast(at) for at in ATS]
    with ThreadPoolExecutor(4) as pool:
        for one, beside in zip(alone, pool.map(forecast, ATS), strict=True):
            np.testing.assert_array_equal(one, beside)


def test_linear_algebra_stays_on_one_thread_after_a_fit():
    apply_one_blas_thread()
    assert _blas_threads() == {1}
