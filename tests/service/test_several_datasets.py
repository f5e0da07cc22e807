"""One process with several datasets: each has its champion, rows, rules, records and metrics, and a
key sees its own."""

import asyncio
from datetime import timedelta

import httpx
import pytest
from homes import at_home
from prometheus_client.parser import text_string_to_metric_families
from servers import DATASET, at, crown, digest_of, publish, serving
from small_release import START, build_small_release, small_rows

from deployments.client import ServiceClient
from deployments.forecaster.access import PUBLIC, SCOPE_OF
from deployments.forecaster.app import create_app
from deployments.ops.forecaster_process import find_served_dataset
from tasks.core.errors import SettingsError
from tasks.edges.api_keys import create_key
from tasks.edges.artifacts import write_json
from tasks.edges.audit_check import verify_audit
from tasks.edges.params import STAGES
from tasks.edges.processes import wait_for
from tasks.edges.served import read_served

THEIRS = "theirs"
NAMES = {DATASET: "north", THEIRS: "east"}  # a series of each


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    rows = small_rows(300, series_ids=["east", "west"])
    build_small_release(folder, rows, gate_steps=60, dataset=THEIRS)
    return folder


@pytest.fixture(scope="module")
def running(releases, theirs, tmp_path_factory):
    """A service of two datasets, and keys for one of them and for both."""
    folder = tmp_path_factory.mktemp("several")
    home = folder / "home"
    entry = {name: {} for name in ("about", "models", *STAGES)} | {"service": {"expire_after": "36500d"}}
    write_json(folder / "params.yaml", {"dataset": DATASET, "models": [], "datasets": {THEIRS: entry}})
    for release in (releases / "first", theirs):
        crown(home, release)
    with at(home):
        keys = {
            name: create_key(name, name, ["admin"], datasets)
            for name, datasets in (("ours", [DATASET]), ("theirs", [THEIRS]), ("both", ["*"]))
        }
    environment = {"TIDEMILL_DATASETS": f"{DATASET}, {THEIRS}", "TIDEMILL_AUTH": "on"}
    with serving(home, TIDEMILL_CHECKOUT=str(folder), **environment) as server:
        yield server, keys


def ask(running, key, path, dataset=None, **body):
    server, keys = running
    params = {} if dataset is None else {"dataset": dataset}
    method = "POST" if body else "GET"
    headers = {"x-api-key": keys[key]}
    return server.client.request(method, path, json=body or None, params=params, headers=headers)


def predict(running, key, dataset=None, series_id="north"):
    return ask(running, key, "/api/v1/predict", dataset, series_id=series_id)


def test_a_key_of_one_dataset_names_none_and_one_of_both_names_it(running, releases, theirs):
    digests = {DATASET: digest_of(releases / "first"), THEIRS: digest_of(theirs)}
    for key, dataset in (("ours", DATASET), ("theirs", THEIRS)):
        for named in (None, dataset):
            answer = predict(running, key, named, NAMES[dataset])
            assert answer.json()["model"]["digest"] == digests[dataset]
        assert predict(running, "both", dataset, NAMES[dataset]).json()["dataset"] == dataset
    for named in (None, [DATASET, THEIRS]):
        refused = predict(running, "both", named)
        assert (refused.status_code, refused.json()["thing"]) == (422, "dataset")
        assert DATASET in refused.text
        assert THEIRS in refused.text


def test_another_tenants_dataset_is_as_one_that_does_not_exist_on_every_route(running):
    server, keys = running
    for method, path in SCOPE_OF:
        replies = [
            server.client.request(
                method, path, json={}, params={"dataset": name}, headers={"x-api-key": keys["ours"]}
            )
            for name in (THEIRS, "nowhere")
        ]
        assert [reply.status_code for reply in replies] == [404, 404]
        assert replies[0].content == replies[1].content


def test_each_answer_is_recorded_for_its_dataset_and_found_there_alone(running):
    before = verify_of(running)
    ids = {
        dataset: predict(running, "both", dataset, name).json()["prediction_id"]
        for dataset, name in NAMES.items()
    }
    for dataset, made in ids.items():
        found = {
            name: ask(running, "both", f"/api/v1/predictions/{made}", name).status_code for name in NAMES
        }
        assert found == {name: 200 if name == dataset else 404 for name in NAMES}
        recorded = ask(running, "both", f"/api/v1/predictions/{made}", dataset).json()
        assert recorded["recomputed"]["state"] == "same"
    assert verify_of(running) == {name: n + 1 for name, n in before.items()}


def verify_of(running):
    """By dataset the number of answers, each in a chain without a fault."""
    with at(running[0].home):
        assert [verify_audit(name).fault for name in NAMES] == [None, None]
        return {name: read_served(name)["prediction_id"].n_unique() for name in NAMES}


def test_metrics_have_a_label_and_show_a_key_its_own(running):
    seen = {}
    for key in running[1]:
        text = ask(running, key, "/api/v1/metrics").text
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families)
        assert len(set(text.splitlines())) == len(text.splitlines())
        seen[key] = {sample.labels["dataset"] for family in families for sample in family.samples}
    assert seen == {"ours": {DATASET}, "theirs": {THEIRS}, "both": {DATASET, THEIRS}}
    served = [line for line in text.splitlines() if line.startswith("tidemill_forecasts_served_total")]
    assert len(served) == 2


def test_rules_rows_and_champion_of_one_leave_the_other_as_it_is(running, releases):
    server = running[0]

    def read_state(dataset):
        ready = ask(running, "both", "/api/v1/health/ready", dataset)
        return ready.status_code, ready.json()["digest"], ready.json()["as_of"]

    assert ask(running, "both", "/api/v1/health", THEIRS).json()["expire_after"] == "36500d"
    assert ask(running, "both", "/api/v1/health", DATASET).json()["expire_after"] is None
    before = read_state(THEIRS)
    publish(server.home, small_rows(410))
    crown(server.home, releases / "second")
    expected = (200, digest_of(releases / "second"), f"{START + timedelta(days=410):%FT%TZ}")
    assert wait_for(lambda: read_state(DATASET) == expected, 30)
    assert read_state(THEIRS) == before


def test_the_document_names_the_dataset_and_its_examples_work(running):
    document = ask(running, "both", "/openapi.json", THEIRS).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            named = [one for one in operation["parameters"] if one["name"] == "dataset"]
            assert [one["example"] for one in named] == [THEIRS], path
            assert named[0]["required"] == (
                path != "/api/v1/metrics" and (method.upper(), path) not in PUBLIC
            )
    content = document["paths"]["/api/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        answer = ask(running, "both", "/api/v1/predict", THEIRS, **example["value"])
        assert answer.status_code == 200, answer.text
    assert ask(running, "both", "/openapi.json").status_code == 200
    assert "location.search" in ask(running, "both", "/docs/assets/swagger-page.js").text


def test_the_client_and_our_own_commands_name_it(running, monkeypatch):
    server, keys = running
    with ServiceClient(str(server.client.base_url), keys["both"], dataset=THEIRS) as client:
        assert client.predict("east")["dataset"] == THEIRS
        assert client.get_models()["champion"]["dataset"] == THEIRS
    monkeypatch.setenv("TIDEMILL_AUTH", "on")
    monkeypatch.setenv("TIDEMILL_SERVICE_PORT", str(server.client.base_url.port))
    with at(server.home):
        assert find_served_dataset() == DATASET


def test_a_dataset_without_a_champion_is_not_ready_and_the_others_are(releases, tmp_path):
    crown(tmp_path, releases / "first")
    with at_home(tmp_path, TIDEMILL_DATASETS=f"{DATASET},later"):
        paths = [f"/api/v1/health/ready?dataset={name}" for name in (DATASET, "later")]
        states = asyncio.run(get_all(create_app(), paths))
    assert [reply.status_code for reply in states] == [200, 503]
    assert "No champion of 'later'" in states[1].json()["faults"][0]


async def get_all(app, paths):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        return [await client.get(path) for path in paths]


def test_a_release_and_names_together_are_refused(releases, tmp_path):
    environment = {"TIDEMILL_DATASETS": "a,b", "TIDEMILL_RELEASE": str(releases / "first")}
    with at_home(tmp_path, **environment), pytest.raises(SettingsError, match="Unset one"):
        create_app()
