"""Ticks in a topic -> `feed drain` -> bars -> window.json -> what ingest reads: the bars of an
oracle, again after a late tick and after tidying."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import yaml
from confluent_kafka import Producer
from kafka_support import make_topic
from small_checkout import small_checkout

from tasks.core.calendar import Calendar
from tasks.edges.delta import compact_table, open_existing_table
from tasks.edges.settings import read_settings
from tasks.feed.service import get_feed_folder, list_feed_gaps, publish_window, read_feed_status, run_feed
from tasks.ingest.feed import FeedRows
from tasks.ingest.params import FeedSource

COLUMNS = {
    "open": {"by": "first", "of": "price"},
    "high": {"by": "max", "of": "price"},
    "low": {"by": "min", "of": "price"},
    "close": {"by": "last", "of": "price"},
    "volume": {"by": "sum", "of": "size"},
    "n": {"by": "count"},
}


@pytest.fixture
def feed(kafka_cluster, tmp_path, monkeypatch):
    """(the root of a checkout whose dataset is a feed of ticks, the checkout, its topic)."""
    topic = make_topic(kafka_cluster.address, n_partitions=3)
    checkout = small_checkout(tmp_path, TIDEMILL_KAFKA=kafka_cluster.address)
    path = checkout.root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    entry = document["datasets"][document["dataset"]]
    entry["about"] = {**entry["about"], "every": "1m", "calendar": "continuous"}
    entry["feed"] = {
        "source": {"kind": "kafka", "topic": topic, "group": topic},
        "fields": {"price": {}, "size": {}, "nr": {"type": "int"}},
        "id_fields": ["nr"],
        "window": "1m",
        "aggregate": {"kind": "tumbling", "every": "1m", "columns": COLUMNS},
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    monkeypatch.setenv("TIDEMILL_HOME", str(checkout.home))
    monkeypatch.setenv("TIDEMILL_KAFKA", kafka_cluster.address)
    read_settings.cache_clear()
    yield checkout, topic
    read_settings.cache_clear()


def _ticks(n, seed=1):
    """Of the last 20 minutes, out of order by up to a minute, two series of one partition each
    and one of all; minutes 7 to 9 have none of `a`."""
    rng = np.random.default_rng(seed)
    start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=21)
    seconds = np.sort(rng.uniform(0, 1200, n)) - rng.uniform(0, 60, n) * (rng.random(n) < 0.2)
    made = [
        {
            "series_id": str(rng.choice(["a", "b", "c"])),
            "event_time": start + timedelta(seconds=float(s)),
            "price": float(rng.integers(1, 999)) / 8,
            "size": float(rng.integers(1, 9)),
            "nr": i,
        }
        for i, s in enumerate(seconds)
    ]
    kept = [
        t for t in made if t["series_id"] != "a" or not 420 <= (t["event_time"] - start).total_seconds() < 600
    ]
    return start, kept


def _send(address, topic, ticks):
    producer = Producer({"bootstrap.servers": address})
    for tick in ticks:
        producer.produce(
            topic,
            json.dumps({**tick, "event_time": tick["event_time"].isoformat()}).encode(),
            partition=tick["nr"] % 3,
        )
    assert producer.flush(20) == 0


def _oracle(ticks, end):
    """Bars by plain Python."""
    bars = {}
    for tick in sorted(ticks, key=lambda t: t["event_time"]):
        bars.setdefault((tick["series_id"], tick["event_time"].replace(second=0, microsecond=0)), []).append(
            tick
        )
    return [
        (
            *key,
            of[0]["price"],
            max(t["price"] for t in of),
            min(t["price"] for t in of),
            of[-1]["price"],
            sum(t["size"] for t in of),
            float(len(of)),
        )
        for key, of in sorted(bars.items())
        if key[1] + timedelta(minutes=1) <= end
    ]


def _drained(checkout):
    done = run_feed(stop=lambda: False, until_caught_up=True, report=lambda _: None, root=checkout.root)
    assert publish_window(done.window, checkout.root)
    return done.window


def _shown(checkout):
    """The bars that ingest reads: of each its newest vintage."""
    (file,) = FeedRows(
        FeedSource(kind="feed"), Calendar("continuous", "1m", 0.0), checkout.root / "data" / "source"
    ).read()
    assert file.rows.select("series_id", "event_time", "known_at").is_duplicated().sum() == 0
    newest = file.rows.sort("series_id", "event_time", "known_at").unique(
        ["series_id", "event_time"], keep="last", maintain_order=True
    )
    return newest.select("series_id", "event_time", *COLUMNS).rows()


def test_ticks_of_a_topic_are_the_bars_of_an_oracle_after_a_late_tick_and_after_tidying(feed, kafka_cluster):
    checkout, topic = feed
    start, ticks = _ticks(900)
    _send(kafka_cluster.address, topic, ticks[:500])
    first = _drained(checkout)
    assert _shown(checkout) == _oracle(ticks[:500], first.end)
    _send(kafka_cluster.address, topic, ticks[500:])
    second = _drained(checkout)
    bars = _oracle(ticks, second.end)
    assert len(bars) > 40
    assert _shown(checkout) == bars
    gap = {
        "series_id": "a",
        "start": start + timedelta(minutes=7),
        "end": start + timedelta(minutes=9),
        "n_steps": 3,
    }
    assert list_feed_gaps(checkout.root).to_dicts() == [gap]
    assert read_feed_status(checkout.root).n_gaps == 1
    late = [
        {
            "series_id": "a",
            "event_time": start + timedelta(minutes=8, seconds=5),
            "price": 5.0,
            "size": 1.0,
            "nr": 5000,
        },
        {
            "series_id": "b",
            "event_time": start + timedelta(minutes=3, seconds=30),
            "price": 5000.0,
            "size": 1.0,
            "nr": 5001,
        },
    ]
    _send(kafka_cluster.address, topic, late)
    third = _drained(checkout)
    assert (third.n_changed, third.changed) == (1, (("b", start + timedelta(minutes=3)),))
    assert [(one["series_id"], one["n_steps"]) for one in list_feed_gaps(checkout.root).to_dicts()] == [
        ("a", 1),
        ("a", 1),
    ]
    bars = _oracle([*ticks, *late], third.end)
    assert _shown(checkout) == bars
    for name in ("table", third.bars):
        compact_table(open_existing_table(get_feed_folder(third.dataset) / name))
    assert (
        run_feed(stop=lambda: False, until_caught_up=True, report=lambda _: None, root=checkout.root).window
        == third
    )
    assert _shown(checkout) == bars
    assert len(json.loads(checkout.tidemill("feed", "gaps", "--json").stdout)) == 2
    assert not any(
        pl.read_parquet(path).is_empty()
        for path in (get_feed_folder(third.dataset) / third.bars).rglob("*.parquet")
        if "_delta_log" not in str(path)
    )
