"""A promotion waits, a person fills in Prefect's form, and it is applied; on a real server."""

import threading
import time
from contextlib import nullcontext

import pytest
from homes import PROMOTE, at_home, small_root
from prefect.client.orchestration import get_client
from prefect.flow_runs import resume_flow_run
from prefect.testing.utilities import prefect_test_harness
from small_release import small_rows

from flows import approval as approval_flow
from tasks.edges.approvals import list_requests
from tasks.edges.registry import read_champion
from tasks.promote.__main__ import main

pytestmark = pytest.mark.chaos  # a server of its own
BETTER = {"weights": {"ridge": 1.0}, "model": "better"}


@pytest.fixture(scope="module", autouse=True)
def server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = small_root(
        tmp_path / "root", small_rows(500), challenger=BETTER, promote={**PROMOTE, "approval": "required"}
    )
    monkeypatch.setattr(approval_flow, "ROOT", root)
    monkeypatch.setattr(approval_flow, "publish_runs", lambda: None)
    with at_home(tmp_path / "home", TIDEMILL_OPERATOR="ada"):
        main(root, deliver=nullcontext)
        yield root


def fill_in(**answers):
    """Resume the run that pauses, as the form does."""
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            paused = [run for run in client.read_flow_runs() if run.state_type == "PAUSED"]
            if paused:
                resume_flow_run(paused[0].id, run_input=answers)
                return
            time.sleep(0.2)


def run_flow(**answers):
    person = threading.Thread(target=fill_in, kwargs=answers)
    person.start()
    try:
        return approval_flow.approval(wait_s=60, poll_s=1, return_state=True)
    finally:
        person.join()


def test_a_promotion_waits_and_the_form_approves_or_rejects_it(root):
    (request,) = list_requests("small")
    assert (request.state, read_champion("small")) == ("waiting", None)
    refused = run_flow(decision="approve", by="ada", reason="mine")
    assert refused.is_failed()
    assert "its author does not approve it" in refused.message
    assert list_requests("small")[-1].state == "waiting"
    assert run_flow(decision="approve", by="grace", reason="looked at it").result() == request.digest
    assert (read_champion("small").digest, read_champion("small").by) == (request.digest, "grace")
    assert approval_flow.approval(wait_s=60) is None


def test_a_rejection_leaves_the_champion(root):
    run_flow(decision="reject", by="grace", reason="not yet")
    assert (list_requests("small")[-1].state, read_champion("small")) == ("rejected", None)
