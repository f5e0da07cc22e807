"""Poison of every kind through a real topic: each record in its place, and the partitions go on."""

import json

from confluent_kafka import Producer
from kafka_support import make_topic
from landed import NOON, params_of, rows_of
from poison import GOOD, POISON

from tasks.edges.feeds.kafka import KafkaFeed
from tasks.feed.land import LandingBuffer, open_table, run_landing


def produce(address, topic, records):
    """records: (partition, value, key, headers)."""
    producer = Producer({"bootstrap.servers": address, "message.max.bytes": 32_000_000})
    for partition, value, key, headers in records:
        producer.produce(
            topic, value, key, partition, timestamp=int(NOON.timestamp() * 1000), headers=headers
        )
    assert producer.flush(60) == 0


def drained(address, topic, folder, params):
    """The table after one bounded run of a process of its own."""
    table, feed = open_table(folder, params), KafkaFeed(address, topic, f"g-{topic}")
    try:
        run_landing(LandingBuffer(table, params, None, feed), feed, until_caught_up=True)
    finally:
        feed.close()
    return rows_of(table)


def test_a_topic_full_of_poison_is_landed_whole(kafka_cluster, tmp_path):
    """Every kind and 20 MB, a good record after each, in two partitions; keys, headers,
    tombstones; a second run finds nothing new."""
    huge = b'{"series_id":"a","note":"' + b"x" * 20_000_000 + b'"}'
    kinds = {**POISON, "20 MB": (huge, "too_large")}
    topic = make_topic(kafka_cluster.address, n_partitions=2, max_message_bytes="32000000")
    records = []
    for nth, (value, _) in enumerate(kinds.values()):
        good = json.dumps({**json.loads(GOOD), "series_id": f"s{nth}"}).encode()
        records += [
            (nth % 2, value, b"k%d" % nth, [("trace", b"7"), ("bytes", b"\xff")]),
            (nth % 2, good, None, None),
        ]
    produce(kafka_cluster.address, topic, [*records, (0, None, b"gone", None)])
    rows = drained(kafka_cluster.address, topic, tmp_path, params_of())
    bad = {one["_key"]: one for one in rows.iter_rows(named=True) if one["disposition"] == "quarantine"}
    assert {key: (one["_rule"], one["_raw"]) for key, one in bad.items()} == {
        b"k%d" % n: (rule, value) for n, (value, rule) in enumerate(kinds.values())
    }
    assert {one["_headers"] for one in bad.values()} == {'[["trace", "7"], ["bytes", "0xff"]]'}
    assert sorted(rows.filter(disposition="row")["series_id"]) == sorted(f"s{n}" for n in range(len(kinds)))
    assert rows.filter(disposition="tombstone").select("_key", "_raw").rows() == [(b"gone", None)]
    for source, part in rows.group_by("_source"):
        assert part["_offset"].to_list() == list(range(part.height)), source
    assert drained(kafka_cluster.address, topic, tmp_path, params_of()).height == rows.height
