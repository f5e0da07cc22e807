"""Members of a group: a second process under one number fences the first.

A member that comes back to other partitions reads them all.
"""

import time
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions
from kafka_support import make_topic

from tasks.core.errors import FencedError
from tasks.edges.feeds.kafka import KafkaFeed


def until(seconds, poll):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (found := poll()) is not None:
            return found
    raise AssertionError(f"nothing came within {seconds} s")


def test_a_member_whose_place_was_taken_is_fenced(kafka_cluster):
    topic = make_topic(kafka_cluster.address, n_partitions=1)
    producer = Producer({"bootstrap.servers": kafka_cluster.address})
    producer.produce(topic, b"x")
    producer.flush(20)
    first, second = (KafkaFeed(kafka_cluster.address, topic, f"g-{topic}", "0") for _ in range(2))
    first.open(dict)
    until(20, lambda: first.poll(10, 0.1).records.height or None)
    second.open(dict)
    try:
        until(20, lambda: second.poll(10, 0.1).records.height or None)
        with pytest.raises(FencedError, match="TIDEMILL_FEED_MEMBER"):
            until(20, lambda: first.poll(10, 0.1) and None)
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("change", ["another topic", "more partitions"])
def test_a_member_that_comes_back_to_other_partitions_reads_them_all(change, kafka_cluster):
    """A broker gives a static member what it had: with other partitions it is another member."""
    address, group = kafka_cluster.address, f"g-{uuid4().hex}"
    topic = make_topic(address, n_partitions=1)
    assert _drained(address, topic, group) == {0}
    if change == "more partitions":
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_partitions([NewPartitions(topic, 3)])[topic].result(20)
    else:
        topic = make_topic(address, n_partitions=3)
    assert _drained(address, topic, group, n_partitions=3) == {0, 1, 2}


def _drained(address, topic, group, n_partitions=1):
    """Partitions from which records came, one having been sent to each."""
    producer = Producer({"bootstrap.servers": address, "topic.metadata.refresh.interval.ms": 200})
    for p in range(n_partitions):
        producer.produce(topic, b"x", partition=p)
    producer.flush(20)
    feed, seen = (
        KafkaFeed(address, topic, group, options={"session.timeout.ms": 3000, "heartbeat.interval.ms": 500}),
        set(),
    )
    feed.open(dict)
    while not feed.is_caught_up():
        seen |= {int(source.rsplit("/", 1)[1]) for source in feed.poll(10, 0.1).records["_source"]}
    feed.close()
    return seen
