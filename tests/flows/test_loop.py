"""The loop as delivered: rows of another regime arrive, and the served model changes by itself.

One small checkout that reads a CSV file, on a real server, worker and service.
"""

import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
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


def run_refresh(checkout, api):
    """Not waited for by the clock: started as the schedule would start it."""
    before = {run["id"] for run in list_runs(api, "refresh")}
    checkout.run(
        "prefect", "--no-prompt", "deployment", "run", "refresh/refresh",
        PREFECT_API_URL=str(api.base_url).rstrip("/"), PREFECT_HOME=str(checkout.home / "prefect"),
    )  # fmt: skip

    def find_ended():
        new = [run for run in list_runs(api, "refresh") if run["id"] not in before]
        return next((run for run in new if run["state_type"] in {"COMPLETED", "FAILED", "CRASHED"}), None)

    assert wait_for(find_ended)["state_type"] == "COMPLETED"
    return json.loads((checkout.root / "data/decisions/retrain/decision.json").read_text())


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
    wait_for(lambda: ask(up)["model"]["digest"] != first)
    journal = checkout.home / "retrain" / f"{NAME}.jsonl"
    started, ended = wait_for(lambda: lines if len(lines := journal.read_text().splitlines()) > 1 else None)
    started, ended = json.loads(started), json.loads(ended)
    assert started["triggers"] == decision["triggers"]
    assert "times the gate's" in started["reason"]
    assert (started["digest"], ended["new_digest"]) == (first, ask(up)["model"]["digest"])
    again = run_refresh(checkout, api)
    assert (again["due"], again["facts"]["digest"]) == (False, ended["new_digest"])
    assert len(journal.read_text().splitlines()) == 2


def test_what_the_loop_did_is_on_the_command_line(checkout, up):
    found = json.loads(checkout.tidemill("status", "--json").stdout)
    assert found["champion"]["digest"] == ask(up)["model"]["digest"]
    assert "refresh" in found["running"]
    done = json.loads(checkout.tidemill("refresh", "--json").stdout)
    assert (done["n_new"], done["n_rows"]) == (0, 2 * 1035)
