"""Nothing lost, nothing doubled: whatever is killed, and whenever.

The witness is tests/support/ledger.py, which shares nothing with the pipeline.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from kafka_support import make_topic
from ledger import check, live, live_files, produce, whole
from lives import PROGRAM, ended, land

# Each place between two durable writes; a new one must be reached by the landing below, or the
# first test says so.
POINTS = (
    "table created",
    "file written",
    "files written",
    "committed",
    "commit synced",
    "column added",
    "merged files written",
    "checkpoint made",
    "old files removed",
    "window closed",
    "window written",
)
TIDYING = ("--tidy", "--keep=0", "--every=150")


@pytest.fixture
def topic(kafka_cluster):
    return make_topic(kafka_cluster.address)


@pytest.fixture(scope="module")
def child():
    """Runs a landing in a process that has everything imported; returns its exit status, -9
    where it was killed."""
    waiting = subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(*arguments: object) -> int:
        waiting.stdin.write(json.dumps([str(a) for a in arguments]) + "\n")
        waiting.stdin.flush()
        return os.waitstatus_to_exitcode(int(waiting.stdout.readline()))

    yield run
    waiting.communicate()


def test_each_named_point_is_reached_by_an_undisturbed_landing(child, kafka_cluster, topic, tmp_path):
    produce(kafka_cluster.address, topic, tmp_path / "ledger", 4_000, poison_every=400)
    assert child(kafka_cluster.address, topic, tmp_path / "table", *TIDYING) == 0
    assert check(tmp_path / "table", tmp_path / "ledger") == {"rows": 3_990, "quarantined": 10}
    reached = (tmp_path / "points.txt").read_text().splitlines()
    assert set(reached) == set(POINTS)
    assert len([*(tmp_path / "table").glob("disposition=*/*/*.parquet")]) < reached.count("file written"), (
        "old files were really removed"
    )


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_ends_there_twice_in_a_row_loses_and_doubles_nothing(
    point, child, kafka_cluster, topic, tmp_path
):
    produce(kafka_cluster.address, topic, tmp_path / "ledger", 4_000, poison_every=400)
    where = (kafka_cluster.address, topic, tmp_path / "table")
    ends = [child(*where, point, 1, *TIDYING), child(*where, point, 1, *TIDYING)]
    # These are written once for ever
    assert ends == [-signal.SIGKILL, 0 if point in {"table created", "column added"} else -signal.SIGKILL]
    assert child(*where, *TIDYING) == 0
    assert check(tmp_path / "table", tmp_path / "ledger") == {"rows": 3_990, "quarantined": 10}


def _campaign(cluster, topic, folder, n_records, n_kills, seed, parts):
    """Kill a landing at random moments, most of them with a backlog, in each of *parts* of the
    records; what is left of it lands then.

    Prints how far.
    """
    ledger, rng, each = folder / "ledger", random.Random(seed), n_records // parts
    for part in range(parts):
        produce(cluster.address, topic, ledger, each, poison_every=1000, first=part * each)
        for _ in range(n_kills // parts):
            before = live(folder / "table")[1]
            process = land(
                cluster.address, topic, folder / "table", "--ever", "--tidy", "--keep=0", "--every=2000"
            )
            begun = time.monotonic()
            if rng.random() < 0.7:  # while it lands; the others while it starts, or whenever it is
                while live(folder / "table")[1] == before and time.monotonic() < begun + 5:
                    time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.8))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        killed = sum(
            mark for source, mark in live(folder / "table")[1].items() if source.startswith("kafka:")
        )
        ended(land(cluster.address, topic, folder / "table", "--tidy", "--every=20000"), 600)
        print(
            f"{(part + 1) * (n_kills // parts)} kills at {part * each:,} to {killed:,} of"
            f" {(part + 1) * each:,} records",
            flush=True,
        )
    return check(folder / "table", ledger)


def test_five_random_kills_lose_and_double_nothing(kafka_cluster, topic, tmp_path):
    found = _campaign(kafka_cluster, topic, tmp_path, 60_000, 5, seed=1, parts=1)
    assert sum(found.values()) == 60_000


@pytest.mark.chaos
@pytest.mark.timeout(5400)
def test_three_hundred_random_kills_over_ten_million_records_lose_and_double_nothing(
    kafka_cluster, topic, tmp_path
):
    found = _campaign(kafka_cluster, topic, tmp_path, 10_000_000, 300, seed=2, parts=10)
    print(f"\n300 kills over {sum(found.values()):,} records: {found}")
    assert sum(found.values()) == 10_000_000


def test_a_reader_beside_the_landing_never_sees_part_of_a_batch(kafka_cluster, topic, tmp_path):
    produce(kafka_cluster.address, topic, tmp_path / "ledger", 20_000, poison_every=100)
    process = land(kafka_cluster.address, topic, tmp_path / "table", "--tidy", "--every=700")
    seen = []
    while process.poll() is None:
        if (tmp_path / "table" / "_delta_log").exists():
            seen.append(whole(tmp_path / "table"))
    ended(process)
    assert len(set(seen)) >= 5
    assert seen == sorted(seen)
    assert whole(tmp_path / "table") == 20_000


def test_two_processes_on_one_table_with_all_partitions_each_land_every_record_once(
    kafka_cluster, topic, tmp_path
):
    """Two groups, so nobody shares: each commit that the other has overtaken is refused, and
    read again from the table's marks."""
    produce(kafka_cluster.address, topic, tmp_path / "ledger", 20_000)
    both = [land(kafka_cluster.address, topic, tmp_path / "table", f"--group={n}") for n in (1, 2)]
    for process in both:
        ended(process)
    assert check(tmp_path / "table", tmp_path / "ledger") == {"rows": 20_000, "quarantined": 0}


def test_files_and_log_stay_within_their_bound(kafka_cluster, topic, tmp_path):
    """After a compaction a partition has few small files, whatever the number of commits."""
    from tasks.edges.delta import compact_table, open_existing_table
    from tasks.edges.delta.compact import MERGE_FILES

    produce(kafka_cluster.address, topic, tmp_path / "ledger", 30_000)
    ended(land(kafka_cluster.address, topic, tmp_path / "table"))
    before = len(live_files(tmp_path / "table"))
    compact_table(open_existing_table(tmp_path / "table"))
    after = live_files(tmp_path / "table")
    assert before >= 50
    assert max(Counter(path.rsplit("/", 1)[0] for path in after).values()) < MERGE_FILES
    assert check(tmp_path / "table", tmp_path / "ledger")["rows"] == 30_000
