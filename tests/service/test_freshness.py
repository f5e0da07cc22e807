"""Rows that are too old by the clock: a warning, then no answer, as the dataset's entry says."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from servers import DATASET, crown, serving

from deployments.forecaster.batch import build_batch_response
from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import ForecastRequest
from deployments.forecaster.response import build_computed_response, build_response
from tasks.core.service_rules import ServiceRules
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.release import load_release

RULES = ServiceRules(stale_after="2h", expire_after="1d")
BATCH = json.dumps({"items": [{"series_id": "north"}]}).encode()


@pytest.fixture(scope="module")
def loaded(releases):
    release = load_release(releases / "first")
    choice = ReleaseChoice(release.folder, "1.0.0", "setting")
    return LoadedRelease(release, release.manifest, choice, release.rows, (), "v")


@given(st.integers(-10, 3_000), st.sampled_from([None, "30m", "2h"]), st.sampled_from([None, "3h", "1d"]))
def test_the_state_follows_from_the_age_alone(age_min, stale_after, expire_after):
    minutes = {None: float("inf"), "30m": 30, "2h": 120, "3h": 180, "1d": 1440}
    newest = datetime(2024, 1, 1, tzinfo=UTC)
    state = ServiceRules(stale_after=stale_after, expire_after=expire_after).get_freshness(
        newest, newest + timedelta(minutes=age_min)
    )
    n_passed = (age_min > minutes[stale_after]) + 2 * (age_min > minutes[expire_after])
    assert state == ("fresh", "stale", "expired", "expired")[n_passed]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"stale_after": "soon"}, "'soon' is no length of time"),
        ({"stale_after": "1d", "expire_after": "24h"}, "stale before they expire"),
        ({"stale": "1d"}, "Extra inputs"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        ServiceRules(**section)


@pytest.mark.parametrize("build", [build_response, build_computed_response])
def test_a_stale_answer_has_a_warning_and_an_expired_one_is_refused(loaded, build):
    request, newest = ForecastRequest(series_id="north"), loaded.newest_known

    def list_stale(age):
        answer = json.loads(build(loaded, request, newest + age, RULES).content)
        return [warning for warning in answer["warnings"] if "Stale" in warning]

    assert list_stale(timedelta(hours=2)) == []
    assert "more than 2h ago" in list_stale(timedelta(hours=3))[0]
    with pytest.raises(ProblemError, match="more than 1d ago") as caught:
        list_stale(timedelta(hours=25))
    assert caught.value.status == 503
    (item,) = json.loads(build_batch_response(loaded, BATCH, newest + timedelta(hours=25), RULES).content)[
        "items"
    ]
    assert (item["status"], item["fact"]) == (503, caught.value.body["fact"])
    timed = ForecastRequest(series_id="north", as_of=newest.isoformat())
    assert build_computed_response(loaded, timed, newest + timedelta(days=9), RULES).n_series == 1


def test_a_service_of_a_checkout_follows_its_rules(releases, tmp_path):
    """The rows are of 2021: stale or expired by any rule, and fresh without one."""
    (root := tmp_path / "checkout").mkdir()
    content = read_document(ROOT).content

    def write(**rules):
        (root / "params.yaml").write_text(yaml.safe_dump({**content, "service": rules}))

    write(stale_after="1d")
    crown(tmp_path / "home", releases / "first")
    with serving(tmp_path / "home", TIDEMILL_CHECKOUT=str(root)) as server:
        health = server.client.get("/api/v1/health").json()
        assert (health["ready"], health["freshness"], health["dataset"]) == (True, "stale", DATASET)
        assert health["age_s"] > 86_400
        assert "Stale" in server.predict(series_id="north").text
        write(stale_after="1d", expire_after="2d")
        said = server.wait_for(lambda said: not said["ready"])
        assert "service.expire_after" in said["faults"][0]
        assert server.client.get("/api/v1/health/ready").status_code == 503
        refused = server.predict(series_id="north")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
        write()
        server.wait_for(lambda said: said["ready"])
        assert server.client.get("/api/v1/health").json()["freshness"] == "fresh"
