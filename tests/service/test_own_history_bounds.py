"""A history in a request keeps to the contract of the target, as rows of the dataset do."""

from datetime import timedelta

import pytest
from servers import DATASET, at
from small_release import START, build_small_release, small_about

from deployments.forecaster.own_history import build_own_rows
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import ForecastRequest
from deployments.forecaster.source import ReleaseSource


@pytest.fixture(scope="module")
def load_bounded(tmp_path_factory):
    """A release whose target has the bounds, loaded."""

    def load(**bounds):
        folder = tmp_path_factory.mktemp("bounded") / "release"
        about = small_about(target={**small_about().target.model_dump(), "bounds": bounds})
        build_small_release(folder, about=about, dataset=DATASET)
        source = ReleaseSource(folder, DATASET)
        with at(folder.parent / "home"):
            source.load_initial()
        return source.loaded

    return load


def ask(*values):
    rows = [{"event_time": f"{START + timedelta(days=k):%FT%RZ}", "load": v} for k, v in enumerate(values)]
    return ForecastRequest(series_id="mine", history=rows)


@pytest.mark.parametrize(
    ("bounds", "allowed", "refused", "rule"),
    [
        ({"min": 0}, 0, -0.5, ">= 0"),
        ({"min": 0, "strict_min": True}, 1e-9, 0, "> 0"),
        ({"max": 200}, 200, 200.5, "<= 200"),
        ({"min": -1, "max": 1}, 1, 2, ">= -1 and <= 1"),
    ],
)
def test_a_value_outside_is_refused_with_its_row_and_the_rule(load_bounded, bounds, allowed, refused, rule):
    loaded = load_bounded(**bounds)
    assert build_own_rows(loaded, ask(allowed, None, allowed)).height == 3
    with pytest.raises(ProblemError) as error:
        build_own_rows(loaded, ask(allowed, refused, refused))
    body = error.value.body
    assert error.value.status == 422
    assert body["fact"] == f"load is {refused:g} at 2020-01-02T00:00:00Z (2 such rows)"
    assert rule in body["rule"]
