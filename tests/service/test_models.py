"""What the service says of the releases in the registry, and of what it does not do itself."""

import pytest
from pydantic import TypeAdapter
from reports import monitor_report
from servers import DATASET, at, crown, digest_of, serving

from deployments.forecaster import shapes
from tasks.edges.artifacts import write_report
from tasks.edges.registry import get_monitored_path

PATH = "/api/v1/models"


@pytest.fixture(scope="module")
def two(releases, tmp_path_factory):
    """A service with a champion, and a former one."""
    home = tmp_path_factory.mktemp("two")
    for name in ("first", "second"):
        crown(home, releases / name)
    with serving(home) as server:
        yield server


def test_a_release_has_its_gate_and_the_champions_before_it(two, releases):
    details = two.client.get(f"{PATH}/1.1.0").json()
    TypeAdapter(shapes.ReleaseDetails).validate_python(details)
    assert details["is_champion"]
    assert details["release"]["digest"] == digest_of(releases / "second")
    assert details["decision"]["decision"]
    former = two.client.get(f"{PATH}/1.0.0").json()
    assert details["lineage"] == [former["release"]]
    assert (former["is_champion"], former["lineage"]) == (False, [])
    assert former["release"]["digest"] == digest_of(releases / "first")


@pytest.mark.parametrize("version", ["2.0.0", "..", "%2e%2e", "x" * 300])
def test_an_unknown_version_is_refused_with_those_that_there_are(two, version):
    reply = two.client.get(f"{PATH}/{version}/monitoring")
    assert reply.status_code == 404
    if "e" not in version and "." not in version[:1]:
        assert "1.1.0, 1.0.0" in reply.json()["rule"]


def test_the_monitors_report_of_a_release_is_passed_on(two, releases):
    assert "no report of 1.1.0" in two.client.get(f"{PATH}/1.1.0/monitoring").json()["detail"]
    report = monitor_report({})
    with at(two.home):
        write_report(get_monitored_path(DATASET, digest_of(releases / "second")), report)
    assert two.client.get(f"{PATH}/1.1.0/monitoring").json() == report.model_dump(mode="json")
    assert two.client.get(f"{PATH}/1.0.0/monitoring").status_code == 404
