"""Nothing lost, nothing doubled: whatever is killed, and whenever. The witness is tests/support/ledger.py, which shares nothing with the pipeline."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from kafka import make_topic
from ledger import check, live_files, produce

SUPPORT = Path(__file__).resolve().parents[1] / "support"
# Each place between two durable writes; a new one must be reached by the landing below, or the first test says so.
POINTS = (
    "table created", "file written", "files written", "committed", "commit synced", "column added", "merged files written", "checkpoint made",
    "old files removed", "window closed", "window written",
)  # fmt: skip


def _land(cluster, topic, folder, *more):
    command = [sys.executable, str(SUPPORT / "landing_process.py"), cluster.address, topic, str(folder), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def _ended(process):
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors[-2000:]


@pytest.fixture
def topic(kafka_cluster):
    return make_topic(kafka_cluster.address)


@pytest.fixture(scope="module")
def child():
    """Runs a landing in a process that has everything imported; returns its exit status, -9 where it was killed."""
    waiting = subprocess.Popen([sys.executable, str(SUPPORT / "landing_process.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(*arguments: object) -> int:
        waiting.stdin.write(json.dumps([str(a) for a in arguments]) + "\n")
        waiting.stdin.flush()
        return os.waitstatus_to_exitcode(int(waiting.stdout.readline()))

    yield run
    waiting.communicate()


def test_each_named_point_is_reached_by_an_undisturbed_landing(child, kafka_cluster, topic, tmp_path):
    produce(kafka_cluster.address, topic, tmp_path / "ledger", 4_000, poison_every=400)
    assert child(kafka_cluster.address, topic, tmp_path / "table", "--tidy", "--every=150") == 0
    assert check(tmp_path / "table", tmp_path / "ledger") == {"rows": 3_990, "quarantined": 10}
    assert set((tmp_path / "points.txt").read_text().splitlines()) == set(POINTS)


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_ends_there_twice_in_a_row_loses_and_doubles_nothing(point, child, kafka_cluster, topic, tmp_path):
    produce(kafka_cluster.address, topic, tmp_path / "ledger", 4_000, poison_every=400)
    where, how = (kafka_cluster.address, topic, tmp_path / "table"), ("--tidy", "--every=150")
    ends = [child(*where, point, 1, *how), child(*where, point, 1, *how)]
    assert ends == [-signal.SIGKILL, 0 if point in {"table created", "column added"} else -signal.SIGKILL]  # these are written once for ever
    assert child(*where, *how) == 0
    assert check(tmp_path / "table", tmp_path / "ledger") == {"rows": 3_990, "quarantined": 10}


def _campaign(cluster, topic, folder, n_records, n_kills, seed):
    """Kill a landing at random moments while a producer sends; what is left lands in the end."""
    ledger, rng = folder / "ledger", random.Random(seed)
    part = n_records // n_kills
    for k in range(n_kills):
        produce(cluster.address, topic, ledger, part, poison_every=1000, first=k * part)
        process = _land(cluster, topic, folder / "table", "--ever", "--tidy")
        time.sleep(rng.uniform(0.4, 1.6))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    _ended(_land(cluster, topic, folder / "table"))
    return check(folder / "table", ledger)


def test_five_random_kills_lose_and_double_nothing(kafka_cluster, topic, tmp_path):
    found = _campaign(kafka_cluster, topic, tmp_path, 60_000, 5, seed=1)
    assert sum(found.values()) == 60_000


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_three_hundred_random_kills_lose_and_double_nothing(kafka_cluster, topic, tmp_path):
    found = _campaign(kafka_cluster, topic, tmp_path, 3_000_000, 300, seed=2)
    print(f"\n300 kills over {sum(found.values()):,} records: {found}")
    assert sum(found.values()) == 3_000_000


def test_two_processes_on_one_table_with_all_partitions_each_land_every_record_once(kafka_cluster, topic, tmp_path):
    """Two groups, so nobody shares: each commit that the other has overtaken is refused, and read again from the table's marks."""
    produce(kafka_cluster.address, topic, tmp_path / "ledger", 20_000)
    both = [_land(kafka_cluster, topic, tmp_path / "table", f"--group={n}") for n in (1, 2)]
    for process in both:
        _ended(process)
    assert check(tmp_path / "table", tmp_path / "ledger") == {"rows": 20_000, "quarantined": 0}


def test_files_and_log_stay_within_their_bound(kafka_cluster, topic, tmp_path):
    """A partition of the table has fewer than MERGE_FILES small files after `tidy`, whatever the number of commits."""
    from tasks.edges.delta import MERGE_FILES, open_for_reading

    produce(kafka_cluster.address, topic, tmp_path / "ledger", 30_000)
    _ended(_land(kafka_cluster, topic, tmp_path / "table"))
    before = len(live_files(tmp_path / "table"))
    open_for_reading(tmp_path / "table").tidy()
    after = live_files(tmp_path / "table")
    assert before >= 50
    assert max(Counter(path.rsplit("/", 1)[0] for path in after).values()) < MERGE_FILES
    assert check(tmp_path / "table", tmp_path / "ledger")["rows"] == 30_000
