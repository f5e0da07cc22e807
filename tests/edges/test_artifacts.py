import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest

from tasks.core.errors import FrameError
from tasks.core.frames import SERIES
from tasks.edges.artifacts import (
    delete_leftovers,
    read_frame,
    read_json,
    write_folder,
    write_frame,
    write_json,
)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    with write_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"

    def write_badly():
        with write_folder(target) as folder:
            (folder / "a").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_badly()
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_writer_left_is_swept(tmp_path):
    code = (
        "import sys,time,pathlib\nfrom tasks.edges.artifacts import write_folder\nwith"
        " write_folder(pathlib.Path(sys.argv[1])) as f:\n (f/'a').write_text('x'); print('in', flush=True);"
        " time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "in\n"
        os.kill(child.pid, signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    (tmp_path / f".key.zip.{child.pid}.part").touch()
    assert len(list(tmp_path.iterdir())) == 2
    delete_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with write_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("y")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_was_left_under_the_number_of_another_process_or_of_a_zombie_is_swept(tmp_path):
    at_work, earlier, zombie = names = [f".{name}.{os.getpid()}.x" for name in ("now", "earlier", "zombie")]
    for name in names:
        (tmp_path / name).mkdir()
    os.utime(tmp_path / earlier, (0, psutil.Process().create_time() - 3_600))
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the list of processes
    (tmp_path / zombie).rename(tmp_path / f".zombie.{child.pid}.x")
    delete_leftovers(tmp_path)
    child.wait()
    assert [path.name for path in tmp_path.iterdir()] == [at_work]


def test_a_frame_comes_back_as_it_was_and_is_checked(tmp_path):
    now = pl.Series(["2020-01-01", "2020-01-02"]).str.to_datetime(time_zone="UTC", time_unit="us")
    frame = pl.DataFrame({"series_id": "a", "event_time": now, "known_at": now, "value": [1.0, 2.0]})
    write_frame(tmp_path / "f.parquet", frame.reverse(), SERIES)
    assert read_frame(tmp_path / "f.parquet", SERIES).equals(frame)
    with pytest.raises(FrameError, match="known_at"):
        write_frame(tmp_path / "g.parquet", frame.drop("known_at"), SERIES)
    with pytest.raises(FrameError, match="repeats"):
        write_frame(tmp_path / "g.parquet", pl.concat([frame, frame]), SERIES)
    assert not (tmp_path / "g.parquet").exists()


def test_a_missing_artifact_says_what_to_run(tmp_path):
    with pytest.raises(FrameError, match="dvc repro"):
        read_json(tmp_path / "none.json")
    with pytest.raises(FrameError, match="dvc repro"):
        read_frame(tmp_path / "none.parquet", SERIES)


def test_json_is_the_same_bytes_for_the_same_content(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_watched_process_ends_with_its_parent():
    """The outer process starts a watched sleeper and is killed; the sleeper must end with it."""
    sleep = "import time; print(1, flush=True); time.sleep(60)"
    start = (
        "import subprocess, sys\n"
        "command = [sys.executable, '-m', 'tasks.edges.parent_watch', sys.executable, '-c', sys.argv[1]]\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); child.wait()"
    )
    outer = subprocess.Popen([sys.executable, "-c", start, sleep], stdout=subprocess.PIPE, text=True)
    with outer:
        sleeper = int(outer.stdout.readline())
        outer.kill()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _alive(sleeper):
        time.sleep(0.02)
    assert not _alive(sleeper)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
