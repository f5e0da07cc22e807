"""`python -m deployments.ops.alert_loop`: find alarms, send them, until stopped.

`tidemill up` starts it. A process of its own, because it must find that another part is down, and
an address that hangs must delay nothing else: one thread finds alarms, and each address has a
thread that sends.
"""

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from deployments.ops.forecaster_process import fetch_of_dataset
from deployments.ops.supervisor_state import describe_failing_parts, read_state
from tasks.alerts.params import SECTION, AlertParams
from tasks.alerts.send import AlertAddress, list_addresses, send_message
from tasks.alerts.sources import SOURCES, AlarmContext, AlarmSource, build_alarm, collect_alarms
from tasks.alerts.store import PREFECT, open_store, read_now, render_events
from tasks.core.errors import TidemillError
from tasks.core.objectives import EventCount
from tasks.core.reports.alerts import Alarm, AlertMessage
from tasks.edges.command import run_or_exit
from tasks.edges.objectives import add_counts
from tasks.edges.params import read_document
from tasks.edges.processes import START_S, is_running
from tasks.edges.registry import read_champion
from tasks.edges.settings import ROOT, read_settings

TICK_S = 10.0
_SEND_POLL_S = 1.0
_N_FAILED = 3  # ticks in a row in which a part or the service fails, before it is down
_EMIT_TIMEOUT_S = 60.0
_COUNTER = re.compile(
    r'^tidemill_service_level_(events|bad)_total\{dataset="(.*)",level="(\w+)"\} (\S+)$', re.MULTILINE
)
Send = Callable[[AlertMessage], str | None]


def main(root: Path = ROOT, tick_s: float = TICK_S) -> None:
    """Find and send alarms until SIGTERM or SIGINT. Raises SettingsError for a wrong address."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    addresses = list_addresses()
    names = ", ".join(address.label for address in addresses) or "none: TIDEMILL_ALERTS is not set"
    print(f"alerts: addresses {names}", flush=True)
    senders: dict[str, tuple[str, Send]] = {
        address.hash: (f"address {address.label}", _build_send(address)) for address in addresses
    }
    senders[PREFECT] = ("Prefect", emit_events)
    for address, (label, send) in senders.items():
        threading.Thread(
            target=run_sender, args=(address, label, send, stopping, min(_SEND_POLL_S, tick_s)), daemon=True
        ).start()
    finder = AlarmFinder(root, addresses)
    while True:
        finder.run_tick()
        if stopping.wait(tick_s):
            return


class AlarmFinder:
    """Looks for alarms, and puts messages about them into the outbox."""

    def __init__(self, root: Path, addresses: list[AlertAddress]) -> None:
        self._root, self._addresses = root, addresses
        self._probe = ServiceProbe()
        self._sources: dict[str, AlarmSource] = {
            **SOURCES,
            "parts": PartsProbe().list_alarms,
            "service": self._probe.list_alarms,
            "release": self._probe.list_release_alarms,
        }
        self._faults: dict[str, str] = {}
        self._sent: set[str] = set()

    def run_tick(self) -> None:
        """Find alarms once; a fault is printed once and ends nothing."""
        try:
            document = read_document(self._root)
            params = document.parse_stage(SECTION, AlertParams)
        except (TidemillError, OSError) as error:
            self._report_faults({"params": str(error)})
            return
        now = read_now()
        self._probe.fetch(document.dataset, now)
        collected = collect_alarms(AlarmContext(document, params, self._root, now), self._sources)
        faults = dict(collected.faults)
        hashes = [*(address.hash for address in self._addresses), PREFECT]
        try:
            with open_store() as store:
                messages = store.update(collected, document.dataset, params, hashes, now)
            self._sent = {alarm.key for alarm in collected.alarms}
            for message in messages:
                print(f"alerts: {message.title}", flush=True)
        except (sqlite3.Error, OSError) as error:
            faults["store"] = f"{type(error).__name__}: {error}"
            self._send_without_store(collected.alarms)
        self._report_faults(faults)

    def _send_without_store(self, alarms: list[Alarm]) -> None:
        """Where nothing can be written, critical alarms are sent once, without a second try."""
        new = [alarm for alarm in alarms if alarm.severity == "critical" and alarm.key not in self._sent]
        self._sent |= {alarm.key for alarm in new}
        for alarm in new:
            message = AlertMessage(
                title=f"Tidemill, {alarm.dataset or 'machine'}: critical: {alarm.name}",
                body=f"{alarm.summary}\n    What to do: {alarm.runbook}",
                severity="critical",
            )
            print(f"alerts: {message.title}", flush=True)
            for address in self._addresses:
                threading.Thread(target=send_message, args=(address, message), daemon=True).start()

    def _report_faults(self, faults: dict[str, str]) -> None:
        for source, fault in faults.items():
            if self._faults.get(source) != fault:
                print(f"alerts: {source} cannot be read: {fault}", flush=True)
        self._faults = faults


class ServiceProbe:
    """What the service answers now, and what it has counted."""

    def __init__(self) -> None:
        self._n_failed = 0
        self._ready: dict[str, object] | None = None

    def fetch(self, dataset: str, now: datetime) -> None:
        """Ask the service once; its counters go into the windows of the service levels."""
        answer = fetch_of_dataset("/api/v1/health/ready", dataset)
        self._ready = None if answer is None else json.loads(answer)
        self._n_failed = 0 if self._ready else self._n_failed + 1
        metrics = fetch_of_dataset("/api/v1/metrics", dataset)
        counts: dict[str, dict[str, float]] = {}
        for kind, of, level, value in _COUNTER.findall((metrics or b"").decode()):
            if of == dataset:
                counts.setdefault(level, {})[kind] = float(value)
        if counts:
            counters = {
                level: EventCount(of["events"], of.get("bad", 0.0))
                for level, of in counts.items()
                if "events" in of
            }
            try:
                add_counts(dataset, counters, now.timestamp())
            except (sqlite3.Error, OSError) as error:
                print(f"alerts: the service's counters cannot be kept: {error}", flush=True)

    def list_alarms(self, context: AlarmContext) -> list[Alarm] | None:
        """Whether it is ready; unknown between the first failed probe and the last that counts."""
        if self._ready or read_champion(context.document.dataset) is None:
            return []
        if self._n_failed < _N_FAILED:
            return None
        settings = read_settings()
        summary = (
            f"http://{settings.host}:{settings.service_port}/api/v1/health/ready has not answered"
            f" with 200, {_N_FAILED} times in a row"
        )
        return [build_alarm("service_down", "service", summary, context.document.dataset)]

    def list_release_alarms(self, context: AlarmContext) -> list[Alarm] | None:
        """What the service cannot load."""
        if self._ready is None:
            return None
        faults = self._ready.get("faults")
        if not isinstance(faults, list) or not faults:
            return []
        summary = "; ".join(map(str, faults))
        return [build_alarm("release_fault", "release", summary, context.document.dataset)]


class PartsProbe:
    """Parts of `tidemill up` that do not run, or end again and again."""

    def __init__(self) -> None:
        self._n_failed: dict[str, int] = {}

    def list_alarms(self, context: AlarmContext) -> list[Alarm] | None:
        """Parts that fail several ticks in a row; unknown in between: one may be starting."""
        state = read_state()
        if state is None or not is_running(state.supervisor):
            return None
        is_starting = context.now.timestamp() - state.supervisor.started < START_S
        failing = {
            name: fact
            for name, fact in describe_failing_parts(state).items()
            if name in state.ends or not is_starting
        }
        self._n_failed = {name: self._n_failed.get(name, 0) + 1 for name in failing}
        if any(n < _N_FAILED for n in self._n_failed.values()):
            return None
        return [build_alarm("part_down", "parts", fact, subject=name) for name, fact in failing.items()]


def run_sender(address: str, label: str, send: Send, stopping: threading.Event, poll_s: float) -> None:
    """Deliver what waits for *address* until *stopping*; a fault is printed once."""
    last_fault = ""
    while not stopping.wait(poll_s):
        try:
            while not stopping.is_set() and (fault := deliver_next(address, send)) is not None:
                if fault and fault != last_fault:
                    print(f"alerts: {label}: {fault}; it is tried again", flush=True)
                last_fault = fault
        except (sqlite3.Error, OSError) as error:
            print(f"alerts: {label}: {type(error).__name__}: {error}", flush=True)


def deliver_next(address: str, send: Send) -> str | None:
    """Try the oldest message that waits for *address*; None when none is due.

    Returns why it was not delivered, or an empty text.
    """
    with open_store() as store:
        delivery = store.start_attempt(address, read_now())
        if delivery is None:
            return None
        message = delivery.message
        if delivery.is_repeat:
            body = f"{message.body}\n(A crash interrupted the first sending, so this may be a repeat.)"
            message = message.model_copy(update={"body": body})
        fault = send(message)
        store.end_attempt(delivery, address, fault, read_now())
        return fault or ""


def emit_events(message: AlertMessage) -> str | None:
    """Emit the message's alarms as Prefect events; None once the server has accepted them."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flows.alarms"],
            input=render_events(message),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_EMIT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_EMIT_TIMEOUT_S:.0f} s"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["ended"])[-1][:300]


def _build_send(address: AlertAddress) -> Send:
    return lambda message: send_message(address, message)


if __name__ == "__main__":
    run_or_exit(main)
