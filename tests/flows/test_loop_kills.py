"""`make chaos`: whatever is killed in the middle of a retraining, the loop ends as without it."""

import json
import os
import shutil
import signal
import time
from contextlib import closing

import httpx
import psutil
import pytest
from loop_runs import (
    NAME,
    build_loop_checkout,
    fetch_forecast,
    find_working_process,
    is_another_served,
    is_as_of,
    kill_part,
    list_runs,
    read_retrain_lines,
    run_refresh,
    wait_for,
    write_rows,
)

pytestmark = pytest.mark.chaos
VICTIMS = ["flow", "worker", "prefect", "service", "supervisor"]
ENDED = {"COMPLETED", "CRASHED", "SCHEDULED"}
SLOT_S = 60.0  # what was killed holds the one slot of its deployment no longer than this


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    found = build_loop_checkout(tmp_path_factory.mktemp("kills"))
    shutil.copytree(found.root, found.root.with_name("snapshot"), symlinks=True)
    yield found
    found.tidemill("down")


def start_again(checkout):
    """`up` in the state after `tidemill run`, with a few more rows; its addresses."""
    checkout.tidemill("down")
    shutil.rmtree(checkout.root)
    shutil.copytree(checkout.root.with_name("snapshot"), checkout.root, symlinks=True)
    write_rows(checkout.root.parent / "meters.csv", 735)
    return json.loads(checkout.tidemill("up", "--json").stdout)["addresses"]


def run_case(checkout, victim):
    """From the state after `tidemill run` to the promotion after a change; what came of it."""
    up = start_again(checkout)
    with closing(httpx.Client(base_url=f"{up['prefect']}/api", timeout=30)) as api:
        wait_for(lambda: is_as_of(up, 735), 60)
        first = fetch_forecast(up)["model"]["digest"]
        write_rows(checkout.root.parent / "meters.csv", 735, 300)
        wait_for(lambda: is_as_of(up, 1035), 60)
        assert run_refresh(checkout, api)["due"]
        pid = wait_for(lambda: find_working_process(checkout))
        killed_at = time.monotonic()
        if victim == "flow":
            os.kill(pid, signal.SIGKILL)
        elif victim is not None:
            kill_part(checkout, victim)
        if victim == "supervisor":
            checkout.tidemill("down")
            checkout.tidemill("up")
        if victim in {"flow", "worker", "supervisor"}:
            wait_for(lambda: is_free_or_second(checkout, api, pid))
            assert time.monotonic() - killed_at < SLOT_S
        wait_for(lambda: is_another_served(up, first))
        wait_for(lambda: "new_digest" in read_retrain_lines(checkout)[-1])
        wait_for(lambda: {run["state_type"] for run in list_runs(api, "retraining")} <= ENDED)
        time.sleep(1)
        deployment = api.get("/deployments/name/retraining/retraining").json()
    promotions = (checkout.home / "registry" / NAME / "journal.jsonl").read_text().splitlines()
    return {
        "digest": read_retrain_lines(checkout)[-1]["new_digest"],
        "promotions": [json.loads(line)["digest"] for line in promotions],
        "slots": deployment["global_concurrency_limit"]["active_slots"],
        "starts": sum("process" in line for line in read_retrain_lines(checkout)),
    }


def is_free_or_second(checkout, api, pid):
    """Whether the killed flow is gone, and its run no longer counts as running."""
    is_gone = not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    states = [run["state_type"] for run in list_runs(api, "retraining")]
    return is_gone and "CRASHED" in states


@pytest.fixture(scope="module")
def reference(checkout):
    return run_case(checkout, None)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_in_the_middle_of_a_retraining_changes_nothing_at_its_end(checkout, reference, victim):
    found = run_case(checkout, victim)
    print(victim, found)
    assert {**found, "starts": 1} == {**reference, "starts": 1}
    assert found["slots"] == 0
    assert found["starts"] <= 2


def test_what_a_person_cancels_is_not_tried_again(checkout):
    up = start_again(checkout)
    with closing(httpx.Client(base_url=f"{up['prefect']}/api", timeout=30)) as api:
        wait_for(lambda: is_as_of(up, 735), 60)
        deployment = api.get("/deployments/name/retraining/retraining").json()["id"]
        body = {"parameters": {"reason": "to be cancelled"}}
        created = api.post(f"/deployments/{deployment}/create_flow_run", json=body)
        run = created.raise_for_status().json()["id"]
        wait_for(lambda: find_working_process(checkout))
        state = {"type": "CANCELLING", "name": "Cancelling"}
        api.post(f"/flow_runs/{run}/set_state", json={"state": state})
        wait_for(lambda: api.get(f"/flow_runs/{run}").json()["state_type"] == "CANCELLED", 90)
        wait_for(lambda: read_retrain_lines(checkout)[-1].get("error") == "cancelled", 30)
        decision = run_refresh(checkout, api)
        assert not decision["due"], (decision["reason"], read_retrain_lines(checkout))
