"""The run of a model in MLflow while it is trained, over MLflow's REST interface alone.

Importing mlflow takes seconds, so a thread sends the epochs of the event log as they come. A server
that does not answer delays nothing: the entry that the training leaves in the outbox at its end has
the same run and the same figures.
"""

import json
import os
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.edges.artifacts import write_json
from tasks.edges.event_log import Event, EventLabel, read_events, read_last_number
from tasks.edges.processes import ProcessIdentity, build_process_identity, fetch_url, is_running
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings
from tasks.edges.tracking import (
    ENTRY_TAG,
    EXPERIMENT_TAGS,
    Point,
    build_entry_key,
    get_artifacts_folder,
    get_database_path,
)

_PERIOD_S = 2.0
_TIMEOUT_S = 5.0
_BATCH = 900  # MLflow accepts 1,000 metrics in one call
_EPOCH_FIGURES = ("loss", "held_loss")


class LiveRun:
    """Sends the epochs of one training while its block runs; used as a context manager.

    key: of the entry that the training leaves at its end, which is the same run in MLflow.
    An error of the block ends the run as failed; a kill leaves it to `list_killed_runs`.
    """

    def __init__(self, label: EventLabel) -> None:
        self.label, self.started_ns = label, time.time_ns()
        self.key = build_entry_key(label.subject, self.started_ns)
        self._first = self._since = 0  # numbers of events
        self._run_id: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run_loop, daemon=True)
        self._marker = _get_marker_folder() / f"{self.key}.json"

    def __enter__(self) -> Self:
        """Mark the run as live and begin to send."""
        with suppress(OSError, sqlite3.Error):  # MLflow is a log: no fault of it may stop a stage
            self._first = self._since = read_last_number()
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._marker, build_process_identity(self.key, os.getpid()).model_dump())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop sending; a failed training ends its run here, since it leaves no entry."""
        self._ended.set()
        self._thread.join()
        if error is not None and self._run_id is not None:
            end = {"run_id": self._run_id, "status": "FAILED", "end_time": time.time_ns() // 1_000_000}
            _post("runs/update", end)
        self._marker.unlink(missing_ok=True)

    def read_points(self) -> list[Point]:
        """All epochs of the training so far."""
        return build_epoch_points(self._read(self._first))

    def _run_loop(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            if self._run_id is None:
                self._run_id = self._start_run()
            if self._run_id is not None:
                self._send(self._run_id)

    def _start_run(self) -> str | None:
        experiment_id = _find_experiment(self.label.dataset)
        if experiment_id is None:
            return None
        tags = {ENTRY_TAG: self.key, "mlflow.runName": self.label.subject}
        body = {
            "experiment_id": experiment_id,
            "run_name": self.label.subject,
            "start_time": self.started_ns // 1_000_000,
            "tags": [{"key": k, "value": v} for k, v in tags.items()],
        }
        answer = _post("runs/create", body)
        return None if answer is None else str(answer["run"]["info"]["run_id"])

    def _send(self, run_id: str) -> None:
        events = self._read(self._since)
        metrics = [
            {"key": name, "value": value, "timestamp": at_ms, "step": step}
            for name, value, step, at_ms in build_epoch_points(events)
        ]
        for start in range(0, len(metrics), _BATCH):
            if (
                _post("runs/log-batch", {"run_id": run_id, "metrics": metrics[start : start + _BATCH]})
                is None
            ):
                return  # sent again with the next ones: the same point twice is one point
        if events:
            self._since = events[-1].number

    def _read(self, since: int) -> list[Event]:
        found: list[Event] = []
        with suppress(OSError, sqlite3.Error):
            while part := read_events(since, dataset=self.label.dataset, kind="training.epoch"):
                found += [event for event in part if event.subject == self.label.subject]
                since = part[-1].number
        return found


def build_epoch_points(events: list[Event]) -> list[Point]:
    """(name, value, epoch, time in ms) of each loss, by fold."""
    return [
        (
            f"fold {str(event.fields['fold']).replace(':', '')}.{figure}",
            float(value),
            int(event.fields["epoch"] or 0),
            event.at_us // 1_000,
        )
        for event in events
        for figure in _EPOCH_FIGURES
        if (value := event.fields.get(figure)) is not None
    ]


def list_killed_runs() -> list[Path]:
    """Markers of live runs whose process has ended without ending them; the stem is the key."""
    return [
        path
        for path in sorted(_get_marker_folder().glob("*.json"))
        if not is_running(ProcessIdentity.model_validate_json(path.read_bytes()))
    ]


def _find_experiment(dataset: str) -> str | None:
    """The experiment of *dataset*, made where MLflow is shared; None while none of ours answers.

    At the local port may be the server of another home; ours keeps the artifacts in this one.
    """
    name = encode_name(dataset)
    is_shared = read_settings().mlflow_uri.startswith("http")
    found = _fetch(f"experiments/get-by-name?{urllib.parse.urlencode({'experiment_name': name})}")
    if found is None:
        tags = [{"key": k, "value": v} for k, v in EXPERIMENT_TAGS.items()]
        made = _post("experiments/create", {"name": name, "tags": tags}) if is_shared else None
        return None if made is None else str(made["experiment_id"])
    experiment = found["experiment"]
    is_ours = is_shared or experiment["artifact_location"].startswith(get_artifacts_folder().as_uri())
    return str(experiment["experiment_id"]) if is_ours else None


def _post(path: str, body: Mapping[str, Any]) -> Any:
    """The answer, or None without one."""
    return _fetch(path, json.dumps(body).encode())


def _fetch(path: str, body: bytes | None = None) -> Any:
    settings = read_settings()
    is_shared = settings.mlflow_uri.startswith("http")
    address = (
        settings.mlflow_uri.rstrip("/") if is_shared else f"http://{settings.host}:{settings.mlflow_port}"
    )
    answer = fetch_url(f"{address}/api/2.0/mlflow/{path}", _TIMEOUT_S, body)
    try:
        return None if answer is None else json.loads(answer)
    except ValueError:  # another program has the port
        return None


def _get_marker_folder() -> Path:
    return get_database_path().with_name("live")
