"""The longer faults of tables, disks, clocks and networks, `make chaos`; the ledger is compared.

Needs root (for a small tmpfs and a network namespace), strace and iproute2.
"""

import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from deltalake import DeltaTable
from homes import at_home
from kafka_support import make_topic
from landings import ended, land, landed_within, print_check, read_log, stopped, until
from ledger import live, note, produce, producer_to, producing, records, send, whole
from small_checkout import small_checkout

from deployments.ops.kafka_broker import run_broker
from tasks.edges.delta import compact_table, open_existing_table
from tasks.edges.settings import read_settings

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def test_a_table_that_another_program_restores_under_a_running_landing_has_every_record_once_in_the_end(
    kafka_cluster, table, ledger
):
    address = kafka_cluster.address
    topic = make_topic(address)
    produce(address, topic, ledger, 4_000, poison_every=200)
    process = land(address, topic, table, "--ever", "--every=150")
    landed_within(30, table, ledger)
    DeltaTable(str(table)).restore(open_existing_table(table).version // 2)
    assert open_existing_table(table).scan().collect().height < 4_000
    produce(address, topic, ledger, 400, first=4_000)  # its commit finds out
    landed_within(30, table, ledger)
    stopped(process)
    assert "refused" in read_log(table)
    assert whole(table) == 4_400


def test_a_full_disk_ends_the_landing_with_its_reason_and_room_lets_it_go_on(kafka_cluster, table, ledger):
    topic = make_topic(kafka_cluster.address)
    produce(kafka_cluster.address, topic, ledger, 60_000, poison_every=500)
    with small_disk(table, "700k"):
        full = []
        for _ in range(3):
            ended(land(kafka_cluster.address, topic, table), code=2)
            full.append(whole(table))  # no part of a batch
        assert read_log(table).count(f"FeedError: {table}") == 3
        files = {path.relative_to(table).as_posix() for path in table.glob("disposition=*/*/*")}
        assert files == set(live(table)[0]), "nothing half-written is left"
        subprocess.run(["mount", "-o", "remount,size=64m", str(table)], check=True)
        ended(land(kafka_cluster.address, topic, table, "--compact"))
        print_check("disk full", table, ledger, f"Full at {full} of 60,000 records")


def test_a_full_disk_ends_tidemill_feed_drain_with_a_sentence_and_room_lets_it_go_on(tmp_path):
    checkout = small_checkout(tmp_path)
    path = checkout.root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    entry = document["datasets"][document["dataset"]]
    entry["validate"] = {**(entry.get("validate") or {}), "columns": {}}
    entry["feed"] = {
        "source": {"kind": "files", "path": "records.jsonl", "speed": "max"},
        "fields": {"price": {}, "seq": {}},
        "commit_rows": 500,
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    (checkout.root / "records.jsonl").write_bytes(
        b"\n".join(r.value for r in records(30_000, n_partitions=1))
    )
    with small_disk(checkout.home / "feed", "300k"):
        ends = [checkout.tidemill("feed", "drain", code=2).stderr.splitlines()[-1] for _ in range(2)]
        assert all(".tidemill/feed" in end and "cannot be written" in end for end in ends), ends
        subprocess.run(["mount", "-o", "remount,size=64m", str(checkout.home / "feed")], check=True)
        checkout.tidemill("feed", "drain")
        rows = open_existing_table(next((checkout.home / "feed").glob("*/table"))).count_rows_by(
            "disposition"
        )
    print(f"\nfull: {ends}")
    assert rows == {"row": 30_000}


@contextmanager
def small_disk(folder: Path, size: str):
    """A disk of that size at *folder* while the block runs."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("nth", [1, 4, 9, 16, 23])
def test_a_sync_that_fails_ends_the_landing_with_its_reason_and_the_next_goes_on(
    nth, kafka_cluster, tmp_path, table, ledger
):
    topic, trace = make_topic(kafka_cluster.address), tmp_path / "trace"
    produce(kafka_cluster.address, topic, ledger, 8_000, poison_every=500)
    failing = (
        "strace",
        "-f",
        "-o",
        str(trace),
        "-e",
        "trace=fsync,fdatasync",
        "-e",
        f"inject=fsync,fdatasync:error=EIO:when={nth}",
    )
    ended(land(kafka_cluster.address, topic, table, under=failing), 120, code=2)
    assert "INJECTED" in trace.read_text()
    assert f"FeedError: {table}" in read_log(table)
    ended(land(kafka_cluster.address, topic, table))
    print_check(f"sync {nth} fails", table, ledger)


def test_a_producer_whose_clock_jumps_changes_nothing(kafka_cluster, table, ledger):
    """The time of production, which sorts poison and future times, jumps by days."""
    topic = make_topic(kafka_cluster.address, retention_ms="-1", message_timestamp_after_max_ms=str(2**62))
    producer = producer_to(kafka_cluster.address)
    for n in range(40):
        made = list(records(100, 100 * n, poison_every=100))
        note(ledger, made)
        send(producer, topic, made, datetime.now(UTC) + timedelta(days=(0, 3, -3, 400, -400)[n % 5]))
    ended(land(kafka_cluster.address, topic, table, "--compact", "--every=150"))
    print_check("a producer's clock jumps", table, ledger)


def test_compaction_without_a_pause_during_the_landing(kafka_cluster, table, ledger):
    topic = make_topic(kafka_cluster.address)
    landing = land(kafka_cluster.address, topic, table, "--ever")
    with producing(kafka_cluster.address, topic, ledger, 10_000, poison_every=500):
        until((table / "disposition=row").exists)
        for _ in range(30):
            compact_table(open_existing_table(table), keep_h=1)
            whole(table)
    landed_within(60, table, ledger)
    stopped(landing)
    print_check("compacted 30 times meanwhile", table, ledger)


@contextmanager
def namespace(ours: str, theirs: str):
    """A network namespace that a wire joins to this one; gives (its name, our end's)."""
    name = f"tm{uuid4().hex[:8]}"
    end = f"{name}a"
    for command in (
        f"netns add {name}",
        f"link add {end} type veth peer name {name}b netns {name}",
        f"addr add {ours}/30 dev {end}",
        f"link set {end} up",
        f"-n {name} addr add {theirs}/30 dev {name}b",
        f"-n {name} link set {name}b up",
        f"-n {name} link set lo up",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    try:
        yield name, end
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_a_slow_network_that_drops_packets_and_is_cut_twice_costs_time_alone(tmp_path, table, ledger):
    """A wire of a megabit a second drops what waits beyond 50 ms, and is cut past the session."""
    with (
        namespace("10.213.47.1", "10.213.47.2") as (name, wire),
        at_home(read_settings().home.absolute(), TIDEMILL_HOST="10.213.47.1"),
    ):
        subprocess.run(
            [
                "tc",
                "qdisc",
                "add",
                "dev",
                wire,
                "root",
                "tbf",
                "rate",
                "1mbit",
                "burst",
                "4kb",
                "latency",
                "50ms",
            ],
            check=True,
        )
        with run_broker(tmp_path / "kafka") as cluster:
            topic = make_topic(cluster.address)
            landing = land(cluster.address, topic, table, "--ever", under=("ip", "netns", "exec", name))
            with producing(cluster.address, topic, ledger, 5_000, poison_every=500):
                for _ in range(2):
                    time.sleep(10)
                    subprocess.run(["ip", "link", "set", wire, "down"], check=True)
                    time.sleep(10)
                    subprocess.run(["ip", "link", "set", wire, "up"], check=True)
                    time.sleep(5)
            seconds = landed_within(300, table, ledger)
            dropped = subprocess.run(
                ["tc", "-s", "qdisc", "show", "dev", wire], capture_output=True, text=True, check=True
            ).stdout
            stopped(landing)
    print_check(
        "slow network",
        table,
        ledger,
        f"No lag {seconds:.0f} s after the producer's end; {' '.join(dropped.split()[:40])}",
    )
