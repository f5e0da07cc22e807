"""Servers and workers that we start beside us.

Each leads a session of its own and ends with the process that started it (Linux). They are stopped
by that session and by a token in the environment, which their children inherit too when they lead
sessions of their own (BentoML's and Prefect's do), never by name: asked first, then by force, since
some do not listen. A process is known by its id *and* its start time, because the system gives an
id to somebody else later.
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

# Who ends is noticed at once; the rest have time: cold, on a busy machine, BentoML took 98 s and
# Prefect's server over 120 s
START_S = 300.0
# Prefect's and MLflow's servers end within a second; a Prefect worker may not end at all when it is
# asked
STOP_S = 5.0
_POLL_S = 0.2
_TAIL_LINES = 15
_TOKEN = "TIDEMILL_STARTED_AS"  # noqa: S105  (a name, nothing secret)


class ProcessIdentity(Strict):
    """Which process: its id and its start (seconds since 1970). token: in its environment and
    its descendants'; empty: by its session alone.
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
    """Start *command* in the checkout, leading a session of its own, *environment* on top of ours.

    output: a file, a descriptor or subprocess.PIPE; errors go there too unless they have a
    descriptor of their own.

    Call it from a thread that lives as long as the child should: Linux ends the child with the
    thread that started it.
    Raises SettingsError when the program is not there.
    """
    token = uuid4().hex
    ours = build_child_environment(**environment, **{_TOKEN: token})
    ours["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ours.get('PATH', '')}"
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "tasks.edges.lifeline", "--parent", str(os.getpid()), *command],
            cwd=ROOT,
            env=ours,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        return child, build_process_identity(name, child.pid, token)
    except OSError as error:
        raise SettingsError(
            f"{name} cannot be started: {error}. `tidemill doctor` says what is missing."
        ) from error


def allow_interrupts() -> None:
    """Let Ctrl-C end a blocking call again, once polars is imported.

    polars installs a handler that makes the kernel restart such a call, so that the interrupt waits
    until a child writes or ends (pola-rs/polars#21739).
    """
    signal.siginterrupt(signal.SIGINT, True)  # noqa: FBT003  (its one argument)


def build_process_identity(name: str, pid: int, token: str = "") -> ProcessIdentity:
    """Mark of the running process *pid*."""
    return ProcessIdentity(name=name, pid=pid, started=psutil.Process(pid).create_time(), token=token)


def is_running(marked: ProcessIdentity) -> bool:
    """Whether that very process still runs; a zombie does not."""
    try:
        process = psutil.Process(marked.pid)
        return _is_same(process, marked) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_alive(marked: ProcessIdentity) -> bool:
    """Whether that process or one of its descendants still lives."""
    return bool(_list_members(marked))


def stop_process(marked: ProcessIdentity, within_s: float = STOP_S) -> None:
    """End *marked*, its session and its descendants, orphans too: asked first, after *within_s* by
    force.

    Nothing when it has ended.
    """
    _stop_session(marked, signal.SIGTERM)
    if not wait_for(lambda: not _list_members(marked), within_s):
        _stop_session(marked, signal.SIGKILL)
        wait_for(lambda: not _list_members(marked), within_s)


def wait_for(condition: Callable[[], bool], within_s: float) -> bool:
    """Poll until *condition* holds; False when it does not within *within_s*."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def wait_healthy(child: "subprocess.Popen[str]", name: str, healthy: Callable[[], bool], log: Path) -> None:
    """Wait until *healthy* holds.

    Raises SettingsError with the last lines of *log* when the child ends before, or does not get
    there in START_S.
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


def fetch_url(url: str, timeout_s: float = 2.0, body: bytes | None = None) -> bytes | None:
    """Body of a successful answer to a GET, or to a POST of the JSON *body*; None for anything
    else.
    """
    # The addresses are ours
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            said: bytes = answer.read()
            return said
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
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def find_port_holder(port: int) -> str:
    """Who listens on *port*, for a message: `python (process 123)`, or `another process` when
    the system does not say.
    """
    with contextlib.suppress(psutil.Error):
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid:
                return f"{psutil.Process(found.pid).name()} (process {found.pid})"
    return "another process"


def read_last_lines(log: Path, n_lines: int = _TAIL_LINES, containing: str = "") -> str:
    """The end of a log, for a message; only its lines with *containing*."""
    lines = (
        [line for line in log.read_text(errors="replace").splitlines() if line.strip() and containing in line]
        if log.exists()
        else []
    )
    return f"Last lines of {log}:\n" + "\n".join(lines[-n_lines:] or ["(nothing)"])


def _list_members(marked: ProcessIdentity) -> list[psutil.Process]:
    """Living processes of the session or with the token.

    While one lives, the system gives the session's id to nobody else.
    """
    session = -1 if _is_given_to_another(marked) else marked.pid
    return [
        p
        for p in psutil.process_iter()
        if (_find_session(p.pid) == session >= 0 or _has_token(p, marked.token)) and _is_living(p)
    ]


def _stop_session(marked: ProcessIdentity, number: signal.Signals) -> None:
    for process in _list_members(marked):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _is_same(process: psutil.Process, marked: ProcessIdentity) -> bool:
    # Psutil adds the boot time, which moves with the clock
    return abs(process.create_time() - marked.started) < 1.0


def _is_given_to_another(marked: ProcessIdentity) -> bool:
    try:
        return not _is_same(psutil.Process(marked.pid), marked)
    except psutil.NoSuchProcess:
        return False


def _has_token(process: psutil.Process, token: str) -> bool:
    try:
        return bool(token) and process.environ().get(_TOKEN) == token
    except (psutil.Error, OSError):  # somebody else's, or gone
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
