"""Real servers on free ports, with a small release behind them."""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import polars as pl
import pytest
from reports import gate_decision

from tasks.core.frames import SERIES
from tasks.edges.artifacts import write_frame
from tasks.edges.params import read_dataset
from tasks.edges.processes import START_S, find_free_port, is_answering, wait_healthy
from tasks.edges.registry import apply_promotion, get_rows_path
from tasks.edges.settings import ROOT, build_child_environment, read_settings
from tasks.release.manifest import read_manifest

DATASET = read_dataset()  # a server without a release of its own serves the checkout's

# Not `uvicorn --fd`: it takes the socket for a Unix one, without TCP_NODELAY, and each answer waits
# 40 ms.
RUN_APP = """
import socket, sys, uvicorn
from deployments.forecaster.app import create_app
uvicorn.Server(uvicorn.Config(create_app(), log_level="warning")).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""


JSON = {"Content-Type": "application/json"}


@dataclass
class Server:
    client: httpx.Client
    process: subprocess.Popen
    home: Path

    def predict(self, **ask) -> httpx.Response:
        return self.client.post("/api/v1/predict", json=ask)

    def wait_for(self, holds, seconds=30.0):
        """Ask /ready until *holds* of what it says; returns that."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            said = self.client.get("/api/v1/health/ready").json()
            if holds(said):
                return said
            time.sleep(0.05)
        raise AssertionError(f"never came true; last was {said}")


@contextmanager
def serving(home: Path, root: Path = ROOT, **environment):
    """The app under uvicorn in a process of its own; its socket listens before it starts, so the
    first request waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd, port = listening.fileno(), listening.getsockname()[1]
        command = [sys.executable, "-c", RUN_APP, str(fd)]
        env = build_child_environment(TIDEMILL_HOME=str(home), **environment)
        process = subprocess.Popen(command, cwd=root, env=env, pass_fds=[fd])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_S, headers=JSON) as client:
            yield Server(client, process, home)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def serving_bento(home: Path, **environment):
    """The same under real BentoML, ready."""
    port = find_free_port("127.0.0.1")
    service = "deployments.forecaster.service:ForecasterService"
    command = [sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port)]
    env = build_child_environment(TIDEMILL_HOME=str(home), BENTOML_HOME=str(home / "bentoml"), **environment)
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_healthy(
            process, "the service", lambda: is_answering(f"{address}/api/v1/health/ready"), home / "log"
        )
        with httpx.Client(base_url=address, timeout=60, headers=JSON) as client:
            yield Server(client, process, home)
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def working(home: Path, **environment):
    """The job loop of *home* in a process of its own; it has begun a little later."""
    env = build_child_environment(TIDEMILL_HOME=str(home), **environment)
    process = subprocess.Popen([sys.executable, "-m", "deployments.ops.job_loop"], cwd=ROOT, env=env)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def crown(home: Path, folder: Path) -> str:
    """Promote the sealed release in *folder*, as the promote stage does.

    Returns the version it got.
    """
    manifest = read_manifest(folder)
    with at(home):
        return apply_promotion(manifest.dataset, folder, gate_decision(as_of=manifest.as_of)).version


@contextmanager
def at(home: Path):
    """This process's settings point to *home* inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEMILL_HOME", str(home))
        read_settings.cache_clear()
        yield
    read_settings.cache_clear()


def digest_of(folder: Path) -> str:
    return read_manifest(folder).digest


def publish(home: Path, rows: pl.DataFrame) -> None:
    with at(home):
        write_frame(get_rows_path(DATASET), rows, SERIES)
