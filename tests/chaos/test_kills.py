"""kill -9 in a stage, at its start, in mid-write, after the write; DVC alone and the whole group. Then run again.

The watcher stands outside: it knows processes and files, nothing of the code. Promised: the undisturbed digest, no stale lock, no
half-written artifact, nobody writing 2 s later.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress

import psutil
import pytest
import yaml

from tasks.edges.params import STAGES

MOMENTS = ("start", "mid_write", "after_write")
VICTIMS = ("dvc", "group")
SHORT = [("features", "mid_write", "group"), ("package", "after_write", "dvc"), ("promote", "mid_write", "dvc")]
LONG = [(s, m, v) for s in STAGES for m in MOMENTS for v in VICTIMS]
PATIENCE_S = 120.0


@pytest.mark.parametrize(("stage", "moment", "victim"), SHORT)
def test_a_killed_run_leaves_nothing_behind_and_the_next_gives_the_same_digest(built, stage, moment, victim):
    _kill_and_run_again(built, stage, moment, victim)


@pytest.mark.chaos
@pytest.mark.parametrize(("stage", "moment", "victim"), LONG)
def test_a_kill_anywhere_changes_nothing(built, stage, moment, victim):
    _kill_and_run_again(built, stage, moment, victim)


def _kill_and_run_again(built, stage, moment, victim):
    before = _digest(built.root)
    target = f"train@{built.models[-1]}" if stage == "train" else stage
    child = built.start([sys.executable, "-m", "tasks.edges.lifeline", sys.executable, "-m", "dvc", "repro", "-f", "-s", target])
    try:
        _wait_for(child, lambda: _has_come(built.root, stage, moment, child))
        with suppress(ProcessLookupError):  # a stage with nothing new may be over before the watcher looks
            os.kill(child.pid, signal.SIGKILL) if victim == "dvc" else os.killpg(child.pid, signal.SIGKILL)
    finally:
        child.wait()
    time.sleep(2.0)  # the promise is about what happens within two seconds
    assert built.alive() == []
    built.repro()
    assert _digest(built.root) == before
    assert _hidden(built.root) == []


def _has_come(root, stage, moment, child):
    if moment == "start":
        return any(f"tasks.{stage}" in " ".join(p.cmdline()) for p in _children(child))
    outs = _outs(root, stage)
    if moment == "mid_write":
        return any(list(out.parent.glob(f".{out.name}.*")) for out in outs)
    born = psutil.Process(child.pid).create_time()
    return all(out.exists() and out.stat().st_ctime > born for out in outs)


def _outs(root, stage):
    spec = yaml.safe_load((root / "dvc.yaml").read_text())["stages"][stage]
    model = yaml.safe_load((root / "params.yaml").read_text())["models"][-1]
    names = [next(iter(o)) if isinstance(o, dict) else o for o in spec["outs"]]
    return [root / name.replace("${item.model}", model) for name in names]


def _children(child):
    try:
        return [p for p in psutil.Process(child.pid).children(recursive=True) if p.is_running()]
    except psutil.NoSuchProcess:
        return []


def _wait_for(child, come):
    deadline = time.monotonic() + PATIENCE_S
    while child.poll() is None:
        try:
            if come():
                return
        except (psutil.Error, FileNotFoundError):
            continue
        assert time.monotonic() < deadline, "the moment never came"
    # The stage was over before the watcher saw the moment: a kill after everything is as good a kill, and the checks are the same.


def _hidden(root):
    return [p for top in ("data", "models") for p in (root / top).rglob(".*") if p.name != ".gitignore"]


def _digest(root):
    return json.loads((root / "models/release/manifest.json").read_text())["digest"]
