"""The broker that the tests share, and one that is killed."""

import pickle
import time
from contextlib import ExitStack, nullcontext
from unittest.mock import Mock

import pytest
from confluent_kafka import Producer
from kafka_support import make_topic
from ledger import check, producing
from lives import land, landed_within, said, stopped, until

from deployments.ops.kafka_broker import is_up, make_cluster_id, run_broker
from tasks.core.errors import FeedError, TopicMissingError
from tasks.edges.feeds.kafka import KafkaFeed
from tasks.edges.feeds.kafka_topic import KafkaTopic


def test_a_topic_takes_records(kafka_cluster):
    topic, delivered = make_topic(kafka_cluster.address, n_partitions=2), []
    producer = Producer({"bootstrap.servers": kafka_cluster.address})
    producer.produce(
        topic,
        b"x",
        partition=1,
        on_delivery=lambda error, message: delivered.append((error, message.partition(), message.offset())),
    )
    assert producer.flush(20) == 0
    assert delivered == [(None, 1, 0)]
    assert is_up(kafka_cluster.address)


def test_a_topic_that_is_not_there_is_named_with_its_brokers(kafka_cluster):
    with pytest.raises(TopicMissingError, match="has no topic 'absent'") as raised:
        KafkaFeed(kafka_cluster.address, "absent", "g-absent")
    assert (raised.value.address, raised.value.topic) == (kafka_cluster.address, "absent")
    again = pickle.loads(pickle.dumps(TopicMissingError(kafka_cluster.address, "absent")))
    assert (again.address, again.topic, str(again)) == (kafka_cluster.address, "absent", str(raised.value))


NO_ANSWER = FeedError("no answer; this broker has no topic list")


@pytest.mark.parametrize(("error", "goes_on"), [(NO_ANSWER, True), (TopicMissingError("host", "t"), False)])
def test_whether_a_topic_is_gone_is_not_read_from_the_text_of_an_error(error, goes_on, monkeypatch):
    topic = KafkaTopic.__new__(KafkaTopic)
    monkeypatch.setattr(topic, "_fetch_ids", Mock(side_effect=error), raising=False)
    with nullcontext() if goes_on else pytest.raises(TopicMissingError):
        topic.check_same()


def test_no_cluster_id_looks_like_an_option():
    assert not [made for _ in range(2_000) if (made := make_cluster_id()).startswith("-") or len(made) != 22]


def test_a_broker_that_is_killed_comes_back_in_its_folder_and_all_that_was_sent_lands_once(tmp_path):
    """By another object, as on another day: at its address, with its topics and what it had taken.

    The producer and the landing wait for it.
    """
    with ExitStack() as brokers:
        first = brokers.enter_context(run_broker(tmp_path / "kafka"))
        topic, where = make_topic(first.address), (tmp_path / "table", tmp_path / "ledger")
        landing = land(first.address, topic, where[0], "--ever")
        with producing(first.address, topic, where[1], 2_000, poison_every=100) as n_sent:
            until(lambda: n_sent() > 2_000)
            first.kill()
            began, before = time.monotonic(), n_sent()
            again = brokers.enter_context(run_broker(tmp_path / "kafka"))
            assert again.address == first.address
            until(lambda: n_sent() > before)
        landed_within(120, *where)
        print(f"\nall landed {time.monotonic() - began:.1f} s after the kill: {check(*where)}")
        stopped(landing)
    assert said(where[0]).count("away:") == len(said(where[0]).splitlines()) == 1
