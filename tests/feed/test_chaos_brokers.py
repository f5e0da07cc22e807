"""The longer faults of brokers, groups and topics, `make chaos`; the ledger is compared."""

import os
import random
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from kafka_support import make_topic
from landings import ended, land, landed_within, print_check, read_log, stopped, until
from ledger import live, produce, producing, records

from deployments.ops.kafka_broker import run_broker
from tasks.core.errors import FeedError
from tasks.edges.delta import open_existing_table
from tasks.edges.feeds.kafka import KafkaFeed
from tasks.feed.params import FeedParams
from tasks.feed.skip import skip_lost

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


class Supervised:
    """A landing that is started again when it ends, as under `tidemill up`."""

    def __init__(self, *arguments: object) -> None:
        self._arguments, self.ends = arguments, 0
        self.process = land(*arguments)

    def restart_if_ended(self) -> None:
        if self.process.poll() is not None:
            self.ends += 1
            self.process = land(*self._arguments)


def until_no_lag(landing: Supervised, address: str, topic: str, folder: Path) -> None:
    """Wait until the table has what the topic held when it first answered."""
    probe = Consumer({"bootstrap.servers": address, "group.id": uuid4().hex, "log_level": 2})
    wanted: dict[int, int] = {}

    def has_ends() -> bool:
        with suppress(KafkaException):  # its leader is not known yet
            wanted.update(
                {p: probe.get_watermark_offsets(TopicPartition(topic, p), timeout=5)[1] for p in range(4)}
            )
        return bool(wanted)

    until(has_ends, 60)
    probe.close()

    def is_there() -> bool:
        landing.restart_if_ended()
        offsets = {
            int(source.rsplit("/", 1)[1]): end
            for source, end in live(folder)[1].items()
            if source.startswith("kafka:")
        }
        return all(offsets.get(p, 0) >= end for p, end in wanted.items())

    until(is_there, 60)


def test_a_broker_that_is_killed_three_times_under_load_costs_at_most_thirty_seconds_of_lag(
    tmp_path, table, ledger
):
    waited = []
    with run_broker(tmp_path / "kafka") as cluster:
        topic = make_topic(cluster.address)
        landing = Supervised(cluster.address, topic, table, "--ever", "--compact", "--every=5000")
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
    print_check(
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
        landing = Supervised(cluster.address, topic, table, "--ever", "--compact", "--every=2000")
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
    print_check(
        "three brokers, each killed once", table, ledger, f"The landing was restarted {landing.ends} times"
    )


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
        assert "OffsetLostError" in read_log(table)
        params, kept = (
            FeedParams(source={"kind": "kafka", "topic": topic}),
            KafkaFeed(cluster.address, topic, "skip").topic.fetch_kept_offsets(),
        )
        with pytest.raises(FeedError, match="before 2,000"):
            skip_lost(open_existing_table(table), params, kept)
    print_check("log cut", table, ledger)


def test_members_that_join_and_leave_every_five_seconds(kafka_cluster, table, ledger):
    """Two and three members of one group; half of those that leave are killed."""
    topic, rng = make_topic(kafka_cluster.address), random.Random(3)
    members = {
        n: land(kafka_cluster.address, topic, table, "--ever", "--compact", f"--member={n}") for n in (0, 1)
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
                    kafka_cluster.address, topic, table, "--ever", "--compact", f"--member={number}"
                )
    landed_within(60, table, ledger)
    stopped(*members.values())
    print_check("16 joins and leaves", table, ledger)


def test_a_compacted_topic_with_holes_and_tombstones_lands_as_an_independent_probereads_it(
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
