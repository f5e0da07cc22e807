"""The operators' door, for real: `tidemill run`, then `up`, a deployment run by a worker, a
scheduled tick, `down`.

One small checkout lives through all of it, in this order, as an operator's would.
"""

import base64
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
import yaml
from flow_runs import ENDED, PATIENCE_S, run_prefect, wait_for_run
from small_checkout import small_checkout

from flows.training import STAGES as TRAINED
from tasks.edges.params import STAGES
from tasks.edges.processes import build_process_identity, find_free_port, wait_for

PARTS = {"alerts", "feed", "jobs", "prefect", "mlflow", "refresh", "service", "worker"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    ports = {
        f"TIDEMILL_{name}_PORT": str(find_free_port("127.0.0.1"))
        for name in ("PREFECT", "MLFLOW", "SERVICE", "FEED")
    }
    # 60 by default
    found = small_checkout(
        tmp_path_factory.mktemp("operated"), **ports, PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="5"
    )
    _give_a_feed(found.root / "params.yaml")
    yield found
    found.tidemill("down")


@pytest.fixture(scope="module")
def interrupted(checkout):
    """A run that Ctrl-C ended early: (exit code, what it printed, processes that are left)."""
    run = checkout.start([sys.executable, "-m", "deployments.cli", "run"], stderr=subprocess.PIPE, text=True)
    said = list(itertools.takewhile(lambda line: "validate" not in line, run.stderr))
    run.send_signal(signal.SIGINT)
    said.append(run.communicate(timeout=PATIENCE_S)[1])
    return run.returncode, "".join(said), checkout.alive()


@pytest.fixture(scope="module")
def done(checkout, interrupted):
    """What `tidemill run --json` printed, and who was still at work in the checkout afterwards."""
    made = checkout.tidemill("run", "--json")
    return {**json.loads(made.stdout), "alive": checkout.alive(), "progress": made.stderr}


@pytest.fixture(scope="module")
def up(checkout, done):
    """What `tidemill up --json` printed."""
    return json.loads(checkout.tidemill("up", "--json").stdout)


@pytest.fixture(scope="module")
def api(checkout, up):
    with httpx.Client(base_url=f"{up['addresses']['prefect']}/api", timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def trained(checkout, api):
    """The flow run of the training deployment, started as a person would, at its end."""
    run_prefect(checkout, api, "deployment", "run", "training/training", "--param", "reason=the test")
    return wait_for_run(api, "training", lambda run: run["deployment_id"] is not None)


def test_an_interrupted_run_ends_its_stage_says_how_to_go_on_and_leaves_no_process(interrupted):
    code, said, alive = interrupted
    assert code == 130
    assert "`tidemill run` continues" in said
    assert "train" not in said  # no stage begins after it
    assert alive == []


def test_run_ends_with_a_forecast_from_the_bento_and_a_page(checkout, done):
    assert [len(series["steps"]) for series in done["forecast"]["series"]] == [5, 5]
    assert (
        done["forecast"]["model"]["digest"]
        == json.loads((checkout.home / "registry" / done["dataset"] / "champion.json").read_text())["digest"]
    )
    assert "<html" in (checkout.root / done["page"]).read_text()
    assert len(done["next"]) == 3


def test_run_says_stage_n_of_11_the_time_and_each_model(checkout, done):
    lines = re.findall(r"\[ ?(\d+) of 11\] (\w+) .* so far", done["progress"])
    assert lines == [(str(k + 1), stage) for k, stage in enumerate(STAGES)]
    for model in checkout.models:
        assert re.search(rf"^ +{model} +\d+\.\d s$", done["progress"], flags=re.MULTILINE), model


def test_run_stops_its_server_and_the_service_and_leaves_nobody(done):
    assert done["alive"] == []


def test_the_run_stays_in_the_database(done, api):
    """`up` shows what `run` did: its four flows, and a task run for each stage, named after it."""
    flows = {run["name"] for run in api.post("/flows/filter", json={}).json()}
    assert flows >= {"training", "promotion", "monitoring", "retraining"}
    runs = api.post("/flow_runs/filter", json={}).json()
    names = [run["name"] for run in runs if run["state_type"] == "COMPLETED"]  # named when they start
    pattern = rf"({'|'.join(flows)})/{done['dataset']}/\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert len(names) >= 4
    assert [name for name in names if not re.fullmatch(pattern, name)] == []
    tasks = api.post("/task_runs/filter", json={"limit": 200}).json()
    assert {run["name"] for run in tasks} >= set(STAGES)
    assert {run["name"] for run in tasks if run["state_type"] == "COMPLETED"} == set(STAGES)
    # Prefect names a run `<task>-<3 digits>` until it starts; Ctrl-C may come before that
    ended_early = {run["name"] for run in tasks if run["state_type"] != "COMPLETED"}
    assert {re.sub(r"-[0-9a-f]{3}$", "", name) for name in ended_early} <= {"validate", "features"}


def test_up_answers_at_every_address(up):
    assert httpx.get(f"{up['addresses']['prefect']}/api/health").json() is True
    assert httpx.get(f"{up['addresses']['mlflow']}/health").text == "OK"
    assert httpx.get(f"{up['addresses']['service']}/api/v1/health/ready").json()["ready"] is True


def test_up_again_changes_nothing(checkout, up):
    assert json.loads(checkout.tidemill("up", "--json").stdout) == up


def test_status_knows_champion_decisions_and_processes(checkout, done, up):
    found = json.loads(checkout.tidemill("status", "--json").stdout)
    assert found["champion"]["digest"] == done["forecast"]["model"]["digest"]
    assert set(found["running"]) == PARTS
    assert all(found["decisions"].values())


def test_forecast_without_a_server_is_what_the_service_said(checkout, done):
    said = json.loads(checkout.tidemill("forecast", "--json").stdout)
    assert [series["steps"] for series in said["series"]] == [
        series["steps"] for series in done["forecast"]["series"]
    ]


def test_a_deployment_runs_to_the_end_on_the_worker(trained):
    assert trained["state_type"] == "COMPLETED", trained["state"]
    assert trained["parameters"]["reason"] == "the test"
    assert trained["work_pool_name"] == "tidemill"


def test_each_stage_leaves_a_table_and_a_picture(api, trained):
    artifacts = api.post(
        "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [trained["id"]]}}, "limit": 200}
    ).json()
    by_key = {
        artifact["key"].removeprefix("index-volatility-"): artifact
        for artifact in artifacts
        if artifact["key"]
    }
    for stage in TRAINED:
        rows = json.loads(by_key[f"{stage}-table"]["data"])
        assert rows
        assert "wrote no figures" not in str(rows)
        kind, encoded = re.search(
            r"\(data:image/(png|svg\+xml);base64,([^)]+)\)", by_key[f"{stage}-picture"]["data"]
        ).groups()
        assert base64.b64decode(encoded).startswith(b"\x89PNG" if kind == "png" else b"<svg")
    assert "train-link" in by_key


def test_results_are_json(checkout, trained):
    """A stored result is readable by anybody and runs no code when it is read."""
    stored = [
        json.loads(path.read_text())
        for path in (checkout.home / "prefect" / "storage").iterdir()
        if path.is_file()
    ]
    assert [
        step["stage"] for run in stored if isinstance(run, list) for step in run if len(run) == len(TRAINED)
    ][: len(TRAINED)] == list(TRAINED)


def test_the_feed_lands_beside_the_others_and_is_seen(checkout, up):
    """The dataset's own files are played to it at once; whoever looks at its metrics and its
    status finds the same number of rows."""
    deadline = time.monotonic() + PATIENCE_S
    while not (
        (found := _feed_status(checkout))["table"]
        and found["members"]
        and found["members"][0]["sources"][0]["lag"] == 0
    ):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    assert found["members"][0]["is_alive"]
    n_rows = found["table"]["rows"]["row"]
    assert n_rows > 1000
    assert (
        f'tidemill_feed_records_total{{disposition="row"}} {float(n_rows)}'
        in httpx.get(up["addresses"]["feed"]).text
    )


def test_the_flow_feed_hands_a_closed_window_over(checkout, api):
    """Beside a process that lands already, a bounded run lands nothing and hands over what that
    one closed."""
    while _feed_status(checkout)["window"] is None:
        time.sleep(0.5)
    run_prefect(checkout, api, "deployment", "run", "feed/feed", "--param", "train=false")
    run = wait_for_run(api, "feed", lambda _: True)
    assert run["state_type"] == "COMPLETED", run["state"]
    handed = json.loads((checkout.root / "data" / "source" / "window.json").read_text())
    assert handed == _feed_status(checkout)["window"]
    shown = api.post(
        "/artifacts/filter", json={"artifacts": {"key": {"any_": ["index-volatility-feed-table"]}}}
    ).json()
    assert {row["what"] for row in json.loads(shown[0]["data"])} == {"row", *handed["marks"]}


def test_a_scheduled_tick_comes_and_is_run(checkout, api):
    name = "monitoring/monitoring"
    run_prefect(checkout, api, "deployment", "schedule", "create", name, "--interval", "5")
    wait_for_run(api, "monitoring", lambda run: run["auto_scheduled"], {"RUNNING", *ENDED})
    found = api.get(f"/deployments/name/{name}").json()
    for schedule in found["schedules"]:  # one run is enough; each takes seconds of a core
        url = f"/deployments/{found['id']}/schedules/{schedule['id']}"
        # 503 while its database is busy
        assert wait_for(lambda url=url: api.delete(url).status_code in {204, 404}, PATIENCE_S)
    run = wait_for_run(api, "monitoring", lambda run: run["auto_scheduled"])
    assert run["state_type"] == "COMPLETED", run["state"]


def test_the_flow_refresh_measures_and_decides_without_training(checkout, api):
    run_prefect(checkout, api, "deployment", "run", "refresh/refresh")
    run = wait_for_run(api, "refresh", lambda _: True)
    assert run["state_type"] == "COMPLETED", run["state"]
    tasks = api.post("/task_runs/filter", json={"task_runs": {"flow_run_id": {"any_": [run["id"]]}}}).json()
    assert {task["name"] for task in tasks} == {"refresh", "monitor", "retrain"}
    shown = api.post(
        "/artifacts/filter", json={"artifacts": {"key": {"any_": ["index-volatility-refresh-table"]}}}
    ).json()
    figures = {row["figure"]: row["value"] for row in json.loads(shown[0]["data"])}
    assert (figures["n_new"], figures["n_quarantined"]) == ("0", "0")


def test_the_event_that_a_refresh_emits_starts_a_retraining_that_decides_again(checkout, api):
    """A scheduled run has no automation as its cause."""
    run_prefect(
        checkout,
        api,
        "event",
        "emit",
        "tidemill.retrain.due",
        "--resource-id",
        "tidemill.dataset.index_volatility",
    )
    run = wait_for_run(api, "retraining", lambda run: (run["created_by"] or {}).get("type") == "AUTOMATION")
    assert run["state_type"] == "COMPLETED", run["state"]
    assert not (checkout.home / "retrain").exists()


def test_an_alarm_is_one_event_however_often_it_is_emitted(checkout, api):
    opened = datetime.now(UTC).isoformat()
    alarm = {"state": "open", "name": "inputs_drift", "dataset": "d", "subject": "", "severity": "warning"}
    alarm |= {"summary": "s", "runbook": "r", "opened_at": opened, "closed_at": None}
    for _ in range(2):
        command = ["env", f"PREFECT_API_URL={str(api.base_url).rstrip('/')}", sys.executable, "-m"]
        emitting = checkout.start([*command, "flows.alarms"], stdin=subprocess.PIPE, text=True)
        emitting.communicate(json.dumps([alarm]), timeout=PATIENCE_S)
        assert emitting.returncode == 0
    wanted = {"event": {"name": ["tidemill.alarm"]}, "resource": {"id": ["tidemill.dataset.d"]}}
    assert wait_for(lambda: api.post("/events/filter", json={"filter": wanted}).json()["total"], 30)
    time.sleep(1)
    (event,) = api.post("/events/filter", json={"filter": wanted}).json()["events"]
    assert event["payload"] == alarm


def test_a_training_job_starts_a_run_of_the_deployment_with_its_reason(checkout, up, api):
    """The pool pauses meanwhile, so that nothing is trained."""
    assert api.patch("/work_pools/tidemill", json={"is_paused": True}).is_success
    with httpx.Client(base_url=f"{up['addresses']['service']}/api/v1", timeout=30) as service:
        accepted = service.post("/jobs", json={"kind": "training", "reason": "a job of the test"})
        assert accepted.status_code == 202, accepted.text
        path = f"/jobs/{accepted.json()['job_id']}"
        assert wait_for(lambda: service.get(path).json()["state"] not in {"queued", "running"}, PATIENCE_S)
        assert service.get(path).json()["state"] == "done", service.get(path).text
        started = service.get(f"{path}/result").json()
    run = api.get(f"/flow_runs/{started['flow_run_id']}").json()
    assert (run["state_type"], run["parameters"]["reason"]) == ("SCHEDULED", "a job of the test")
    cancelled = {"state": {"type": "CANCELLED", "name": "Cancelled"}, "force": True}
    assert api.post(f"/flow_runs/{run['id']}/set_state", json=cancelled).is_success
    assert api.patch("/work_pools/tidemill", json={"is_paused": False}).is_success


def test_windows_that_close_shortly_after_each_other_start_one_refresh(api):
    resource = {"prefect.resource.id": "tidemill.dataset.index_volatility"}
    events = [
        {
            "occurred": datetime.now(UTC).isoformat(),
            "event": "tidemill.window.closed",
            "resource": resource,
            "id": str(uuid4()),
            "payload": {"dataset": "index_volatility", "as_of": "2019-01-01T00:00:00+00:00", "n_rows": 9},
        }
        for _ in range(3)
    ]
    assert api.post("/events", json=events).status_code == 204

    def is_automated(run):
        return (run["created_by"] or {}).get("type") == "AUTOMATION"

    run = wait_for_run(api, "refresh", is_automated)
    assert run["state_type"] == "COMPLETED", run["state"]
    runs = api.post("/flow_runs/filter", json={"flows": {"name": {"any_": ["refresh"]}}}).json()
    assert sum(map(is_automated, runs)) == 1


def test_another_dataset_is_served_after_its_run_and_nothing_of_the_first_is_shown(checkout, up, done, api):
    """`use` and then `run --dataset` beside what is up: the service changes to it by itself."""
    params = checkout.root / "params.yaml"
    document = yaml.safe_load(params.read_text())
    first, second = document["dataset"], "second"
    document["datasets"][second] = {
        key: part for key, part in document["datasets"][first].items() if key != "feed"
    }
    params.write_text(yaml.safe_dump(document, sort_keys=False))
    checkout.tidemill("use", second)
    said = checkout.tidemill("up").stderr
    assert f"serves '{first}', and the current dataset is '{second}'" in said
    found = json.loads(checkout.tidemill("status", "--json").stdout)
    assert (found["dataset"], found["served_dataset"], found["champion"], found["as_of"]) == (
        second,
        first,
        None,
        None,
    )
    decisions = found["decisions"]
    assert (decisions["promote"], decisions["retrain"]) == (None, None)
    # A tick of the schedule may have come: it says that there is nothing to watch
    assert decisions["monitor"] is None or decisions["monitor"]["verdict"] == "insufficient"
    assert (
        "OtherDatasetError: data/clean/rows.parquet is of the dataset"
        in checkout.run(sys.executable, "-m", "tasks.promote", code=2).stderr
    )
    made = json.loads(checkout.tidemill("run", "--dataset", second, "--json").stdout)
    assert made["forecast"]["dataset"] == second
    _wait_until_served(up, second)
    assert f"the service serves '{second}'" in checkout.tidemill("up").stderr
    found = json.loads(checkout.tidemill("status", "--json").stdout)
    assert (found["served_dataset"], all(found["decisions"].values())) == (second, True)
    checkout.tidemill("use", first)
    _wait_until_served(up, first)
    assert not any(json.loads(checkout.tidemill("status", "--json").stdout)["decisions"].values())


def test_down_stops_exactly_its_own(checkout, up):
    """A bystander in the same folder, even one that looks like ours, is left alone."""
    bystander = checkout.start(
        [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        build_process_identity("bystander", bystander.pid)
        stopped = json.loads(checkout.tidemill("down", "--json").stdout)["stopped"]
        assert set(stopped) == PARTS | {"supervisor"}
        assert [line for line in checkout.alive() if "http.server" not in line] == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def _wait_until_served(up, dataset):
    """The service looks at what is current when it is asked."""
    address = f"{up['addresses']['service']}/api/v1/health/ready"
    deadline = time.monotonic() + 10
    while (said := httpx.get(address).json())["faults"] or said["dataset"] != dataset:
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def _give_a_feed(params):
    """The dataset's own files as a feed, all at once."""
    document = yaml.safe_load(params.read_text())
    document["datasets"][document["dataset"]]["feed"] = {
        "source": {"kind": "files", "dataset": document["dataset"], "speed": "max"}
    }
    params.write_text(yaml.safe_dump(document, sort_keys=False))


def _feed_status(checkout):
    return json.loads(checkout.tidemill("feed", "status", "--json").stdout)
