"""Files replaced in one step, synced, locked and hashed; and all of it in one module."""

import ast
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.edges import files

ROOT = Path(__file__).resolve().parents[2]
HOLD = (
    "import sys, time, pathlib\nfrom tasks.edges.files import hold_lock\n"
    "with hold_lock(pathlib.Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock `lock`."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_a_file_is_replaced_whole_and_on_disk_or_stays_as_it_was(tmp_path, monkeypatch):
    path, order = tmp_path / "new" / "a", []
    files.replace_file(path, lambda part: part.write_text("1"))

    def fail(part):
        part.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.replace_file(path, fail)
    assert path.read_text() == "1"
    monkeypatch.setattr(files, "sync_file", lambda part: order.append(("synced", path.read_text())))
    files.replace_file(path, lambda part: part.write_text("2"))
    assert order == [("synced", "1")]  # before it appears
    files.replace_file(path, lambda part: part.write_text("3"), sync=False)
    assert (len(order), path.read_text()) == (1, "3")


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00" * 3_000_000)
    assert files.compute_file_hash(tmp_path / "a") == hashlib.sha256(b"\x00" * 3_000_000).hexdigest()


def test_a_held_lock_names_its_process_and_ends_with_it(tmp_path, holder):
    lock = tmp_path / "lock"
    with files.try_lock(lock) as other:
        assert other == str(holder.pid)
    assert files.find_lock_holder(lock) == str(holder.pid)
    with pytest.raises(TimeoutError, match=str(holder.pid)), files.hold_lock(lock, timeout_s=0.3):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    with files.hold_lock(lock, timeout_s=10):
        assert lock.read_text() == str(os.getpid())
    assert files.find_lock_holder(lock) is None


def test_a_lock_is_waited_for_and_the_wait_is_reported_once(tmp_path, holder):
    waits, held = [], threading.Event()

    def work():
        with files.hold_lock(tmp_path / "lock", waits.append):
            held.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not waits:
        time.sleep(0.01)
    assert not held.is_set()
    os.kill(holder.pid, signal.SIGKILL)
    thread.join(10)
    assert (waits, held.is_set()) == ([str(holder.pid)], True)


def test_a_lock_file_that_was_removed_while_we_waited_is_made_again(tmp_path, holder):
    lock, held = tmp_path / "lock", threading.Event()

    def work():
        with files.hold_lock(lock, lambda _: lock.unlink()):
            assert lock.read_text() == str(os.getpid())
            held.set()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    os.kill(holder.pid, signal.SIGKILL)
    thread.join(10)
    assert held.is_set()


def test_a_lock_that_no_process_holds_has_no_holder(tmp_path):
    assert files.find_lock_holder(tmp_path / "none") is None
    with files.try_lock(tmp_path / "lock") as other:
        assert other == ""


def test_fsync_locks_and_hashes_of_files_are_in_one_module():
    for path in [p for top in ("tasks", "flows", "deployments") for p in (ROOT / top).rglob("*.py")]:
        names = {
            node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
        }
        assert path.name == "files.py" or not names & {"fsync", "flock", "file_digest"}, path
