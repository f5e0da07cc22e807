"""Laws of every forecaster: a new entry of FORECASTERS gets these for free.

The laws themselves are in tasks/laws/forecasters.py, which `tidemill check` runs, too.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import NETS
from small_models import PARAMS

from tasks.core.errors import ForecasterError
from tasks.forecasters import FORECASTERS, build_forecaster
from tasks.laws.forecaster_data import build_pairs, build_schema
from tasks.laws.forecasters import (
    FORECASTER_LAWS,
    ForecasterSubject,
    check_finite,
    check_refusals,
    check_unknown_parameter,
    check_unknown_series,
)

VARIANTS = {  # what parameters make of a model is under law too
    "lightgbm aligned": (
        "lightgbm",
        {"min_data_in_leaf": 20, "base": "seasonal", "aligned_steps": [2], "columns": ["z_lag_1"]},
    ),
    "lightgbm repeated": ("lightgbm", {"min_data_in_leaf": 20, "strategy": "recursive", "base": "seasonal"}),
    "xgboost of absolute errors": (
        "xgboost",
        {
            "min_child_weight": 20,
            "loss": "absolute",
            "weight": {"column": "z_lag_1", "constant": 2, "in_z": True},
        },
    ),
    "catboost of a quantile": ("catboost", {"depth": 3, "loss": "quantile", "quantile": 0.8}),
    "ridge of absolute errors": (
        "ridge",
        {"loss": "absolute", "weight": {"column": "z_lag_1", "constant": 20}, "max_rows": 500},
    ),
    "ridge of groups": (
        "ridge",
        {
            "groups": [{"column": "z_last", "parts": 3}, {"column": "z_lag_1", "over": "z_last", "parts": 2}],
            "penalty": 0.01,
        },
    ),
    "ridge of the series' groups": (
        "ridge",
        {
            "groups": [
                {"by": "series", "column": "z_lag_1", "over": "z_last", "parts": 2},
                {"by": "length", "parts": 2},
            ],
            "columns": ["z_lag_1"],
        },
    ),
    "all steps of sklearn": (
        "sklearn:linear_model.LinearRegression",
        {"steps": "outputs", "base": "seasonal"},
    ),
}
LOCAL = {"ets", "theta", "arima", "garch", "prophet"}  # they know each series by itself
NAMES = sorted([*FORECASTERS, *VARIANTS])
law = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def build_subject(name, **more):
    """The model or variant *name* with its parameters, *more* on top."""
    forecaster, params = VARIANTS.get(name, (name, PARAMS.get(name, {})))
    return ForecasterSubject(forecaster, {**params, **more})


@pytest.fixture(scope="module")
def subjects():
    """Each forecaster, fitted once on the same pairs."""
    return {name: build_subject(name) for name in NAMES}


@pytest.mark.parametrize("law", FORECASTER_LAWS, ids=lambda law: law.name)
@pytest.mark.parametrize("name", NAMES)
def test_a_forecaster_keeps_the_law(name, law, subjects):
    law.check(subjects[name])


@pytest.mark.parametrize("name", NAMES)
@law
@given(
    rows=st.lists(
        st.tuples(
            st.floats(-(2.0**100), 2.0**100, width=32),
            *(st.floats(-(2.0**100), 2.0**100, width=32) | st.just(float("nan")) for _ in range(8)),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_forecasts_are_finite_whatever_is_unknown(name, subjects, rows):
    check_finite(subjects[name], np.array(rows))


@pytest.mark.parametrize("name", NAMES)
def test_a_series_without_history_is_answered_by_global_models_alone(name, subjects):
    assert check_unknown_series(subjects[name]).startswith("NaN" if name in LOCAL else "finite")


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_parameter_is_refused_with_the_known_ones(name, subjects):
    message = check_unknown_parameter(subjects[name])
    assert "no_such_thing" in message
    assert "Its parameters are" in message


@pytest.mark.parametrize("name", NAMES)
def test_an_unfitted_or_foreign_model_says_so(name, subjects):
    message = check_refusals(subjects[name])
    for words in (
        "has learned nothing",
        "13 columns",
        "Load it with the class that wrote it",
        "holds no readable",
    ):
        assert words in message


@pytest.mark.parametrize(
    "name", ["har", "ridge", "lightgbm", "xgboost", "catboost", "sklearn", "lightgbm repeated", *NETS]
)
def test_a_signal_is_learned(name):
    """On rows that no fit has seen, a seasonal autoregression is forecast better than by its
    last value."""
    more = {"epochs": 30} if name in NETS else {}
    x, z = build_pairs(2000, missing=0.02)
    fit, naive = (
        build_subject(m, **p).fit_on(x[:1500], z[:1500]) for m, p in ((name, more), ("last_value", {}))
    )
    error, naive_error = (np.nanmean(np.square(m.predict(x[1500:]) - z[1500:])) for m in (fit, naive))
    # The season is no straight line of the weekday
    assert error < {"har": 0.8, "nlinear": 0.5}.get(name, 0.4) * naive_error


def test_trees_improve_on_their_base_where_it_cannot_bend():
    x, z = build_pairs(3000, missing=0)
    z += 3 * np.abs(x[:, :1] - 1)
    errors = {}
    for name in ("ridge", "lightgbm", "xgboost", "catboost"):
        fit = build_forecaster(name, build_schema(), 1, {}).fit(x[:2500], z[:2500])
        errors[name] = np.mean(np.square(fit.predict(x[2500:]) - z[2500:]))
    assert max(errors[name] for name in ("lightgbm", "xgboost", "catboost")) < 0.8 * errors["ridge"]


@pytest.mark.parametrize(
    ("name", "params"), [("window_mean", {"window_steps": 22}), ("har", {"windows_steps": [1, 22]})]
)
def test_a_missing_window_column_names_the_feature_to_declare(name, params):
    with pytest.raises(ForecasterError, match=r"z_mean_22.*kind: mean, column: z, window_steps: \[22\]"):
        build_forecaster(name, build_schema(), 1, params)


def test_an_unknown_forecaster_is_refused_with_the_known_ones():
    with pytest.raises(ForecasterError, match="last_value"):
        build_forecaster("lastvalue", build_schema(), 1, {})
