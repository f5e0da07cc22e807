"""The longer faults, `make chaos`; after each the ledger is compared.

Needs root (for a small tmpfs and a network namespace), strace and iproute2.
"""

import os
import random
import subprocess
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from deltalake import DeltaTable
from homes import at_home
from kafka_support import make_topic
from ledger import check, live, note, produce, producer_to, producing, records, send, whole
from lives import ended, land, landed_within, said, stopped, until
from small_checkout import small_checkout

from deployments.ops.kafka_broker import run_broker
from tasks.core.errors import FeedError
from tasks.edges.delta import compact_table, open_existing_table
from tasks.edges.feeds.kafka import KafkaFeed
from tasks.edges.settings import read_settings
from tasks.feed.params import FeedParams
from tasks.feed.skip import skip_lost

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


@pytest.fixture
def table(tmp_path):
    return tmp_path / "table"


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger"


def seen(fault: str, table: Path, ledger: Path, more: str = "") -> None:
    """Compare once more and print the figures."""
    print(
        f"\n{fault}: {check(table, ledger)}; {said(table).count('refused:')} commits refused. {more}",
        flush=True,
    )


class Supervised:
    """A landing that is started again when it ends, as under `tidemill up`."""

    def __init__(self, *arguments: object) -> None:
        self._arguments, self.ends = arguments, 0
        self.process = land(*arguments)

    def look(self) -> None:
        if self.process.poll() is not None:
            self.ends += 1
            self.process = land(*self._arguments)


def until_no_lag(landing: Supervised, address: str, topic: str, folder: Path) -> None:
    """Wait until the table has what the topic held when it first answered."""
    asking = Consumer({"bootstrap.servers": address, "group.id": uuid4().hex, "log_level": 2})
    wanted: dict[int, int] = {}

    def is_told() -> bool:
        with suppress(KafkaException):  # its leader is not known yet
            wanted.update(
                {p: asking.get_watermark_offsets(TopicPartition(topic, p), timeout=5)[1] for p in range(4)}
            )
        return bool(wanted)

    until(is_told, 60)
    asking.close()

    def is_there() -> bool:
        landing.look()
        marks = {
            int(source.rsplit("/", 1)[1]): mark
            for source, mark in live(folder)[1].items()
            if source.startswith("kafka:")
        }
        return all(marks.get(p, 0) >= offset for p, offset in wanted.items())

    until(is_there, 60)


def test_a_broker_that_is_killed_three_times_under_load_costs_at_most_thirty_seconds_of_lag(
    tmp_path, table, ledger
):
    waited = []
    with run_broker(tmp_path / "kafka") as cluster:
        topic = make_topic(cluster.address)
        landing = Supervised(cluster.address, topic, table, "--ever", "--tidy", "--every=5000")
        with producing(cluster.address, topic, ledger, 5_000, poison_every=500):
            for _ in range(3):
                time.sleep(5)
                cluster.kill()
                time.sleep(2)
                began = time.monotonic()
                cluster.start()
                answered = time.monotonic() - began
                until_no_lag(landing, cluster.address, topic, table)
                waited.append((round(answered, 1), round(time.monotonic() - began, 1)))
        landed_within(60, table, ledger)
        stopped(landing.process)
    seen(
        "broker killed under load",
        table,
        ledger,
        f"After the restart (it answers, no lag), s: {waited}; the landing was restarted {landing.ends}"
        " times",
    )
    assert max(lag for _, lag in waited) <= 30


def test_with_three_brokers_one_may_be_killed_at_any_time(tmp_path, table, ledger):
    with run_broker(tmp_path / "kafka", 3) as cluster:
        topic = make_topic(cluster.address, copies=3)
        landing = Supervised(cluster.address, topic, table, "--ever", "--tidy", "--every=2000")
        with producing(cluster.address, topic, ledger, 2_000, poison_every=500) as n_sent:
            for number in (1, 2, 3):
                until_no_lag(landing, cluster.address, topic, table)
                cluster.kill(number)
                before = n_sent()
                until(lambda before=before: n_sent() > before + 2_000)  # two of three brokers take records
                until_no_lag(landing, cluster.address, topic, table)  # ... and give them
                cluster.start(number)
                time.sleep(10)  # its copies are in step again
        landed_within(60, table, ledger)
        stopped(landing.process)
    seen("three brokers, each killed once", table, ledger, f"The landing was restarted {landing.ends} times")


def test_a_log_that_lost_its_tail_stops_the_landing_and_is_not_skipped(tmp_path, table, ledger):
    """A broker that lost power: its log ends before what was read from it."""
    with run_broker(tmp_path / "kafka") as cluster:
        topic = make_topic(cluster.address, n_partitions=1)
        for first in (0, 1_000):
            produce(cluster.address, topic, ledger, 1_000, n_partitions=1, first=first)
        ended(land(cluster.address, topic, table))
        cluster.kill()
        log = next((cluster.nodes[0].folder / f"{topic}-0").glob("*.log"))
        os.truncate(log, log.stat().st_size // 2)
        cluster.start()
        ended(land(cluster.address, topic, table, "--ever"), code=2)
        assert "OffsetLostError" in said(table)
        params, kept = (
            FeedParams(source={"kind": "kafka", "topic": topic}),
            KafkaFeed(cluster.address, topic, "skip").topic.fetch_kept_offsets(),
        )
        with pytest.raises(FeedError, match="before 2,000"):
            skip_lost(open_existing_table(table), params, kept)
    seen("log cut", table, ledger)


def test_members_that_join_and_leave_every_five_seconds(kafka_cluster, table, ledger):
    """Two and three members of one group; half of those that leave are killed."""
    topic, rng = make_topic(kafka_cluster.address), random.Random(3)
    members = {
        n: land(kafka_cluster.address, topic, table, "--ever", "--tidy", f"--member={n}") for n in (0, 1)
    }
    with producing(kafka_cluster.address, topic, ledger, 3_000, poison_every=500):
        for turn in range(16):
            time.sleep(5)
            if turn % 2:
                leaving = members.pop(rng.choice(list(members)))
                leaving.kill() if rng.random() < 0.5 else leaving.terminate()
                leaving.wait()
            else:
                number = min({0, 1, 2} - set(members))
                members[number] = land(
                    kafka_cluster.address, topic, table, "--ever", "--tidy", f"--member={number}"
                )
    landed_within(60, table, ledger)
    stopped(*members.values())
    seen("16 joins and leaves", table, ledger)


def test_a_compacted_topic_with_holes_and_tombstones_lands_as_an_independent_consumer_reads_it(
    kafka_cluster, table
):
    config = {
        "cleanup_policy": "compact",
        "min_cleanable_dirty_ratio": "0.01",
        "segment_ms": "200",
        "max_compaction_lag_ms": "500",
    }
    topic = make_topic(kafka_cluster.address, n_partitions=1, **config)
    producer = Producer({"bootstrap.servers": kafka_cluster.address})
    for turn in range(8):
        for key in range(40):
            value = None if (turn + key) % 7 == 0 else next(records(1, 40 * turn + key, 1)).value
            producer.produce(topic, value, key=f"k{key}")
        producer.flush(20)
        time.sleep(0.3)
    end = time.monotonic() + 90
    while len(read_all(kafka_cluster.address, topic)) > 200:
        assert time.monotonic() < end, "the broker has not compacted"
        producer.produce(topic, None, key="last")
        producer.flush(20)
        time.sleep(2)
    ended(land(kafka_cluster.address, topic, table))
    there = read_all(kafka_cluster.address, topic)
    rows = open_existing_table(table).scan(columns=["_offset", "disposition"]).collect()
    assert sorted(rows["_offset"]) == sorted(there)
    assert sorted(rows.filter(rows["disposition"] == "tombstone")["_offset"]) == sorted(
        o for o, value in there.items() if value is None
    )
    print(f"\ncompacted: {len(there)} records are left of {max(there) + 1} offsets, {len(rows)} landed")


def read_all(address, topic):
    """Offset -> value of everything that is in partition 0 now."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": uuid4().hex,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    found = {}
    while (message := consumer.poll(20)) is not None and message.error() is None:
        found[message.offset()] = message.value()
    consumer.close()
    return found


def test_a_table_that_somebody_restores_under_a_running_landing_has_every_record_once_in_the_end(
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
    assert "refused" in said(table)
    assert whole(table) == 4_400


def test_a_full_disk_ends_the_landing_with_its_reason_and_room_lets_it_go_on(kafka_cluster, table, ledger):
    topic = make_topic(kafka_cluster.address)
    produce(kafka_cluster.address, topic, ledger, 60_000, poison_every=500)
    with small_disk(table, "700k"):
        full = []
        for _ in range(3):
            ended(land(kafka_cluster.address, topic, table), code=2)
            full.append(whole(table))  # no part of a batch
        assert said(table).count(f"FeedError: {table}") == 3
        files = {path.relative_to(table).as_posix() for path in table.glob("disposition=*/*/*")}
        assert files == set(live(table)[0]), "nothing half-written is left"
        subprocess.run(["mount", "-o", "remount,size=64m", str(table)], check=True)
        ended(land(kafka_cluster.address, topic, table, "--tidy"))
        seen("disk full", table, ledger, f"Full at {full} of 60,000 records")


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
    assert f"FeedError: {table}" in said(table)
    ended(land(kafka_cluster.address, topic, table))
    seen(f"sync {nth} fails", table, ledger)


def test_a_producer_whose_clock_jumps_changes_nothing(kafka_cluster, table, ledger):
    """The time of production, by which poison is filed and times ahead are judged, goes back and
    forth by days."""
    topic = make_topic(kafka_cluster.address, retention_ms="-1", message_timestamp_after_max_ms=str(2**62))
    producer = producer_to(kafka_cluster.address)
    for n in range(40):
        made = list(records(100, 100 * n, poison_every=100))
        note(ledger, made)
        send(producer, topic, made, datetime.now(UTC) + timedelta(days=(0, 3, -3, 400, -400)[n % 5]))
    ended(land(kafka_cluster.address, topic, table, "--tidy", "--every=150"))
    seen("a producer's clock jumps", table, ledger)


def test_tidying_without_a_pause_beside_the_landing(kafka_cluster, table, ledger):
    topic = make_topic(kafka_cluster.address)
    landing = land(kafka_cluster.address, topic, table, "--ever")
    with producing(kafka_cluster.address, topic, ledger, 10_000, poison_every=500):
        until((table / "disposition=row").exists)
        for _ in range(30):
            compact_table(open_existing_table(table), keep_h=1)
            whole(table)
    landed_within(60, table, ledger)
    stopped(landing)
    seen("tidied 30 times beside it", table, ledger)


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
    """The landing lives behind a wire of a megabit a second, whose queue drops what is beyond 50
    ms (`tc tbf`), and which is cut past the session."""
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
    seen(
        "slow network",
        table,
        ledger,
        f"No lag {seconds:.0f} s after the producer's end; {' '.join(dropped.split()[:40])}",
    )
