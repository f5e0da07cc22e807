"""For each kind of FEEDS the outside world in which the laws of feed sources run it.

A world is a context manager: it starts what holds N_RECORDS records, and gives a World. A new
source needs a line in FEEDS and one in WORLDS; tests/laws/test_feeds.py does the rest.
"""

import importlib
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from exchange_server import Exchange
from kafka_support import make_topic
from socket_server import Server
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tasks.core.about import About, Target
from tasks.core.records import RECORDS
from tasks.edges import feeds
from tasks.edges.feeds.kafka_producer import TopicWriter
from tasks.edges.settings import read_settings
from tasks.feed.params import FeedParams
from tasks.feed.replay import run_replay
from tasks.feed.replayed_feed import read_replayed_lines
from tasks.feed.sources import build_source

ROOT = Path(__file__).resolve().parents[2]
N_RECORDS = 60
ABOUT = About(
    description="law", every="1h", target=Target(column="x", unit="1"), horizon_steps=1, publish_delay_s=30
)


class World(NamedTuple):
    """make_source: `feed.source`, each time of a reader of its own.

    stable: what of its records is the same each time (a socket's are timed by their receipt).
    """

    make_source: Callable[[], dict[str, Any]]
    stable: tuple[str, ...] = tuple(RECORDS)

    def connect(self):
        """The source as a landing would have it, by parameters and settings; not opened."""
        params = FeedParams.model_validate({"source": self.make_source(), "fields": {"x": {}}})
        return build_source(params, "law", ABOUT, lambda *_, **__: None)


def time_of(hour):
    return datetime.fromtimestamp(1_700_000_400 + 3600 * hour, UTC)


def value_of(number):
    return json.dumps(
        {"series_id": f"s{number % 3}", "event_time": f"{time_of(number):%Y-%m-%dT%H:%M:%SZ}", "x": number}
    )


def write_lines(path):
    """N_RECORDS lines that are not in the order of their times, one of them poison."""
    lines = [value_of(number) for number in range(N_RECORDS - 1)]
    path.write_text("\n".join(["not json", *lines[30:], *lines[:30]]) + "\n")
    return path


@contextmanager
def environment(**settings):
    """Settings of the feed's sources, by the environment as in production."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        read_settings.cache_clear()
        yield
    read_settings.cache_clear()


@contextmanager
def files_world(request, folder):
    path = write_lines(folder / "x.jsonl")
    yield World(lambda: {"kind": "files", "path": str(path), "speed": "max"})


@contextmanager
def kafka_world(request, folder):
    address = request.getfixturevalue("kafka_cluster").address
    topic = make_topic(address, 2)
    params = FeedParams.model_validate({"source": {"kind": "files", "path": "x"}, "fields": {"x": {}}})
    lines = read_replayed_lines(write_lines(folder / "x.jsonl"), params, ABOUT)
    run_replay(lines, TopicWriter(address, topic), None)
    with environment(TIDEMILL_KAFKA=address):
        yield World(lambda: {"kind": "kafka", "topic": topic, "group": f"g-{uuid4().hex}"})


def database_world(**order):
    """Ids with gaps; three rows share a time, and those of later ids come before earlier ones."""

    @contextmanager
    def start(request, folder):
        rows = [
            {
                "id": 2 * i,
                "s": f"s{i % 3}",
                "t": f"{time_of(i):%Y-%m-%dT%H:%M:%SZ}",
                "x": i,
                "at": f"{time_of((N_RECORDS - i) // 3):%Y-%m-%d %H:%M:%S}",
            }
            for i in range(N_RECORDS)
        ]
        make = (
            "create table x (id integer primary key, series_id text, event_time text, x real, at timestamp)"
        )
        url = f"sqlite:///{folder}/x.db"
        with create_engine(url, poolclass=NullPool).begin() as connection:
            connection.execute(text(make))
            connection.execute(text("insert into x values (:id, :s, :t, :x, :at)"), rows)
        columns = ["series_id", "event_time", "x"]
        pace = {"settle_s": 0.02, "every_s": 0.01}
        with environment(TIDEMILL_FEED_DATABASE=url):
            yield World(lambda: {"kind": "database", "table": "x", "columns": columns, **pace, **order})

    return start


@contextmanager
def websocket_world(request, folder):
    with Server([N_RECORDS - 1], rest=range(N_RECORDS), page=13) as server:
        source = {
            "kind": "websocket",
            "url": server.url,
            "log": "law",
            "sequence_field": "n",
            "begin_at": 0,
            "backfill_url": server.backfill_url,
            "reorder_s": 0.0,
        }
        yield World(lambda: source, tuple(name for name in RECORDS if name != "_timestamp"))


@contextmanager
def exchange_world(request, folder):
    """A bar every second minute."""
    last = int(time.time()) // 60 - 2
    with (
        Exchange({"btcusd": [60 * (last - i) for i in range(2 * N_RECORDS, 0, -2)]}) as exchange,
        environment(TIDEMILL_FEED_EXCHANGE=json.dumps(exchange.options)),
    ):
        source = {
            "kind": "exchange",
            "exchange": "bitstamp",
            "symbols": ["BTC/USD"],
            "timeframe": "1m",
            "since": datetime.fromtimestamp(60 * (last - 2 * N_RECORDS), UTC),
            "settle_s": 0.0,
            "every_s": 0.01,
        }
        yield World(lambda: source)


@contextmanager
def how_to_world(request, folder):
    """The source that docs/how-to/add-a-feed-source.md writes, as it is there."""
    page = (ROOT / "docs/how-to/add-a-feed-source.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (folder / "appended.py").write_text(snippet)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.invalidate_caches()
        patch.setitem(feeds.FEEDS, "appended", "appended:AppendedFeed")
        path = write_lines(folder / "appended.jsonl")
        stable = tuple(name for name in RECORDS if name != "_timestamp")
        yield World(lambda: {"kind": "appended", "path": str(path)}, stable)
    del sys.modules["appended"]


# (kind, which) -> what starts its world
WORLDS = {
    ("files", "lines"): files_world,
    ("kafka", "two partitions"): kafka_world,
    ("database", "by id"): database_world(produced_at="at"),
    ("database", "by time"): database_world(updated_at="at"),
    ("websocket", "with REST"): websocket_world,
    ("exchange", "one symbol"): exchange_world,
    ("appended", "of the how-to"): how_to_world,
}
