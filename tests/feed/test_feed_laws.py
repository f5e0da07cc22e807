"""What every Feed keeps to, whatever it reads: in pieces as at once, from any mark on, offsets
rise, it ends, and nothing comes after its end."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple
from uuid import uuid4

import polars as pl
import pytest
from exchange_server import Exchange
from kafka_support import make_topic
from landed import rows_of
from socket_server import Server
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tasks.core.about import About, Target
from tasks.core.records import RECORDS, Feed
from tasks.edges.feeds.database import DatabaseFeed
from tasks.edges.feeds.exchange import ExchangeFeed
from tasks.edges.feeds.kafka import KafkaFeed
from tasks.edges.feeds.kafka_producer import TopicWriter
from tasks.edges.feeds.played import ReplayedFeed
from tasks.edges.feeds.websocket import WebsocketFeed
from tasks.feed.land import LandingBuffer, open_table, run_loop
from tasks.feed.params import FeedParams
from tasks.feed.played import read_replayed_lines
from tasks.feed.replay import run_replay

N = 60
ABOUT = About(
    description="law", every="1h", target=Target(column="x", unit="1"), horizon_steps=1, publish_delay_s=30
)
PARAMS = FeedParams.model_validate({"source": {"kind": "files", "path": "x.jsonl"}, "fields": {"x": {}}})
LANDS = PARAMS.model_copy(update={"dedupe": False, "sync": False, "lateness_s": 1e9})  # marks alone must do


def at(hour):
    return datetime.fromtimestamp(1_700_000_400 + 3600 * hour, UTC)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Lines in an order of their own, one of them poison."""
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    lines = [
        json.dumps({"series_id": f"s{i % 3}", "event_time": f"{at(i):%Y-%m-%dT%H:%M:%SZ}", "x": i})
        for i in range(N - 1)
    ]
    path.write_text("\n".join(["not json", *lines[30:], *lines[:30]]))
    return read_replayed_lines(path, PARAMS, ABOUT)


class Source(NamedTuple):
    """again: gives the same feed once more, not opened. keeps: what of its records is the same
    each time (a socket's are timed by their receipt)."""

    again: Callable[[], Feed]
    keeps: tuple[str, ...] = tuple(RECORDS)


@pytest.fixture(
    scope="module",
    params=["files", "kafka", "database by id", "database by time", "websocket with REST", "exchange"],
)
def source(request, played, tmp_path_factory):
    if request.param == "files":
        yield Source(lambda: ReplayedFeed(played))
    elif request.param == "kafka":
        address = request.getfixturevalue("kafka_cluster").address
        topic = make_topic(address, 2)
        run_replay(played, TopicWriter(address, topic), None)
        yield Source(lambda: KafkaFeed(address, topic, f"g-{uuid4().hex}"))
    elif request.param == "exchange":
        last = int(time.time()) // 60 - 2
        with Exchange({"btcusd": [60 * (last - i) for i in range(2 * N, 0, -2)]}) as exchange:
            begin = datetime.fromtimestamp(60 * (last - 2 * N), UTC)
            how = {"since": begin, "settle_s": 0.0, "every_s": 0.01, "options": exchange.options}
            yield Source(lambda: ExchangeFeed("bitstamp", ["BTC/USD"], "1m", **how))
    elif request.param == "websocket with REST":
        with Server([N - 1], rest=range(N), page=13) as server:
            how = {
                "sequence_field": "n",
                "begin_at": 0,
                "backfill_url": server.backfill_url,
                "reorder_s": 0.0,
            }
            yield Source(
                lambda: WebsocketFeed(server.url, "law", **how),
                tuple(name for name in RECORDS if name != "_timestamp"),
            )
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('db')}/x.db"
        make_rows(url)
        column = "updated_at" if request.param == "database by time" else "produced_at"
        yield Source(
            lambda: DatabaseFeed(
                url,
                "x",
                columns=("series_id", "event_time", "x"),
                settle_s=0.02,
                every_s=0.01,
                **{column: "at"},
            )
        )


def make_rows(url):
    """Ids with holes; three rows share a time, and those of later ids come before those of
    earlier ones."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(
            text(
                "create table x (id integer primary key, series_id text, event_time text, x real, at"
                " timestamp)"
            )
        )
        rows = [
            {
                "id": 2 * i,
                "s": f"s{i % 3}",
                "t": f"{at(i):%Y-%m-%dT%H:%M:%SZ}",
                "x": i,
                "at": f"{at((N - i) // 3):%Y-%m-%d %H:%M:%S}",
            }
            for i in range(N)
        ]
        connection.execute(text("insert into x values (:id, :s, :t, :x, :at)"), rows)


def polls(feed, n):
    """What comes until it is drained, *n* records at most a time."""
    until = time.monotonic() + 20
    while not feed.is_caught_up():
        assert time.monotonic() < until
        polled = feed.poll(n, 0.05)
        assert polled.records.height <= n
        yield polled


def read(source, marks, n):
    """(records, where each source ended) from *marks* to the end, *n* records at most a time."""
    feed = source.again()
    feed.open(lambda: marks)
    frames, ends = [pl.DataFrame(schema=dict(RECORDS))], dict(marks)
    for polled in polls(feed, n):
        frames.append(polled.records)
        ends |= polled.ends
    feed.close()
    with suppress(RuntimeError):  # a Kafka client that was closed says so
        assert feed.poll(n, 0.0).records.is_empty()
    return pl.concat(frames).sort("_source", "_offset", maintain_order=True).select(source.keeps), ends


@pytest.mark.parametrize("n", [1, 7])
def test_read_in_pieces_is_read_at_once_and_offsets_rise(source, n):
    whole, ends = read(source, {}, 1000)
    assert whole.height == N
    for name, records in whole.group_by("_source"):
        assert (records["_offset"].diff().drop_nulls() > 0).all()
        assert ends[name[0]] == records["_offset"].max() + 1
    assert read(source, {}, n)[0].equals(whole)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_reopened_at_a_mark_nothing_is_missing_and_nothing_comes_twice(source, share):
    whole, ends = read(source, {}, 1000)
    offsets = {name: whole.filter(pl.col("_source") == name)["_offset"].to_list() for name in ends}
    marks = {name: [0, *(offset + 1 for offset in of)][int(len(of) * share)] for name, of in offsets.items()}
    before = pl.concat(
        [
            whole.filter((pl.col("_source") == name) & (pl.col("_offset") < mark))
            for name, mark in marks.items()
        ]
    )
    after, _ = read(source, marks, 1000)
    assert pl.concat([before, after]).sort("_source", "_offset").equals(whole)


def test_a_rewound_feed_begins_again_at_the_marks(source):
    whole, ends = read(source, {}, 1000)
    feed, marks = source.again(), {}
    feed.open(lambda: marks)
    while not feed.poll(20, 0.05).records.height:
        pass
    middle = {name: whole.filter(pl.col("_source") == name)["_offset"].median() for name in ends}
    marks |= {name: int(offset) for name, offset in middle.items()}
    feed.rewind()
    again = pl.concat([polled.records.select(source.keeps) for polled in polls(feed, 20)]).sort(
        "_source", "_offset"
    )
    feed.close()
    assert again.equals(
        pl.concat(
            [
                whole.filter((pl.col("_source") == name) & (pl.col("_offset") >= mark))
                for name, mark in marks.items()
            ]
        ).sort("_source", "_offset")
    )


def rows_landed(source, folder, n_lives):
    """The table after *n_lives* processes that ended with records polled and not committed, and
    one that drained."""
    for _ in range(n_lives):
        feed = source.again()
        landing = LandingBuffer(open_table(folder, LANDS), LANDS, None, feed)
        for n_held, polled in enumerate(islice((p for p in polls(feed, 4) if p.records.height), 3)):
            landing.add_records(polled)
            if n_held == 1:
                landing.commit()
        feed.close()
    feed, table = source.again(), open_table(folder, LANDS)
    run_loop(LandingBuffer(table, LANDS, None, feed), feed, until_drained=True)
    feed.close()
    return rows_of(table).select(sorted({*table.columns} - ({*RECORDS} - {*source.keeps})))


def test_killed_between_poll_and_commit_or_not_the_table_is_the_same(source, tmp_path):
    undisturbed = rows_landed(source, tmp_path / "a", 0)
    assert undisturbed.height == N
    assert rows_landed(source, tmp_path / "b", 2).equals(undisturbed)
    assert rows_landed(source, tmp_path / "b", 0).equals(undisturbed)


def test_lines_are_played_in_the_order_in_which_they_were_known(played):
    whole, _ = read(Source(lambda: ReplayedFeed(played)), {}, 1000)
    times = [json.loads(v)["event_time"] for v in whole["_value"] if v != b"not json"]
    assert times == sorted(times)
    assert whole["_timestamp"].max() == at(N - 1).replace(second=30)


def test_a_speed_makes_records_due_by_their_distance(played):
    feed = ReplayedFeed(played, speed=3600 * 20.0)  # 20 records a second
    feed.open(dict)
    began, n = time.monotonic(), 0
    while n < 12:
        n += feed.poll(1000, 0.05).records.height
    assert time.monotonic() - began >= 0.45
    assert not feed.is_caught_up()
