"""One stage by DVC, in a repository with stages that say and do little."""

import fcntl
import subprocess
import sys
import threading
import time

import psutil
import pytest
import yaml

from tasks.core.errors import StageError
from tasks.edges.params import STAGES
from tasks.edges.run_stage import delete_unused_cache, run_stage
from tasks.edges.settings import read_settings


@pytest.fixture
def checkout(tmp_path):
    stages = {
        "ingest": {"cmd": "exec python -c \"open('raw','w').write('x'); print('read it')\"", "outs": ["raw"]},
        "validate": {"cmd": "echo the reason; exit 3"},
        "features": {"cmd": "exec sleep 60"},
        "train": {
            "matrix": {"model": ["a", "b"]},
            "cmd": "exec sh -c 'echo $TIDEMILL_WORKERS > ${item.model}'",
            "outs": ["${item.model}"],
        },
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    entry = {stage: {} for stage in STAGES}
    document = {
        "dataset": "d",
        "models": ["a", "b"],
        "datasets": {"d": {"about": {}, "models": {"a": {}, "b": {}}, **entry}},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def test_a_stage_runs_once_and_then_only_when_something_changed(checkout):
    lines = []
    first = run_stage("ingest", checkout, lines.append)
    assert first.ran
    assert "read it" in lines
    assert not run_stage("ingest", checkout).ran


@pytest.mark.parametrize(
    ("name", "content"),
    [(".dvc/tmp/rwlock", ""), (".dvc/tmp/rwlock", "[]"), ("dvc.lock", "schema: '2.0'\nst")],
)
def test_what_a_kill_left_of_the_files_that_dvc_writes_in_place_stops_no_run(checkout, name, content):
    run_stage("ingest", checkout)
    (checkout / "raw").unlink()
    (checkout / name).write_text(content)
    lines = []
    run_stage("ingest", checkout, lines.append)
    assert (checkout / "raw").read_text() == "x"
    assert any(line.startswith("removed what a killed DVC") and name in line for line in lines)


def test_all_models_of_train_are_brought_up_to_date_and_share_the_cores(checkout):
    assert run_stage("train", checkout).ran
    share = max(1, read_settings().n_workers // 2)
    assert [int((checkout / model).read_text()) for model in "ab"] == [share, share]


def test_a_stage_that_fails_says_its_last_lines(checkout):
    with pytest.raises(StageError, match="the reason"):
        run_stage("validate", checkout)


def test_an_unknown_stage_is_refused_with_the_known_ones(checkout):
    with pytest.raises(StageError, match="ingest, validate"):
        run_stage("grind", checkout)


def test_a_stage_beyond_its_limit_is_ended_and_leaves_no_process(checkout):
    with pytest.raises(StageError, match="longer than its limit"):
        run_stage("features", checkout, limit_s=6.0)
    cwds = [process.info["cwd"] for process in psutil.process_iter(["cwd"])]
    assert str(checkout) not in cwds


def test_a_second_run_waits_for_the_first_and_says_for_whom(checkout):
    lock = checkout / ".dvc/tmp/tidemill.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lines, done = [], []
    with lock.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        holder.write("4711")
        holder.flush()
        runner = threading.Thread(target=lambda: done.append(run_stage("ingest", checkout, lines.append)))
        runner.start()
        while not lines:
            time.sleep(0.05)
        assert "4711" in lines[0]
        assert not done
    runner.join()
    assert done[0].ran


def test_the_cache_is_trimmed_to_what_is_current(checkout, monkeypatch):
    run_stage("ingest", checkout)
    assert not delete_unused_cache(checkout)
    stale = checkout / ".dvc/cache/files/md5/00/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    stale.parent.mkdir(parents=True)
    stale.write_text("no artifact needs this")
    monkeypatch.setattr(
        "tasks.edges.run_stage.read_settings", lambda: read_settings().model_copy(update={"keep_cache_mb": 0})
    )
    assert delete_unused_cache(checkout)
    assert not stale.exists()
    assert any(file.is_file() for file in (checkout / ".dvc/cache").rglob("*"))
