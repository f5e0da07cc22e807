"""The loop as delivered, in a small checkout of its own that reads a CSV file: on a real server,
worker and service."""

import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import psutil
import yaml
from small_checkout import SmallCheckout, small_checkout

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


def build_loop_checkout(folder, **settings) -> SmallCheckout:
    """A checkout after its first chain, which reads `meters.csv` in *folder*.

    By DVC: `tidemill run` does the same with a server of its own (tests/flows/test_operated.py).
    """
    ports = {
        f"TIDEMILL_{name}_PORT": str(find_free_port("127.0.0.1")) for name in ("PREFECT", "MLFLOW", "SERVICE")
    }
    found = small_checkout(folder, **ports, **settings)
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
    found.tidemill("use", NAME)
    found.repro()
    return found


def wait_for(holds, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)
    return found


def fetch_forecast(up):
    body = {"series_id": ["north", "south"]}
    return httpx.post(f"{up['service']}/api/v1/predict", json=body, timeout=30).json()


def is_another_served(up, digest):
    """Whether the service answers, with another model than *digest*."""
    try:
        return fetch_forecast(up)["model"]["digest"] != digest
    except httpx.TransportError:
        return False


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


def read_retrain_lines(checkout):
    """The lines of the journal, as they are written."""
    path = checkout.home / "retrain" / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def find_working_process(checkout):
    """Process id of the flow that the first start of the journal names, once it trains."""
    starts = [line for line in read_retrain_lines(checkout) if "process" in line]
    if not starts:
        return None
    pid = starts[0]["process"]["pid"]
    try:
        children = psutil.Process(pid).children(recursive=True)
        return pid if any("tasks.train" in child.cmdline() for child in children) else None
    except psutil.Error:  # a child, or the flow itself, has just ended
        return None


def is_as_of(up, n_days):
    """Whether the service forecasts from the row of day *n_days* on."""
    newest = {series["as_of"] for series in fetch_forecast(up)["series"]}
    return newest == {f"{START + timedelta(days=n_days):%Y-%m-%dT%H:%M:%SZ}"}


def kill_part(checkout, name):
    """kill -9 of a part of `up`, or of its supervisor."""
    state = json.loads((checkout.home / "up/state.json").read_text())
    pids = {part["name"]: part["pid"] for part in (*state["parts"], state["supervisor"])}
    os.kill(pids[name], signal.SIGKILL)
