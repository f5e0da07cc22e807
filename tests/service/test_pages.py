"""The OpenAPI document and its page: every path has an example, and the examples are true."""

import hashlib
import json
import re

import pytest
from pydantic import TypeAdapter

from deployments.forecaster import analysis_shapes, shapes
from deployments.forecaster.access import SCOPE_OF
from deployments.forecaster.champion_changes import ChampionChange
from deployments.forecaster.job_views import JobList, JobView
from deployments.forecaster.observations import Observations
from deployments.forecaster.pages import get_first_response
from deployments.forecaster.routes.docs import ASSETS
from deployments.forecaster.routes.graphql import GraphqlAnswer
from tasks.edges.processes import wait_for

COMMANDS = ("pause", "resume", "abort")
ANSWERS = {
    "/api/v1/predict": TypeAdapter(shapes.Prediction),
    "/api/v1/predict/batch": TypeAdapter(shapes.BatchPrediction),
    "/api/v1/models/{version}": TypeAdapter(shapes.ReleaseDetails),
    "/api/v1/models/deploy": TypeAdapter(ChampionChange),
    "/api/v1/models/rollback": TypeAdapter(ChampionChange),
    "/api/v1/predictions/{id}": TypeAdapter(shapes.RecordedPrediction),
    "/api/v1/predictions/{id}/explain": TypeAdapter(shapes.RecordedExplanation),
    "/api/v1/analyze/describe": TypeAdapter(analysis_shapes.Description),
    "/api/v1/analyze/correlation": TypeAdapter(analysis_shapes.Correlation),
    "/api/v1/analyze/distribution": TypeAdapter(analysis_shapes.Distribution),
    "/api/v1/graphql": TypeAdapter(GraphqlAnswer),
    "/api/v1/observations": TypeAdapter(Observations),
    "/api/v1/forecast/{model}": TypeAdapter(JobView),
    "/api/v1/ml/automl": TypeAdapter(JobView),
    "/api/v1/jobs": TypeAdapter(JobView | JobList),
    "/api/v1/jobs/{id}": TypeAdapter(JobView),
    "/api/v1/jobs/{id}/result": TypeAdapter(dict[str, object]),
    "/api/v1/models": TypeAdapter(shapes.Models),
    **{f"/api/v1/rollout/{command}": TypeAdapter(shapes.RolloutState) for command in COMMANDS},
    "/api/v1/health/live": TypeAdapter(shapes.Live),
    "/api/v1/health": TypeAdapter(shapes.Health),
    "/api/v1/health/ready": TypeAdapter(shapes.Ready),
}
# Their examples are sent in the tests of models, rollback, slots, observations and job_fits
ELSEWHERE = {
    *(f"/api/v1/rollout/{command}" for command in COMMANDS),
    "/api/v1/models/{version}",
    "/api/v1/models/{version}/monitoring",
    "/api/v1/models/deploy",
    "/api/v1/models/rollback",
    "/api/v1/observations",
    "/api/v1/forecast/{model}",
    "/api/v1/ml/automl",
}
OPERATIONS = {path for (_, path), scope in SCOPE_OF.items() if scope == "operate" and "rollout" in path}


@pytest.fixture(scope="module")
def document(server):
    return server.client.get("/openapi.json").json()


def operations(document):
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_path_has_an_example_of_its_answer(document):
    others = {"/api/v1/metrics", "/api/v1/models/{version}/monitoring"}
    assert {path for path, _, _ in operations(document)} == {*ANSWERS, *others, *OPERATIONS}
    for path, _, operation in operations(document):
        content, *others = get_first_response(operation)["content"].values()
        assert content["example"], path
        assert not any(others), path
        if path in ANSWERS:
            ANSWERS[path].validate_python(content["example"])


def test_every_example_of_a_request_is_answered(server, document):
    job = server.client.post("/api/v1/jobs", json={"kind": "backtest", "stride_steps": 9}).json()
    assert wait_for(lambda: server.client.get(f"/api/v1/jobs/{job['job_id']}").json()["state"] == "done", 60)
    ids = {"jobs": job["job_id"], "predictions": server.predict(series_id="north").json()["prediction_id"]}
    sent = 0
    for path, method, operation in operations(document):
        body = operation.get("requestBody")
        examples = (
            [e["value"] for e in body["content"]["application/json"]["examples"].values()] if body else [None]
        )
        for example in () if path in ELSEWHERE else examples:
            address = path.replace("{id}", ids["jobs" if "/jobs/" in path else "predictions"])
            reply = (
                server.client.request(method, address, json=example)
                if example
                else server.client.request(method, address)
            )
            assert str(reply.status_code) == next(iter(operation["responses"])), (path, example, reply.text)
            sent += 1
            if path in ANSWERS:
                ANSWERS[path].validate_python(reply.json())
    assert sent == 24


def test_asking_for_the_document_serves_nothing(server):
    before = server.client.get("/api/v1/metrics").text
    server.client.get("/openapi.json")
    served = re.compile(r"^tidemill_forecasts_served_total.*$", re.MULTILINE)
    assert served.findall(server.client.get("/api/v1/metrics").text) == served.findall(before)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_files_of_ours_alone(server, path):
    """That both draw the document, and that no other host is asked, was seen in a browser."""
    reply = server.client.get(path)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "http" not in policy
    files = re.findall(r'(?:src|href)="([^"]*)"', reply.text)
    assert len(files) >= 3
    assert reply.text.count("<script") == sum(name.endswith(".js") for name in files)
    for name in files:
        assert re.fullmatch(r"docs/assets/[\w.-]+", name)
        loaded = server.client.get(f"/{name}")
        assert (loaded.status_code, loaded.headers["x-content-type-options"]) == (200, "nosniff")


def test_files_of_other_projects_are_those_that_are_listed(server):
    """Name, version, licence and hash of each; the licences are alongside."""
    listed = json.loads((ASSETS / "assets.json").read_text())
    ours = {"assets.json", "page.css", "redoc-page.js", "swagger-page.js"}
    assert {path.name for path in ASSETS.iterdir()} == {entry["file"] for entry in listed} | ours
    for entry in listed:
        content = (ASSETS / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
        assert all(entry.values())
    unknown = server.client.get("/docs/assets/app.py")
    assert (unknown.status_code, "app.py" in unknown.json()["fact"]) == (404, True)
    assert server.client.get("/docs/assets/..%2Fapp.py").status_code == 404


def test_the_root_leads_to_the_page(server):
    assert server.client.get("/", follow_redirects=True).url.path == "/docs"


def test_metrics_are_in_the_exposition_format_and_name_the_release(server):
    from prometheus_client.parser import text_string_to_metric_families

    assert server.predict(series_id="north").status_code == 200
    reply = server.client.get("/api/v1/metrics")
    families = {family.name: family for family in text_string_to_metric_families(reply.text)}
    (info,) = families["tidemill_release_info"].samples
    assert info.labels["model"] == "ensemble"
    assert families["tidemill_rows_as_of_seconds"].samples[0].value == 1612396800  # 2021-02-04T00:00Z
    assert families["tidemill_release_age_event_seconds"].samples[0].value == 60 * 86400
    asked = [
        s
        for s in families["tidemill_requests"].samples
        if s.labels == {"route": "/api/v1/predict", "status": "200"}
    ]
    timed = [
        s
        for s in families["tidemill_request_seconds"].samples
        if s.name.endswith("_count") and s.labels["route"] == "/api/v1/predict"
    ]
    assert asked[0].value >= 1
    assert timed[0].value >= asked[0].value


def test_routes_that_do_not_exist_share_one_label(server):
    for k in range(3):
        server.client.get(f"/nowhere/{k}")
    assert "nowhere" not in server.client.get("/api/v1/metrics").text


def test_the_document_is_there_before_any_release(tmp_path):
    from servers import serving

    with serving(tmp_path) as running:
        document = running.client.get("/openapi.json").json()
        assert "/api/v1/predict" in document["paths"]
        json.dumps(document)
        assert running.client.get("/docs").status_code == 200
