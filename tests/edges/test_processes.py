"""Who is started is stopped, with everybody it started, and nobody else is touched."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from tasks.core.errors import SettingsError
from tasks.edges.processes import (
    STOP_S,
    ProcessIdentity,
    build_process_identity,
    find_free_port,
    find_port_holder,
    is_alive,
    is_free,
    is_running,
    start_process,
    stop_process,
    wait_for,
    wait_healthy,
)

SLEEPER = "import time; time.sleep(600)"
# A parent whose child leads a session of its own, as BentoML's and Prefect's do; the child's id
# goes to the log.
PARENT = (
    f"import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', {SLEEPER!r}],"
    " start_new_session=True).pid, flush=True); time.sleep(600)"
)
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True);"
    " time.sleep(600)"
)


def _started(code):
    child, marked = start_process("probe", [sys.executable, "-c", code], subprocess.PIPE, {})
    return child, marked, child.stdout.readline().strip() if code != SLEEPER else ""


def test_a_stopped_process_takes_its_descendants_with_it():
    child, marked, grandchild = _started(PARENT)
    stop_process(marked)
    child.wait()
    assert (
        not psutil.pid_exists(int(grandchild))
        or psutil.Process(int(grandchild)).status() == psutil.STATUS_ZOMBIE
    )
    child.stdout.close()


def test_descendants_of_a_killed_process_are_found_and_stopped():
    child, marked, grandchild = _started(PARENT)
    child.kill()
    child.wait()
    assert not is_running(marked)
    assert is_alive(marked)
    stop_process(marked)
    assert not is_alive(marked)
    assert wait_for(
        lambda: (
            not psutil.pid_exists(int(grandchild))
            or psutil.Process(int(grandchild)).status() == psutil.STATUS_ZOMBIE
        ),
        STOP_S,
    )
    child.stdout.close()


def test_who_does_not_listen_is_ended_by_force():
    child, marked, _ = _started(DEAF)
    stop_process(marked, timeout_s=0.5)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


def test_an_id_that_was_given_to_somebody_else_is_left_alone():
    bystander = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
    try:
        earlier = ProcessIdentity(
            name="ours",
            pid=bystander.pid,
            started=build_process_identity("bystander", bystander.pid).started - 3600,
            token="0" * 32,
        )
        assert not is_running(earlier)
        stop_process(earlier, timeout_s=0.5)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_child_ends_with_the_process_that_started_it():
    talker = f"print('here', flush=True); {SLEEPER}"
    code = (
        "import os, sys, subprocess; from tasks.edges.processes import start_process; child, _ ="
        f" start_process('x', [sys.executable, '-c', {talker!r}], subprocess.PIPE, {{}});"
        " child.stdout.readline(); print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    pid = int(
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False).stdout
    )
    assert wait_for(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, STOP_S
    )


def test_a_server_that_ends_instead_of_starting_is_told_with_its_last_words(tmp_path):
    log = tmp_path / "server.log"
    with log.open("w") as output:
        child, _ = start_process(
            "The server", [sys.executable, "-c", "print('no disk'); raise SystemExit(3)"], output, {}
        )
    with pytest.raises(SettingsError, match=r"The server ended with code 3(.|\n)*no disk"):
        wait_healthy(child, "The server", lambda: False, log)


def test_a_held_port_is_not_free_and_its_holder_is_named():
    port = find_free_port("127.0.0.1")
    assert is_free("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free("127.0.0.1", port)
        assert str(os.getpid()) in find_port_holder(port)


def test_waiting_ends_when_the_time_is_up():
    started = time.monotonic()
    assert not wait_for(lambda: False, 0.3)
    assert time.monotonic() - started >= 0.3
