"""Find the flow runs whose process is gone, mark them as crashed, and start each once more.

Prefect's worker reports the end of a process that it started; after kill -9 of the worker or the
server nothing does, and the run would hold its deployment's one slot. Heartbeats (Prefect's own
way) need 30 s and more each. All processes of our worker are on this machine, so a look at them is
enough: a run without a process is found within two looks.
"""

import json
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil

from deployments.ops.prefect_server import POOL
from tasks.edges.processes import fetch_url

LOOK_S = 5.0
PENDING_S = 60.0  # a run whose process has not started by then has lost its worker
RETRY_S = 900.0  # what crashed longer ago is not started again
SECOND_TRY = "second-try"  # tag of a run that repeats a crashed one
_OPEN = ("RUNNING", "PENDING", "CANCELLING")

FlowRun = dict[str, Any]  # as Prefect's API has it


class CrashWatch:
    """Looks at the runs of our work pool on the server at *api*.

    log: gets a line for each crash and each second try.
    """

    def __init__(self, api: str, log: Callable[[str], None]) -> None:
        self.api, self.log = api, log
        self._missing: set[str] = set()
        self._retried: set[str] = set()

    def run_loop(self, stop: threading.Event) -> None:
        """Look until *stop* is set; a fault is logged, and the next round tries again."""
        while not stop.wait(LOOK_S):
            try:
                self.run_round()
            except Exception as error:  # noqa: BLE001  (an answer of another form; nothing else depends on it)
                self.log(f"crashed runs are not found: {type(error).__name__}: {error}")

    def run_round(self) -> None:
        """Look once. Nothing when the server does not answer."""
        runs = self._fetch_runs(_OPEN)
        alive = list_alive_runs() if runs else set()
        missing = {run["id"] for run in runs if run["id"] not in alive and not _is_starting(run)}
        # Twice, because a run may end between the two lists
        for run in runs:
            if run["id"] in missing & self._missing:
                self._end_run(run)
        self._missing = missing
        for run in self._fetch_runs(["CRASHED"]):
            is_first_try = SECOND_TRY not in run["tags"] and run["deployment_id"] is not None
            if is_first_try and run["id"] not in self._retried and _get_age_s(run) < RETRY_S:
                self._run_again(run)

    def _end_run(self, run: FlowRun) -> None:
        name = "Cancelled" if run["state_type"] == "CANCELLING" else "Crashed"
        state = {"type": name.upper(), "name": name, "message": "Its process is gone."}
        self._fetch(f"flow_runs/{run['id']}/set_state", {"state": state})
        self.log(f"{run['name']} has no process any more; its state is {name}")
        children = {"parent_flow_run_id": {"any_": [run["id"]]}, "state": {"type": {"any_": list(_OPEN)}}}
        for child in self._fetch("flow_runs/filter", {"flow_runs": children}) or []:
            self._fetch(f"flow_runs/{child['id']}/set_state", {"state": state})

    def _run_again(self, run: FlowRun) -> None:
        created = self._fetch(
            f"deployments/{run['deployment_id']}/create_flow_run",
            {
                "parameters": run["parameters"],
                "tags": [*run["tags"], SECOND_TRY],
                "idempotency_key": f"{SECOND_TRY}-{run['id']}",  # also after a restart of the supervisor
            },
        )
        if created is not None:
            self._retried.add(run["id"])
            self.log(f"{run['name']} crashed and is tried once more")

    def _fetch_runs(self, states: Iterable[str]) -> list[FlowRun]:
        body = {
            "flow_runs": {"state": {"type": {"any_": list(states)}}},
            "work_pools": {"name": {"any_": [POOL]}},
            "sort": "START_TIME_DESC",
        }
        return self._fetch("flow_runs/filter", body) or []

    def _fetch(self, path: str, body: dict[str, object]) -> Any:
        content = fetch_url(f"{self.api}/{path}", timeout_s=10.0, body=json.dumps(body).encode())
        return None if content is None else json.loads(content)


def list_alive_runs() -> set[str]:
    """Ids of the flow runs that a process of this machine works on."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or ended meanwhile
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
    return found


def _is_starting(run: FlowRun) -> bool:
    return run["state_type"] == "PENDING" and _get_age_s(run) < PENDING_S


def _get_age_s(run: FlowRun) -> float:
    """Seconds since its last change of state."""
    changed = datetime.fromisoformat(run["state"]["timestamp"])
    return (datetime.now(UTC) - changed) / timedelta(seconds=1)
