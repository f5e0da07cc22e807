"""The broker that the tests share."""

from confluent_kafka import Producer
from kafka import make_topic

from flows.broker import is_up, new_cluster_id


def test_a_topic_takes_records(kafka_cluster):
    topic, delivered = make_topic(kafka_cluster.address, n_partitions=2), []
    producer = Producer({"bootstrap.servers": kafka_cluster.address})
    producer.produce(topic, b"x", partition=1, on_delivery=lambda error, message: delivered.append((error, message.partition(), message.offset())))
    assert producer.flush(20) == 0
    assert delivered == [(None, 1, 0)]
    assert is_up(kafka_cluster.address)


def test_no_cluster_id_looks_like_an_option():
    assert not [made for _ in range(2_000) if (made := new_cluster_id()).startswith("-") or len(made) != 22]
