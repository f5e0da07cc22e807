"""The parts of a served forecast add up to it, whatever members, combination and series it has."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from support.explanations import QUICK, add_up, check_explained
from support.small_release import (
    START,
    build_small_release,
    cutoff_at,
    small_about,
    small_rows,
    write_linear_graph,
)

from tasks.core.about import Bounds
from tasks.core.calendar import build_calendar
from tasks.core.errors import CostError
from tasks.core.frames import SERIES
from tasks.explain.forecast import explain_forecast
from tasks.explain.params import ExplainParams
from tasks.features import FeatureParams
from tasks.features.traced import find_value_sources
from tasks.release import load_release, write_manifest
from tasks.release.combine import Ranks, Recency, Weights

NEWEST = 399


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained") / "release"
    build_small_release(folder)
    return load_release(folder)


def test_twice_is_the_same_bits(release):
    rows = small_rows(seed=4)
    found = [explain_forecast(release, rows, cutoff_at(350), ["south"], QUICK) for _ in range(2)]
    release.cache.clear()
    assert [*found, explain_forecast(release, rows, cutoff_at(350), ["south"], QUICK)] == [found[0]] * 3


MEMBERS = ("last_value", "ridge", "seasonal_naive")
COMBINED = {
    "median": Ranks(members=MEMBERS, table=((0, 0, 0), (1, 0, 0), (0.5, 0.5, 0), (0, 1, 0))),
    "moving": Weights(
        members=MEMBERS, table=(((0.2,), (0.3,), (0.5,)),), recent=Recency(half_life_cutoffs=20)
    ),
}


@pytest.mark.parametrize("name", COMBINED)
def test_parts_add_up_by_the_weights_that_the_forecast_has(tmp_path, name):
    rows = small_rows()
    weights = dict.fromkeys(MEMBERS, 1 / 3)
    build_small_release(
        tmp_path / "r", rows, weights=weights, combination=COMBINED[name].model_dump(), combiner=name
    )
    for day in (350, 391, NEWEST):
        explained = check_explained(load_release(tmp_path / "r"), rows, cutoff_at(day))
        assert all(sum(one.weights.values()) == pytest.approx(1) for one in explained)


def test_bounds_and_calibration_are_parts_of_their_own(tmp_path):
    about = small_about()
    target = about.target.model_copy(update={"bounds": Bounds(max=120.0)})
    build_small_release(tmp_path / "r", about=about.model_copy(update={"target": target}))
    explained = check_explained(load_release(tmp_path / "r"), small_rows(), cutoff_at(NEWEST))
    steps = [step for one in explained for step in one.steps]
    assert max(step.y_hat for step in steps) == 120
    assert min(step.bounds for step in steps) < -10
    assert all(step.calibration != 0 for step in steps)


def test_the_only_signal_has_the_largest_part(tmp_path):
    """A member that reads one column alone, of many that the release has."""
    build_small_release(tmp_path / "r", weights={"ridge": 1.0})
    release = load_release(tmp_path / "r")
    weights = np.zeros((len(release.schema.columns), 5))
    weights[release.schema.index("z_lag_3")] = 1.0
    write_linear_graph(tmp_path / "r/members/ridge.onnx", weights, np.zeros(5))
    write_manifest(tmp_path / "r")
    for one in check_explained(load_release(tmp_path / "r"), small_rows(), cutoff_at(NEWEST)):
        assert [list(step.features) for step in one.steps] == [["z_lag_3"]] * 5
        assert all(abs(step.features["z_lag_3"]) > 0.01 for step in one.steps)


class Moody:
    """A member whose result depends on what else is in the batch."""

    def __init__(self, session):
        self.session = session

    def run(self, outputs, inputs):
        return [self.session.run(outputs, inputs)[0] + np.float32(len(inputs["x"]) / 1000)]


def test_a_member_without_explainer_is_named_and_undivided(tmp_path):
    build_small_release(tmp_path / "r")
    release = load_release(tmp_path / "r")
    moody = replace(release, members={**release.members, "ridge": Moody(release.members["ridge"])})
    (one,) = explain_forecast(moody, small_rows(), cutoff_at(NEWEST), ["north"], QUICK)
    assert all(step.members.keys() == {"ridge"} for step in one.steps)
    assert all(add_up(step) == pytest.approx(step.y_hat, rel=1e-9) for step in one.steps)


def test_too_many_series_are_refused_with_the_number_that_is_not(release):
    with pytest.raises(CostError, match=r"at most 5,000 are computed for a request. Ask for 1 series"):
        explain_forecast(
            release, small_rows(), cutoff_at(NEWEST), ["north", "south"], ExplainParams(max_evaluations=5_000)
        )


TRACED = [
    {"kind": "lag", "column": "z", "steps": [1, 4]},
    {"kind": "mean", "column": "load", "window_steps": [5]},
    {"kind": "calendar", "parts": ["weekday"]},
    {"kind": "ahead", "column": "plan"},
    {"kind": "cross", "column": "load", "of": ["mean"]},
    {"kind": "cross", "column": "load", "of": ["series"], "series_id": "south"},
]


def test_a_value_comes_from_the_newest_row_that_its_definition_reads():
    """One row late, one without a value, one corrected, one known ahead."""
    about = small_about(covariates={"known_ahead": ["plan"]})
    params = FeatureParams.model_validate({"list": TRACED})
    rows = small_rows(20).with_columns(plan=pl.lit(1.0))

    def at(day, **hours):
        return START + timedelta(days=day, **hours)

    is_day = pl.col("event_time")
    north = pl.col("series_id") == "north"
    rows = rows.with_columns(
        load=pl.when(north & (is_day == at(19))).then(None).otherwise("load"),
        known_at=pl.when(north & (is_day == at(18))).then(at(19, hours=5)).otherwise("known_at"),
    )
    correction = rows.filter(north & (is_day == at(15))).with_columns(known_at=pl.lit(at(19, hours=7)))
    plan = rows.filter(north & (is_day == at(19))).with_columns(
        event_time=pl.lit(at(21)), known_at=pl.lit(at(18)), load=pl.lit(None, pl.Float64)
    )
    rows = SERIES.conform(pl.concat([rows, correction.cast(rows.schema), plan.cast(rows.schema)]))
    calendar = build_calendar(about, reach=(START, at(30)))
    found = find_value_sources(rows, about, params, calendar, ("north", at(19)), at(20))
    assert found["z_last"] == found["load_mean_5"] == (at(18), at(19, hours=5))
    assert found["z_lag_1"] == (at(18), at(19, hours=5))
    assert found["z_lag_4"] == (at(15), at(19, hours=7))
    assert found["calendar_weekday"] == (at(19), None)
    assert (found["plan_ahead_1"], found["plan_ahead_2"]) == ((None, None), (at(21), at(18)))
    assert found["load_cross_mean"] == found["load_cross_series_south"] == (at(19), at(20))
