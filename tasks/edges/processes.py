"""Servers and workers that we start as processes of their own.

Each leads a session of its own and ends with the process that started it (Linux). They are stopped
by that session and by a token in the environment, which their children inherit too when they lead
sessions of their own (BentoML's and Prefect's do), never by name: by SIGTERM first, then by
SIGKILL, since some ignore the first. A process is identified by its id *and* its start time,
because the system gives the id to another process later.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO
from uuid import uuid4

import psutil

from tasks.core.errors import SettingsError
from tasks.core.strict import Strict
from tasks.edges.settings import ROOT, build_child_environment

# A process that ends is noticed immediately; the others have time: cold, on a busy machine, BentoML
# took 98 s and Prefect's server over 120 s
START_S = 300.0
# Prefect's and MLflow's servers end within a second; a Prefect worker may ignore SIGTERM
STOP_S = 5.0
_POLL_S = 0.2
_N_LAST_LINES = 15
_TOKEN = "TIDEMILL_STARTED_AS"  # noqa: S105  (a name, nothing secret)


class ProcessIdentity(Strict):
    """Which process it is.

    pid, started: its id and its start, in seconds since 1970.
    token: in its environment and in those of its descendants; empty: by its session alone.
    """

    name: str
    pid: int
    started: float
    token: str = ""


def start_process(
    name: str,
    command: Iterable[str],
    output: int | IO[str],
    environment: Mapping[str, str],
    errors: int = subprocess.STDOUT,
) -> "tuple[subprocess.Popen[str], ProcessIdentity]":
    """Start *command* in the checkout, leading a session of its own.

    output: a file, a descriptor or subprocess.PIPE.
    environment: on top of ours.
    errors: a descriptor; by default they go to *output*.
    Call it from a thread that lives as long as the child should: Linux ends the child with the
    thread that started it.
    Raises SettingsError when the program does not exist.
    """
    token = uuid4().hex
    variables = build_child_environment(**environment, **{_TOKEN: token})
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', '')}"
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "tasks.edges.parent_watch", "--parent", str(os.getpid()), *command],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        return child, build_process_identity(name, child.pid, token)
    except OSError as error:
        raise SettingsError(
            f"{name} cannot be started: {error}. `tidemill doctor` shows what is missing."
        ) from error


def allow_interrupts() -> None:
    """Let Ctrl-C end a blocking call again, once polars is imported.

    polars installs a handler that makes the kernel restart such a call, so that the interrupt waits
    until a child writes or ends (pola-rs/polars#21739).
    """
    signal.siginterrupt(signal.SIGINT, True)  # noqa: FBT003  (its one argument)


def build_process_identity(name: str, pid: int, token: str = "") -> ProcessIdentity:
    """The identity of the running process *pid*."""
    return ProcessIdentity(name=name, pid=pid, started=psutil.Process(pid).create_time(), token=token)


def is_running(identity: ProcessIdentity) -> bool:
    """Whether exactly that process still runs; a zombie does not."""
    try:
        process = psutil.Process(identity.pid)
        return _is_same(process, identity) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether that process or one of its descendants still lives."""
    return bool(_list_members(identity))


def stop_process(identity: ProcessIdentity, timeout_s: float = STOP_S) -> None:
    """End the process, its session and its descendants, orphans too; nothing when it has ended.

    By SIGTERM, and by SIGKILL after *timeout_s*.
    """
    _stop_session(identity, signal.SIGTERM)
    if not wait_for(lambda: not _list_members(identity), timeout_s):
        _stop_session(identity, signal.SIGKILL)
        wait_for(lambda: not _list_members(identity), timeout_s)


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until *condition* holds; False when it does not within *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def wait_healthy(child: "subprocess.Popen[str]", name: str, healthy: Callable[[], bool], log: Path) -> None:
    """Wait until *healthy* holds.

    Raises SettingsError with the last lines of *log* when the child ends before, or START_S pass.
    """
    wait_for(lambda: child.poll() is not None or healthy(), START_S)
    if child.poll() is not None:
        raise SettingsError(
            f"{name} ended with code {child.returncode} instead of starting. {read_last_lines(log)}"
        )
    if not healthy():
        raise SettingsError(f"{name} did not answer within {START_S:.0f} s. {read_last_lines(log)}")


def is_answering(url: str, timeout_s: float = 2.0) -> bool:
    """Whether *url* answers with a success."""
    return fetch_url(url, timeout_s) is not None


def fetch_url(
    url: str, timeout_s: float = 2.0, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> bytes | None:
    """The body of a successful answer; None for anything else.

    body: JSON for a POST; None: a GET.
    """
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    # The addresses are ours
    request = urllib.request.Request(url, data=body, headers=all_headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            content: bytes = answer.read()
            return content
    except (urllib.error.URLError, OSError, ValueError):
        return None


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # A port in TIME_WAIT is free, as for the servers themselves
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def find_free_port(host: str) -> int:
    """A port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def find_port_holder(port: int) -> str:
    """Which process listens on *port*, for a message: `python (process 123)`.

    `another process` when the system does not tell.
    """
    with contextlib.suppress(psutil.Error):
        for socket_ in psutil.net_connections("tcp"):
            is_there = socket_.laddr and socket_.laddr.port == port
            if socket_.status == psutil.CONN_LISTEN and is_there and socket_.pid:
                return f"{psutil.Process(socket_.pid).name()} (process {socket_.pid})"
    return "another process"


def read_last_lines(log: Path, n_lines: int = _N_LAST_LINES, containing: str = "") -> str:
    """The end of a log, for a message; only its lines with *containing*."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip() and containing in line]
    return f"Last lines of {log}:\n" + "\n".join(lines[-n_lines:] or ["(nothing)"])


def _list_members(identity: ProcessIdentity) -> list[psutil.Process]:
    """Living processes of the session or with the token.

    While one lives, the system gives the session's id to no other process.
    """
    session = -1 if _is_id_reused(identity) else identity.pid
    return [
        process
        for process in psutil.process_iter()
        if (_find_session(process.pid) == session >= 0 or _has_token(process, identity.token))
        and _is_living(process)
    ]


def _stop_session(identity: ProcessIdentity, number: signal.Signals) -> None:
    for process in _list_members(identity):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _is_same(process: psutil.Process, identity: ProcessIdentity) -> bool:
    # psutil adds the boot time, which moves with the clock
    return abs(process.create_time() - identity.started) < 1.0


def _is_id_reused(identity: ProcessIdentity) -> bool:
    """Whether another process has the id now."""
    try:
        return not _is_same(psutil.Process(identity.pid), identity)
    except psutil.NoSuchProcess:
        return False


def _has_token(process: psutil.Process, token: str) -> bool:
    try:
        return bool(token) and process.environ().get(_TOKEN) == token
    except (psutil.Error, OSError):  # of another user, or gone
        return False


def _find_session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _is_living(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
