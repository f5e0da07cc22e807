"""`tidemill feed drain` on a real topic: rows, quarantine, events, and a replay of the rest."""

import json
from datetime import UTC, datetime, timedelta

import yaml
from confluent_kafka import Producer
from kafka_support import make_topic
from small_checkout import small_checkout


def bars(n, **change):
    """*n* bars of the last hours, as their producer would send them now."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    made = [
        {
            "series_id": "a",
            "event_time": (now - timedelta(hours=n - i)).isoformat(),
            "price": 1.0 + i,
            "volume": 1,
        }
        for i in range(n)
    ]
    return [{name: value for name, value in {**one, **change}.items() if value is not None} for one in made]


def answer(checkout, *arguments):
    return json.loads(checkout.tidemill(*arguments, "--json").stdout)


def test_a_topic_whose_producer_changed_lands_is_reported_and_replayed(kafka_cluster, tmp_path):
    topic = make_topic(kafka_cluster.address, n_partitions=1)
    checkout = small_checkout(tmp_path, TIDEMILL_KAFKA=kafka_cluster.address)
    path = checkout.root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    entry = document["datasets"][document["dataset"]]
    entry["validate"] = {**(entry.get("validate") or {}), "columns": {}}
    entry["feed"] = {
        "source": {"kind": "kafka", "topic": topic},
        "fields": {"price": {}, "volume": {}},
        "lateness_s": 86_400,
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    producer = Producer({"bootstrap.servers": kafka_cluster.address})
    for one in [*bars(6)[:2], *bars(6, price=None)[2:], *bars(1, series_id="b", extra=7)]:
        producer.produce(topic, json.dumps(one).encode())
    producer.flush(20)
    assert answer(checkout, "feed", "drain")["counts"] == {"row": 3, "quarantine": 4}
    assert [one["event"] for one in answer(checkout, "feed", "events")] == [
        "field_added",
        "quarantine_high",
        "field_removed",
    ]
    assert [(one["field"], one["came"]) for one in answer(checkout, "schema")] == [
        ("price", "first"),
        ("volume", "first"),
        ("extra", "arrived"),
    ]
    entry["feed"]["fields"]["price"] = {"nullable": True}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    assert answer(checkout, "quarantine", "replay")["rules"] == {"missing": {"row": 4}}
    assert answer(checkout, "feed", "drain")["counts"] == {}
    assert answer(checkout, "quarantine", "list") == []
