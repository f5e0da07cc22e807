"""Jobs over HTTP: what is accepted, what its result is, and who sees it."""

import hashlib
import io
import json
import time
from datetime import timedelta
from functools import partial

import polars as pl
import pytest
from pydantic import TypeAdapter
from servers import DATASET, at, serving
from small_release import START, cutoff_at

from deployments.forecaster import job_requests
from deployments.forecaster.job_requests import BatchJob
from deployments.forecaster.job_views import JobList, JobView
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.shapes import RecordedPrediction
from deployments.forecaster.source import ReleaseSource
from deployments.ops.job_kinds import run_job
from tasks.edges.api_keys import create_key
from tasks.edges.audit_check import verify_audit
from tasks.edges.jobs import Job, get_result_path, open_jobs
from tasks.edges.served import read_served
from tasks.promote.gate import compare_releases, list_gate_cutoffs
from tasks.promote.params import PromoteParams
from tasks.release import load_release

JOBS = "/api/v1/jobs"
PATIENCE_S = 60.0


def wait_for_job(server, job_id, **headers):
    """The job once it has ended."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        job = server.client.get(f"{JOBS}/{job_id}", headers=headers).json()
        if job["state"] not in {"queued", "running"}:
            return job
        time.sleep(0.1)
    raise AssertionError(f"{job} has not ended")


def post_when_ready(server, body, **headers):
    """The answer to a job, once the loop runs."""
    give_up = time.monotonic() + PATIENCE_S
    while (answer := server.client.post(JOBS, json=body, headers=headers)).status_code == 503:
        assert time.monotonic() < give_up, answer.text
        time.sleep(0.1)
    return answer


@pytest.fixture(scope="module")
def release(releases):
    return load_release(releases / "first")


@pytest.fixture(scope="module")
def backtest(server):
    """An accepted backtest, once it is done."""
    answer = post_when_ready(server, {"kind": "backtest"}, **{"idempotency-key": "one"})
    assert answer.status_code == 202
    accepted = TypeAdapter(JobView).validate_python(answer.json())
    assert accepted["state"] in {"queued", "running"}
    assert answer.headers["location"] == f"{JOBS}/{accepted['job_id']}"
    return wait_for_job(server, accepted["job_id"])


def test_a_backtest_has_the_losses_of_the_gate_over_the_same_cutoffs(server, backtest, release):
    assert backtest["state"] == "done", backtest
    result = server.client.get(backtest["result"]).json()
    params = PromoteParams(gate_steps=60, min_gate_rows=8, alpha=0.05, min_gain_frac=0.0)
    cutoffs = list_gate_cutoffs(release, release, release.rows)
    gate = compare_releases(release, release, release.rows, cutoffs, params)
    whole, *steps = result["rows"]
    assert result["n_cutoffs"] == gate.n_cutoffs == backtest["progress"]["n_done"]
    assert whole["primary"] == pytest.approx(gate.mean_loss.challenger, rel=1e-12)
    assert whole["coverage_frac"] == pytest.approx(gate.coverage_frac.challenger, rel=1e-12)
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5]
    assert sum(row["n"] for row in steps) == whole["n"] == 2 * 5 * len(cutoffs)
    assert (
        result["model"]
        == backtest["model"]
        == {"digest": release.manifest.digest, "version": release.manifest.digest[:12]}
    )


def test_a_result_is_also_parquet_by_the_query_or_by_accept(server, backtest):
    rows = pl.DataFrame(server.client.get(backtest["result"]).json()["rows"])
    for reply in (
        server.client.get(backtest["result"], params={"format": "parquet"}),
        server.client.get(backtest["result"], headers={"accept": "application/vnd.apache.parquet"}),
    ):
        assert reply.headers["content-type"] == "application/vnd.apache.parquet"
        assert pl.read_parquet(io.BytesIO(reply.content)).to_dicts() == rows.to_dicts()
    refused = server.client.get(backtest["result"], params={"format": "xml"})
    assert (refused.status_code, refused.json()["thing"]) == (422, "query.format")


def test_the_same_key_and_body_are_the_same_job(server, backtest):
    key = {"idempotency-key": "one"}
    again = server.client.post(JOBS, json={"kind": "backtest"}, headers=key)
    assert (again.status_code, again.json()) == (202, backtest)
    other = server.client.post(JOBS, json={"kind": "backtest", "stride_steps": 2}, headers=key)
    assert (other.status_code, other.json()["thing"]) == (422, "Idempotency-Key")
    assert backtest["job_id"] in other.json()["fact"]


def test_a_batch_has_the_forecasts_that_predict_answers(server):
    between = cutoff_at(390) + timedelta(hours=5)  # the same step as the cutoff before
    times = [cutoff_at(370), cutoff_at(390), between, cutoff_at(399)]
    body = {"kind": "batch", "series_id": "south", "as_of": [t.isoformat() for t in times]}
    job = wait_for_job(server, post_when_ready(server, body).json()["job_id"])
    assert job["state"] == "done", job
    result = server.client.get(job["result"]).json()
    assert result["n_forecasts"] == len(result["rows"]) == len(times) * 5
    for as_of in times:
        (series,) = server.predict(series_id="south", as_of=as_of.isoformat()).json()["series"]
        rows = [row for row in result["rows"] if row["as_of"] == f"{as_of:%FT%TZ}"]
        assert [row["y_hat"] for row in rows] == [step["y_hat"] for step in series["steps"]]
        assert [row["q_0.9"] for row in rows] == [step["quantiles"]["0.9"] for step in series["steps"]]
        assert {row["cutoff"] for row in rows} == {series["cutoff"]}
        check_recorded(server, rows, series, job)


def check_recorded(server, rows, series, job):
    """*rows* are an answer of its own, recorded as that of a request is, and computed again."""
    (prediction_id,) = {row["prediction_id"] for row in rows}
    recorded = server.client.get(f"/api/v1/predictions/{prediction_id}").json()
    TypeAdapter(RecordedPrediction).validate_python(recorded)
    assert (recorded["route"], recorded["request"]["job_id"]) == ("POST /api/v1/jobs", job["job_id"])
    assert [part["steps"] for part in recorded["series"]] == [series["steps"]]
    assert (recorded["recomputed"]["state"], recorded["model"]) == ("same", job["model"])
    sent = json.dumps(rows, separators=(",", ":")).encode()
    assert recorded["answer_digest"] == hashlib.sha256(sent).hexdigest()
    assert server.client.get(f"/api/v1/predictions/{prediction_id}/explain").status_code == 200


def test_a_job_that_begins_again_records_each_answer_once(server, release, monkeypatch):
    times = [cutoff_at(day) for day in range(300, 330)]
    asked = BatchJob(kind="batch", as_of=[time.isoformat() for time in times])
    manifest = release.manifest
    release_of = (manifest.digest, str(release.folder), "1.0.0", manifest.files["rows.parquet"])
    job = Job("again", "acme", "ann", DATASET, "batch", asked.model_dump_json(), "", None, *release_of)
    with at(server.home):
        before = read_served(DATASET)["prediction_id"].n_unique()
        monkeypatch.setattr("deployments.ops.job_answers._N_STEPS", 100)
        with pytest.raises(SystemExit):  # as a job that is cancelled or killed after its first group
            run_job(job, asked, stop_after(1, "answers recorded"))
        n_first = read_served(DATASET)["prediction_id"].n_unique() - before
        rows = [run_job(job, asked, lambda *_: None).rows for _ in range(2)]
        n_all = read_served(DATASET)["prediction_id"].n_unique() - before
        assert verify_audit(DATASET).fault is None
    assert (n_first, n_all) == (20, 2 * len(times))
    assert rows[0].equals(rows[1])
    assert rows[0].group_by("as_of", "series_id").agg(pl.col("prediction_id").n_unique())[
        "prediction_id"
    ].to_list() == [1] * (2 * len(times))


def stop_after(n, unit):
    reports = []

    def report(_done, _total, message):
        reports.append(message)
        if reports.count(unit) == n:
            raise SystemExit(0)

    return report


@pytest.mark.parametrize(
    ("body", "status", "thing"),
    [
        ({}, 422, "kind"),
        ({"kind": "other"}, 422, "kind"),
        ({"kind": ["batch"]}, 422, "kind"),
        ({"kind": "backtest", "strid_steps": 2}, 422, "strid_steps"),
        ({"kind": "backtest", "stride_steps": 0}, 422, "stride_steps"),
        ({"kind": "backtest", "first": START.isoformat()}, 422, "first"),
        ({"kind": "backtest", "last": START.isoformat()}, 422, "last"),
        ({"kind": "backtest", "first": "2021-01-01"}, 422, "first"),
        ({"kind": "batch"}, 422, "as_of"),
        ({"kind": "batch", "as_of": []}, 422, "as_of"),
        ({"kind": "batch", "as_of": ["soon"]}, 422, "as_of.0"),
        ({"kind": "batch", "as_of": ["2021-01-01T00:00:00Z"], "series_id": "nort"}, 404, "series_id"),
    ],
)
def test_what_is_no_job_is_refused_with_the_reason(server, body, status, thing):
    answer = server.client.post(JOBS, json=body)
    assert (answer.status_code, answer.json()["thing"]) == (status, thing), answer.text


def test_a_job_too_large_is_refused(server, releases, monkeypatch):
    times = [(START + timedelta(days=k)).isoformat() for k in range(10_001)]
    assert server.client.post(JOBS, json={"kind": "batch", "as_of": times}).json()["thing"] == "as_of"
    source = ReleaseSource(releases / "first", DATASET)
    source.load_initial()
    monkeypatch.setattr(job_requests, "MAX_RESULT_ROWS", 99)
    check = partial(job_requests.check_job, source.loaded)
    check(job_requests.BatchJob(kind="batch", as_of=times[:9]))
    with pytest.raises(ProblemError, match="2 series as of 10 times are 100 rows"):
        check(job_requests.BatchJob(kind="batch", as_of=times[:10]))


def test_without_a_job_loop_nothing_is_accepted(releases, tmp_path):
    with serving(tmp_path, TIDEMILL_RELEASE=str(releases / "first")) as lone:
        refused = lone.client.post(JOBS, json={"kind": "backtest"})
        assert refused.status_code == 503
        assert "tidemill up" in refused.json()["next"]
        assert lone.client.get(JOBS).json() == {"jobs": []}


@pytest.fixture(scope="module")
def tenants(releases, tmp_path_factory):
    """A service of two tenants and an operator, whose loop is alive and starts nothing."""
    home = tmp_path_factory.mktemp("tenants")
    with at(home):
        keys = {
            name: {"x-api-key": create_key(name, tenant, [scope], [DATASET])}
            for name, tenant, scope in [
                ("ann", "acme", "predict"),
                ("bob", "other", "predict"),
                ("op", "ops", "operate"),
            ]
        }
    environment = {"TIDEMILL_AUTH": "on", "TIDEMILL_JOB_QUEUE": "3"}
    with serving(home, TIDEMILL_RELEASE=str(releases / "first"), **environment) as server:
        yield server, keys


def beat(server):
    with at(server.home), open_jobs() as store:
        store.write_heartbeat()


def test_a_tenant_sees_its_own_jobs_alone_and_fills_its_own_queue(tenants):
    server, keys = tenants
    beat(server)

    def post(who, key):
        headers = {**keys[who], "idempotency-key": key}
        return server.client.post(JOBS, json={"kind": "backtest"}, headers=headers)

    ours = [post("ann", str(k)) for k in range(4)]
    assert [reply.status_code for reply in ours] == [202, 202, 202, 429]
    assert ours[3].headers["retry-after"] == "30"
    theirs = post("bob", "0").json()
    listed = TypeAdapter(JobList).validate_python(server.client.get(JOBS, headers=keys["ann"]).json())["jobs"]
    assert [job["job_id"] for job in listed] == [reply.json()["job_id"] for reply in ours[2::-1]]
    unknown = server.client.get(f"{JOBS}/none", headers=keys["bob"]).json()
    for method, part in [("GET", ""), ("GET", "/result"), ("DELETE", "")]:
        path = f"{JOBS}/{listed[0]['job_id']}{part}"
        refused = server.client.request(method, path, headers=keys["bob"])
        assert refused.status_code == 404
        assert {**refused.json(), "fact": "", "detail": ""} == {**unknown, "fact": "", "detail": ""}
    assert theirs["state"] == "queued"
    cancelled = server.client.delete(f"{JOBS}/{listed[0]['job_id']}", headers=keys["ann"]).json()
    assert cancelled["state"] == "cancelled"
    assert post("ann", "again").status_code == 202


def test_a_training_needs_operate_and_says_when_there_is_no_server(tenants, server):
    other, keys = tenants
    beat(other)
    body = {"kind": "training", "reason": "test"}
    refused = other.client.post(JOBS, json=body, headers=keys["bob"])
    assert (refused.status_code, refused.json()["rule"]) == (
        403,
        "A job of the kind training needs `operate`.",
    )
    job = wait_for_job(server, server.client.post(JOBS, json=body).json()["job_id"])
    assert job["state"] == "failed"
    assert "No Prefect server" in job["problem"]["fact"]


def test_a_result_is_there_when_the_job_is_done(tenants):
    server, keys = tenants
    beat(server)
    with at(server.home), open_jobs() as store:
        job = store.list_jobs(tenant="other")[0]
        path = f"{JOBS}/{job.id}/result"
        waiting = server.client.get(path, headers=keys["bob"])
        assert (waiting.status_code, waiting.json()["fact"]) == (409, "it is queued")
        taken = next(found for found in iter(store.start_next, None) if found.id == job.id)
        store.finish(taken, {})
        assert server.client.get(path, headers=keys["bob"]).status_code == 409  # its file is not there
        get_result_path(job.id, "json").parent.mkdir()
        get_result_path(job.id, "json").write_text(json.dumps({"rows": []}))
    assert server.client.get(path, headers=keys["bob"]).json() == {"rows": []}
    ended = server.client.delete(f"{JOBS}/{job.id}", headers=keys["bob"]).json()
    assert ended["state"] == "done"
