"""Two processes under one member number: the second takes the place, the first says so and commits nothing more."""

import time

import pytest
from confluent_kafka import Producer
from kafka import make_topic

from tasks.core.errors import FencedError
from tasks.edges.kafka import KafkaFeed


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
