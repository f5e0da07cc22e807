"""The whole chain by `dvc repro`: what runs again and what does not, what a kill leaves, and the
chain on files that the wizard has never seen.

One file, so that one worker runs it and the checkout whose chain takes a minute is built once. The
watcher of the kills stands outside: it knows processes and files, nothing of the code.
"""

import json
import os
import re
import shutil
import signal
import sys
import time
from contextlib import suppress

import psutil
import pytest
import yaml
from small_checkout import small_checkout

from tasks.edges.params import STAGES

WORLD = {"promote", "monitor", "retrain"}  # they look at the world each time
REAL_FILES = {
    "etth1": ["--csv", "ett/ETTh1.csv"],
    "m4": ["--csv", "m4/Hourly-train.csv"],
    "binance": ["--json-file", "binance_1h/*.json"],
    "bitfinex": ["--csv", "bitfinex_1m/*.csv.gz", "--columns", "time,open,close,high,low,volume"],
    "nab": ["--csv", "nab/data/realKnownCause/nyc_taxi.csv"],
    "retail": ["--csv", "prophet/example_retail_sales.csv"],
    "peyton": ["--csv", "prophet/example_wp_log_peyton_manning.csv"],
    "yosemite": ["--csv", "prophet/example_yosemite_temps.csv"],
}

MOMENTS = ("start", "mid_write", "after_write")
VICTIMS = ("dvc", "group")
SHORT = [
    ("features", "mid_write", "group"),
    ("package", "after_write", "dvc"),
    ("promote", "mid_write", "dvc"),
]
LONG = [(s, m, v) for s in STAGES for m in MOMENTS for v in VICTIMS]
PATIENCE_S = 120.0


def _ran(done):
    return {name.split("@")[0] for name in re.findall(r"Running stage '([^']+)'", done.stdout)}


def _ran_models(done):
    return set(re.findall(r"Running stage 'train@([^']+)'", done.stdout))


def _digest(checkout):
    return json.loads((checkout.root / "models/release/manifest.json").read_text())["digest"]


def _edit(checkout, change):
    path = checkout.root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    change(document["datasets"][document["dataset"]], document)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def test_every_stage_leaves_what_it_promises(built):
    for made in (
        "data/raw",
        "data/clean",
        "data/quarantine",
        "data/features",
        "models/challenger",
        "models/quantized",
        "models/release/bento",
    ):
        assert (built.root / made).is_dir(), made
    decision = json.loads((built.root / "data/decisions/promote/decision.json").read_text())
    assert decision["decision"] in {"promote", "baseline"}
    assert (built.home / "registry").is_dir()
    assert "due" in json.loads((built.root / "data/decisions/retrain/decision.json").read_text())


def test_nothing_changed_runs_nothing_before_promote(built):
    assert _ran(built.repro()) <= WORLD


def test_one_models_parameter_runs_that_model_and_what_lies_after_it(built):
    before = _digest(built)
    _edit(built, lambda entry, _: entry["models"].update(window_mean={"window_steps": 5}))
    done = built.repro()
    assert _ran_models(done) == {"window_mean"}
    assert _ran(done) == set(STAGES[STAGES.index("train") :])
    assert _digest(built) != before
    _edit(built, lambda entry, _: entry["models"].update(window_mean={"window_steps": 22}))
    built.repro()
    assert _digest(built) == before


def test_another_datasets_entry_reruns_nothing(built):
    def add(entry, document):
        document["datasets"]["other"] = json.loads(json.dumps(entry))

    path = built.root / "params.yaml"
    before = path.read_text()
    _edit(built, add)
    assert _ran(built.repro()) <= WORLD
    path.write_text(before)


def test_a_left_over_folder_of_a_dropped_model_changes_nothing(built):
    before = _digest(built)
    for top in ("data/forecasts", "models/fits"):
        shutil.copytree(built.root / top / "har", built.root / top / "dropped")
    built.repro()
    assert _digest(built) == before
    for top in ("data/forecasts", "models/fits"):
        shutil.rmtree(built.root / top / "dropped")


def test_a_release_is_restored_with_its_data_and_features_or_refused_with_the_reason(built):
    digest, files = _digest(built), ("data/clean/rows.parquet", "data/features/table.parquet")
    done = json.loads(built.tidemill("restore", "1.0.0", "--json").stdout)
    folder = built.home / "worktrees" / "index_volatility-1.0.0"
    assert (done["folder"], done["version"], done["has_other_code"]) == (str(folder), "1.0.0", False)
    assert done["n_files"] > 10
    for name in files:
        assert (folder / name).read_bytes() == (built.root / name).read_bytes(), name
    restored, ours = (yaml.safe_load((root / "params.yaml").read_text()) for root in (folder, built.root))
    assert restored == ours
    assert json.loads((folder / "models/release/manifest.json").read_text())["digest"] == digest
    assert "is there already" in built.tidemill("restore", "1.0.0", code=2).stderr
    built.run("git", "worktree", "remove", "--force", str(folder))
    cached = next((built.root / ".dvc/cache/files/md5").glob("*/*.dir"))
    aside = cached.rename(built.root / ".dvc/cache/aside")
    try:
        refused = built.tidemill("restore", "1.0.0", code=2).stderr
    finally:
        aside.rename(cached)
    assert "what DVC's cache has of 1.0.0 cannot be read" in refused
    assert not folder.exists()


@pytest.mark.chaos
def test_the_second_build_from_nothing_has_the_same_digest(built, tmp_path):
    again = small_checkout(tmp_path)
    again.repro()
    assert _digest(again) == _digest(built)


@pytest.mark.shared
@pytest.mark.chaos
@pytest.mark.parametrize("name", REAL_FILES)
def test_every_real_files_entry_runs_unedited_to_a_release(name, shared_data, tmp_path):
    checkout = small_checkout(tmp_path)
    kind, pattern, *rest = REAL_FILES[name]
    checkout.tidemill("new", "mine", kind, str(shared_data / pattern), *rest)
    checkout.tidemill("use", "mine")
    checkout.repro()
    decision = json.loads((checkout.root / "data/decisions/promote/decision.json").read_text())
    assert decision["dataset"] == "mine"
    assert (checkout.home / "registry/mine/champion.json").exists()
    summary = json.loads((checkout.root / "data/reports/validate/summary.json").read_text())
    assert summary["clean"] + summary["quarantined"] == summary["received"]


@pytest.mark.parametrize(("stage", "moment", "victim"), SHORT)
def test_a_killed_run_leaves_nothing_behind_and_the_next_gives_the_same_digest(built, stage, moment, victim):
    _kill_and_run_again(built, stage, moment, victim)


@pytest.mark.chaos
@pytest.mark.parametrize(("stage", "moment", "victim"), LONG)
def test_a_kill_anywhere_changes_nothing(built, stage, moment, victim):
    _kill_and_run_again(built, stage, moment, victim)


def _kill_and_run_again(built, stage, moment, victim):
    """Promised: the undisturbed digest, no stale lock, no half-written artifact, nobody writing
    2 s later."""
    before = _digest(built)
    target = f"train@{built.models[-1]}" if stage == "train" else stage
    child = built.start(
        [
            sys.executable,
            "-m",
            "tasks.edges.parent_watch",
            sys.executable,
            "-m",
            "dvc",
            "repro",
            "-f",
            "-s",
            target,
        ]
    )
    try:
        _wait_for(child, lambda: _has_come(built.root, stage, moment, child))
        with suppress(ProcessLookupError):  # a stage with nothing new may be over before the watcher looks
            os.kill(child.pid, signal.SIGKILL) if victim == "dvc" else os.killpg(child.pid, signal.SIGKILL)
    finally:
        child.wait()
    time.sleep(2.0)  # the promise is about what happens within two seconds
    assert built.alive() == []
    built.repro()
    assert _digest(built) == before
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
    # The stage was over before the watcher saw the moment: a kill after everything is as good a
    # kill, and the checks are the same.


def _hidden(root):
    return [p for top in ("data", "models") for p in (root / top).rglob(".*") if p.name != ".gitignore"]
