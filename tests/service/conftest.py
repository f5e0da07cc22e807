"""Real servers on free ports, with a small release behind them."""

import shutil
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
from small_release import build_small_release, small_rows

from tasks.edges.artifacts import write_json
from tasks.edges.settings import ROOT, child_environment, settings

DATASET = "small"


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
def serving(home: Path, **environment):
    """The app under uvicorn in a process of its own; its socket listens before it starts, so the first request waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd, port = listening.fileno(), listening.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "--factory", "deployments.forecaster.app:create_app", "--fd", str(fd), "--log-level", "warning"]
        env = child_environment(TIDEMILL_HOME=str(home), **environment)
        process = subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[fd])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield Server(client, process, home)
    finally:
        process.terminate()
        process.wait(30)


def crown(home: Path, folder: Path, version: str = "1.0.0") -> None:
    """Make the sealed release in *folder* the champion, as promotion does: copied under its digest, then named."""
    digest = digest_of(folder)
    kept = home / "releases" / digest
    if not kept.exists():
        shutil.copytree(folder, kept)
    pointer = {
        "digest": digest,
        "path": str(kept),
        "version": version,
        "dataset": DATASET,
        "promoted_as_of": "2021-02-04T00:00:00Z",
        "decision": "promote",
    }
    write_json(home / "registry" / DATASET / "champion.json", pointer)


def digest_of(folder: Path) -> str:
    import json

    return json.loads((folder / "manifest.json").read_text())["digest"]


def publish_rows(home: Path, rows: pl.DataFrame) -> None:
    (home / "rows").mkdir(parents=True, exist_ok=True)
    part = home / "rows" / f".{DATASET}.part"
    rows.write_parquet(part)
    part.rename(home / "rows" / f"{DATASET}.parquet")


@pytest.fixture
def at_home(monkeypatch):
    """Point this process at a home, so that it reads the store the server writes."""

    def go(home: Path):
        monkeypatch.setenv("TIDEMILL_HOME", str(home))
        settings.cache_clear()

    yield go
    settings.cache_clear()


@pytest.fixture(scope="session")
def releases(tmp_path_factory):
    """Two good releases; `second` differs by its weights. All rows, those after seen_until too."""
    folder = tmp_path_factory.mktemp("releases")
    build_small_release(folder / "first")
    build_small_release(folder / "second", weights={"last_value": 0.5, "seasonal_naive": 0.5}, model="second")
    return folder


@pytest.fixture(scope="session")
def all_rows():
    return small_rows()


@pytest.fixture(scope="session")
def server(releases, tmp_path_factory):
    """One server for all tests that only ask."""
    home = tmp_path_factory.mktemp("home")
    with serving(home, TIDEMILL_RELEASE=str(releases / "first")) as running:
        yield running
