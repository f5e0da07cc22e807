"""Two replicas behind HAProxy: swaps of the code and kills of replicas fail no request."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from servers import JSON, crown
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.ops import proxy
from deployments.ops.proxy import drain_replica, enable_replica, list_replicas
from tasks.core.errors import SettingsError
from tasks.edges.processes import find_free_port, is_answering, wait_for
from tasks.edges.settings import ROOT, build_child_environment, read_settings

_RUN = """
import sys, uvicorn
from deployments.forecaster.app import create_app
uvicorn.run(create_app(), port=int(sys.argv[1]), log_level="warning", timeout_graceful_shutdown=20)
"""


class Replicas:
    """The processes of blue and green, on the ports that HAProxy knows."""

    def __init__(self, home: Path) -> None:
        self.home, self.processes = home, {}
        self.ports = {name: find_free_port("127.0.0.1") for name in ("blue", "green")}

    def start(self, name: str) -> None:
        env = build_child_environment(TIDEMILL_HOME=str(self.home))
        command = [sys.executable, "-c", _RUN, str(self.ports[name])]
        self.processes[name] = subprocess.Popen(command, cwd=ROOT, env=env)

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        os.kill(self.processes[name].pid, number)
        return self.processes[name].wait(60)


@contextmanager
def asking(address: str, n_clients: int):
    """Clients that ask without a pause: half on one connection each, half on a new one each time.

    Yields the list of (status, seconds) of all answers.
    """
    answers, stop = [], threading.Event()

    def ask(keeps: bool) -> None:
        client = httpx.Client(base_url=address, timeout=60, headers=JSON)
        while not stop.is_set():
            if not keeps:
                client.close()
                client = httpx.Client(base_url=address, timeout=60, headers=JSON)
            try:
                answers.append(client.post("/api/v1/predict", json={"series_id": "north"}).status_code)
            except httpx.HTTPError as error:
                answers.append(f"{type(error).__name__}: {error}")
        client.close()

    clients = [threading.Thread(target=ask, args=(k % 2 == 0,)) for k in range(n_clients)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        stop.set()
        for client in clients:
            client.join()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory, releases):
    """(replicas, address of HAProxy), both replicas up."""
    home = tmp_path_factory.mktemp("proxied")
    crown(home, releases / "first")
    replicas, bound = Replicas(home), find_free_port("127.0.0.1")
    path = tmp_path_factory.mktemp("s") / "p.sock"
    environment = {
        "TIDEMILL_PROXY_BIND": f"127.0.0.1:{bound}",
        "TIDEMILL_PROXY_BLUE": f"127.0.0.1:{replicas.ports['blue']}",
        "TIDEMILL_PROXY_GREEN": f"127.0.0.1:{replicas.ports['green']}",
        "TIDEMILL_PROXY_SOCKET": str(path),
    }
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEMILL_PROXY_SOCKET", str(path))
        read_settings.cache_clear()
        config = str(ROOT / "infra/haproxy/haproxy.cfg")
        running = subprocess.Popen(
            ["haproxy", "-db", "-f", config], env={**os.environ, **environment}, stderr=subprocess.DEVNULL
        )
        stack.callback(running.wait, 30)
        stack.callback(running.terminate)
        for name in ("blue", "green"):
            replicas.start(name)
            stack.callback(lambda name=name: replicas.stop(name))
        assert wait_for(path.exists, 30)
        for name in ("blue", "green"):
            enable_replica(name)
        yield replicas, f"http://127.0.0.1:{bound}"
    read_settings.cache_clear()


def swap_and_kill(proxied, n_swaps, n_kills):
    """Replace the replicas one after the other, then kill them; what the clients got."""
    replicas, address = proxied
    with asking(address, 4) as answers:
        for k in range(n_swaps):
            name = ("blue", "green")[k % 2]
            drain_replica(name)
            assert replicas.stop(name) == -signal.SIGTERM or replicas.processes[name].returncode == 0
            replicas.start(name)
            enable_replica(name)
        for k in range(n_kills):
            name = ("blue", "green")[k % 2]
            n_before = len(answers)
            replicas.stop(name, signal.SIGKILL)
            assert wait_for(lambda: len(answers) > n_before + 20, 60)  # noqa: B023
            replicas.start(name)
            enable_replica(name)
    return answers


def test_a_swap_and_a_kill_fail_no_request(proxied):
    answers = swap_and_kill(proxied, 1, 1)
    assert len(answers) > 100
    assert set(answers) == {200}


@pytest.mark.chaos
def test_eight_swaps_and_eight_kills_fail_no_request(proxied):
    answers = swap_and_kill(proxied, 8, 8)
    print(f"{len(answers)} answers", Counter(answers))
    assert set(answers) == {200}


def test_the_only_replica_that_takes_requests_is_not_drained(proxied, monkeypatch):
    drain_replica("blue")
    try:
        assert {r.name: r.is_taking_requests for r in list_replicas()} == {"blue": False, "green": True}
        with pytest.raises(SettingsError, match="green is the only replica that takes requests"):
            drain_replica("green")
    finally:
        enable_replica("blue")
    with pytest.raises(SettingsError, match="no replica 'red'; HAProxy has blue, green"):
        enable_replica("red")
    said = CliRunner().invoke(app, ["proxy", "status", "--json"])
    assert [row["status"] for row in json.loads(said.stdout)] == ["UP", "UP"]
    monkeypatch.setattr(
        proxy, "read_settings", lambda: read_settings().model_copy(update={"proxy_socket": None})
    )
    with pytest.raises(SettingsError, match="HAProxy does not answer at"):
        list_replicas()


def test_a_request_that_must_not_be_made_twice_is_not_sent_again(proxied):
    """A replica that takes the request and ends without an answer: 502, once."""
    replicas, address = proxied
    received = []
    drain_replica("green")
    replicas.stop("green")
    with socket.create_server(("127.0.0.1", replicas.ports["green"])) as listening:

        def take() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    head = connection.recv(65_536)
                    if b"/api/v1/health/ready" in head:
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        )
                    else:
                        received.append(head.split()[1])

        threading.Thread(target=take, daemon=True).start()
        enable_replica("green")
        drain_replica("blue")
        body = {"rows": []}
        answer = httpx.post(f"{address}/api/v1/observations", json=body, timeout=60)
        assert (answer.status_code, received) == (502, [b"/api/v1/observations"])
        enable_replica("blue")
        listening.shutdown(socket.SHUT_RDWR)
    replicas.start("green")
    enable_replica("green")


def test_serve_starts_a_replica_from_any_folder_with_no_program_of_ours_in_the_path(proxied, tmp_path):
    replicas, port = proxied[0], find_free_port("127.0.0.1")
    env = build_child_environment(
        TIDEMILL_HOME=str(replicas.home), PATH="/usr/bin:/bin", PYTHONPATH=str(ROOT)
    )
    command = [sys.executable, "-m", "deployments.cli", "proxy", "serve", "--port", str(port)]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: is_answering(f"http://127.0.0.1:{port}/api/v1/health/ready"), 60)
    finally:
        process.terminate()
        assert process.wait(60) == 0
