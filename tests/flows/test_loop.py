"""The loop as delivered: rows of another regime arrive, and the served model changes by itself,
also when what works on it is killed in between.

One small checkout that reads a CSV file, on a real server, worker and service.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import psutil
import pytest
import yaml
from small_checkout import small_checkout

from tasks.edges.processes import find_free_port

PATIENCE_S = 300.0  # two cores, and perhaps other tests
NAME = "meters"
START = datetime(2021, 1, 1, tzinfo=UTC)
WEEK = np.array([10.0, 12.0, 14.0, 13.0, 11.0, -20.0, -30.0])


def write_rows(path, n_old, n_new=0, seed=1):
    """Daily loads of two meters with a week's season; the last *n_new* days have another one."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 2.0, (2, 3000))
    lines = ["day,meter,load"]
    for i, meter in enumerate(("north", "south")):
        for day in range(n_old + n_new):
            season = WEEK[day % 7] if day < n_old else -2.0 * WEEK[(day + 3) % 7]
            value = 100 + 20 * i + season + noise[i, day]
            lines.append(f"{START + timedelta(days=day):%Y-%m-%d},{meter},{value:.3f}")
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    part.rename(path)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    ports = {
        f"TIDEMILL_{name}_PORT": str(find_free_port("127.0.0.1")) for name in ("PREFECT", "MLFLOW", "SERVICE")
    }
    found = small_checkout(folder, **ports)
    write_rows(folder / "meters.csv", 700)
    found.tidemill(
        "new", NAME, "--csv", str(folder / "meters.csv"), "--target", "load", "--horizon", "7", "--yes"
    )
    params = found.root / "params.yaml"
    document = yaml.safe_load(params.read_text())
    entry = document["datasets"][NAME]
    entry["models"] = {"last_value": {}, "seasonal_naive": {}, "ridge": {}}
    entry["validate"]["columns"]["load"] = {"min": 0}
    params.write_text(yaml.safe_dump(document, sort_keys=False))
    found.tidemill("run", "--dataset", NAME)
    yield found
    found.tidemill("down")


@pytest.fixture(scope="module")
def up(checkout):
    return json.loads(checkout.tidemill("up", "--json").stdout)["addresses"]


@pytest.fixture(scope="module")
def api(up):
    with httpx.Client(base_url=f"{up['prefect']}/api", timeout=30) as client:
        yield client


def wait_for(holds, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)
    return found


def ask(up):
    body = {"series_id": ["north", "south"]}
    return httpx.post(f"{up['service']}/api/v1/predict", json=body, timeout=30).json()


def list_runs(api, flow):
    return api.post("/flow_runs/filter", json={"flows": {"name": {"any_": [flow]}}}).json()


def run_flow(checkout, api, flow, *params):
    """Not waited for by the clock: started as the schedule would start it."""
    before = {run["id"] for run in list_runs(api, flow)}
    checkout.run(
        "prefect", "--no-prompt", "deployment", "run", f"{flow}/{flow}", *params,
        PREFECT_API_URL=str(api.base_url).rstrip("/"), PREFECT_HOME=str(checkout.home / "prefect"),
    )  # fmt: skip

    def find_ended():
        new = [run for run in list_runs(api, flow) if run["id"] not in before]
        return next((run for run in new if run["state_type"] in {"COMPLETED", "FAILED", "CRASHED"}), None)

    assert wait_for(find_ended)["state_type"] == "COMPLETED"
    return json.loads((checkout.root / "data/decisions/retrain/decision.json").read_text())


def run_refresh(checkout, api):
    return run_flow(checkout, api, "refresh")


def read_journal(checkout):
    """The lines of the journal, as they are written."""
    path = checkout.home / "retrain" / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def find_working_process(checkout, n_starts=1):
    """Process id of the flow that the *n_starts*-th start of the journal names, once it trains."""
    starts = [line for line in read_journal(checkout) if "process" in line]
    if len(starts) < n_starts:
        return None
    pid = starts[n_starts - 1]["process"]["pid"]
    if not psutil.pid_exists(pid):
        return None
    children = psutil.Process(pid).children(recursive=True)
    return pid if any("tasks.train" in child.cmdline() for child in children) else None


def is_as_of(up, n_days):
    newest = {series["as_of"] for series in ask(up)["series"]}
    return newest == {f"{START + timedelta(days=n_days):%Y-%m-%dT%H:%M:%SZ}"}


def test_rows_that_are_as_before_reach_the_forecast_and_change_no_model(checkout, up, api):
    first = ask(up)["model"]["digest"]
    write_rows(checkout.root.parent / "meters.csv", 735)
    wait_for(lambda: is_as_of(up, 735), 30)
    decision = run_refresh(checkout, api)
    assert not decision["due"], decision["reason"]
    assert decision["facts"]["n_known"] > 100
    assert ask(up)["model"]["digest"] == first
    assert not (checkout.home / "retrain").exists()


def test_another_regime_changes_the_served_model_and_the_journal_says_why(checkout, up, api):
    first = ask(up)["model"]["digest"]
    write_rows(checkout.root.parent / "meters.csv", 735, 300)
    wait_for(lambda: is_as_of(up, 1035), 30)
    decision = run_refresh(checkout, api)
    assert decision["due"], decision["reason"]
    assert "error" in decision["triggers"]
    assert decision["recipe"] == "window"
    os.kill(wait_for(lambda: find_working_process(checkout)), signal.SIGKILL)
    wait_for(lambda: ask(up)["model"]["digest"] != first)
    killed, again, ended = wait_for(lambda: lines if len(lines := read_journal(checkout)) > 2 else None)
    assert killed["triggers"] == decision["triggers"]
    assert "times the gate's" in killed["reason"]
    assert (again["triggers"], again["recipe"]) == (["interrupted"], "window")
    assert ended["verdict"].startswith("promote: the challenger takes over")
    assert (again["digest"], ended["new_digest"]) == (first, ask(up)["model"]["digest"])
    after = run_refresh(checkout, api)
    assert (after["due"], after["facts"]["digest"]) == (False, ended["new_digest"])
    assert len(read_journal(checkout)) == 3


def test_a_bad_challenger_changes_nothing_and_the_journal_says_why(checkout, up, api):
    first, params = ask(up)["model"]["digest"], checkout.root / "params.yaml"
    before = params.read_text()
    document = yaml.safe_load(before)
    document["models"] = ["last_value"]
    document["datasets"][NAME]["models"] = {"last_value": {}}
    params.write_text(yaml.safe_dump(document, sort_keys=False))
    run_flow(checkout, api, "retraining", "--param", "reason=only the last value")
    params.write_text(before)
    started, ended = read_journal(checkout)[-2:]
    assert (started["triggers"], started["reason"]) == (["operator"], "only the last value")
    assert ended["new_digest"] == started["digest"] == first == ask(up)["model"]["digest"]
    assert ended["verdict"].startswith(
        "keep: the champion stays, since the challenger is not shown to be better"
    )


def test_what_the_loop_did_is_on_the_command_line(checkout, up):
    found = json.loads(checkout.tidemill("status", "--json").stdout)
    assert found["champion"]["digest"] == ask(up)["model"]["digest"]
    assert "refresh" in found["running"]
    loop = found["loop"]
    assert loop["freshness"]["as_of"] == f"{START + timedelta(days=1035):%Y-%m-%dT%H:%M:%S+00:00}"
    assert {level["name"] for level in loop["levels"]} == {"loss", "80% coverage"}
    last = loop["last_retraining"]
    assert (last["result"], last["triggers"], last["recipe"]) == ("in vain", ["operator"], "window")
    assert loop["next_due"]["age_left_steps"] >= 0
    assert {"refresh", "retraining"} <= set(loop["next_due"]["runs"])
    shown = checkout.tidemill("status").stdout
    assert all(
        name in shown for name in ("data as of", "levels", "alarms", "in vain", "retraining by age in")
    )
    watching = checkout.start(
        [sys.executable, "-m", "deployments.cli", "status", "--watch", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert list(itertools.islice(filter("{\n".__eq__, watching.stdout), 2)) == ["{\n"] * 2
    watching.terminate()
    watching.wait()
    done = json.loads(checkout.tidemill("refresh", "--json").stdout)
    assert (done["n_new"], done["n_rows"]) == (0, 2 * 1035)
