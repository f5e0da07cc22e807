"""A table that is polled: whatever the order in which rows become visible, each is read once,
and none is lost while its transaction keeps to settle_s."""

import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import rows_of
from lives import until
from postgres import postgres
from sqlalchemy import create_engine, text

from tasks.core.errors import FeedError
from tasks.edges.delta import open_existing_table
from tasks.edges.feeds import database
from tasks.edges.feeds.database import DatabaseFeed, DatabaseParams
from tasks.feed.land import LandingBuffer, open_table, run_landing
from tasks.feed.params import FeedParams

SOURCE = {"kind": "database", "table": "bars"}
MAKE = (
    "create table bars (id bigint primary key, series_id text, event_time timestamp, price double precision,"
    " updated_at timestamp)"
)
PUT = text("insert into bars values (:id, 'a', :at, :price, :updated_at)")
NOW = 1_700_000_000.0
START = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS = ("series_id", "event_time", "price")


def row(number, updated_at=None):
    return {
        "id": number,
        "at": (START + timedelta(minutes=number)).replace(tzinfo=None),
        "price": float(number),
        "updated_at": updated_at and updated_at.replace(tzinfo=None),
    }


def params_of(**more):
    return FeedParams.model_validate(
        {"source": SOURCE, "fields": {"price": {}}, "sync": False, "dedupe": False, "lateness_s": 1e9, **more}
    )


@pytest.fixture(scope="module")
def server():
    with postgres() as running:
        yield running


@contextmanager
def table_in(url, make=MAKE):
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("drop table if exists bars"))
        connection.execute(text(make))
    try:
        yield engine
    finally:
        engine.dispose()


def feed_of(url, report_down=lambda _: None, **how):
    """A feed of the table `bars`, or of another."""
    return DatabaseFeed(url, DatabaseParams(kind="database", **{"table": "bars", **how}), report_down)


class Clock:
    """A clock that a test sets, for `time` of the module."""

    def __init__(self):
        self.now = NOW

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def poll_all(feed, n=3):
    """Offsets and prices of what can be read now."""
    found = []
    while (polled := feed.poll(n, 1.0).records).height:
        assert polled.height <= n
        found += [
            (offset, json.loads(value)["price"])
            for offset, value in zip(polled["_offset"], polled["_value"], strict=True)
        ]
    return found


def put(engine, *rows):
    with engine.begin() as connection:
        connection.execute(PUT, list(rows))


def lives(url, patch, events, n_turns, ends, **how):
    """Offsets that were committed, of a feed that polls twice a second while *events* (when,
    what) happen, and is killed before the turns *ends*."""
    clock, feed, found, marks = Clock(), None, [], {}
    patch.setattr(database, "time", clock)
    patch.setattr(DatabaseFeed, "_fetch_now", lambda self, _: clock.now)
    waiting = sorted(events, key=lambda event: event[0])
    for turn in range(n_turns):
        clock.now = NOW + turn * 0.5
        if feed is None or turn in ends:
            feed = feed_of(url, settle_s=5.0, every_s=0.01, **how)
            feed.open(partial(dict, marks))
        while waiting and waiting[0][0] <= turn * 0.5:
            waiting.pop(0)[1]()
        polled = feed.poll(3, 0.0)
        if turn + 1 not in ends:  # else it was polled and never committed
            found += [
                (offset, json.loads(value)["price"])
                for offset, value in zip(polled.records["_offset"], polled.records["_value"], strict=True)
            ]
            marks |= polled.ends
    clock.now += 30.0
    found += poll_all(feed)
    assert feed.is_caught_up()
    feed.close()
    return found


@settings(max_examples=10, deadline=None)
@given(
    delays=st.lists(st.one_of(st.none(), st.floats(0, 4.4)), min_size=1, max_size=20),
    ends=st.sets(st.integers(1, 39), max_size=4),
)
def test_rows_by_id_that_become_visible_in_any_order_are_each_read_once_in_the_order_of_ids(
    tmp_path_factory, delays, ends
):
    """Each id becomes visible less than settle_s after its turn, or never; the process is killed
    anywhere and begins again at what was committed."""
    url = f"sqlite:///{tmp_path_factory.mktemp('db')}/x.db"
    with table_in(url) as engine, pytest.MonkeyPatch.context() as patch:
        events = [
            (n * 0.5 + delay, partial(put, engine, row(n)))
            for n, delay in enumerate(delays)
            if delay is not None
        ]
        found = lives(url, patch, events, 40, ends)
    assert found == [(n, float(n)) for n, delay in enumerate(delays) if delay is not None]


@settings(max_examples=10, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 20), st.floats(0, 4.4)), min_size=1, max_size=20
    ),
    ends=st.sets(st.integers(1, 39), max_size=4),
)
def test_rows_by_time_are_read_at_each_change_that_stood_long_enough_and_the_last_of_each_is_never_lost(
    tmp_path_factory, changes, ends
):
    """A change is stamped, and becomes visible less than settle_s later; whole seconds of them
    share a time."""
    url = f"sqlite:///{tmp_path_factory.mktemp('db')}/x.db"
    stands = {}

    def change(engine, number, second, nth):
        stamp = datetime.fromtimestamp(NOW + second, UTC)
        with engine.begin() as connection:
            # A row that is locked waits, and is stamped later
            if number not in stands or stands[number][0] <= second:
                connection.execute(text("delete from bars where id = :id"), {"id": number})
                connection.execute(PUT, {**row(number, stamp), "price": float(nth)})
                stands[number] = (second, float(nth))

    with table_in(url) as engine, pytest.MonkeyPatch.context() as patch:
        events = [
            (second * 0.5 + delay, partial(change, engine, number, second // 2, nth))
            for nth, (number, second, delay) in enumerate(changes)
        ]
        found = lives(url, patch, events, 40, ends, updated_at="updated_at")
    assert [offset for offset, _ in found] == sorted({offset for offset, _ in found})
    assert {(offset & (1 << 31) - 1): price for offset, price in found} == {
        number: price for number, (_, price) in stands.items()
    }
    assert all(offset >> 31 >= NOW for offset, _ in found)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    return (
        f"sqlite:///{tmp_path}/x.db" if request.param == "sqlite" else request.getfixturevalue("server").url
    )


def landed(url, folder, **how):
    """The prices of the table after one drain of the feed, as a process of its own would do it."""
    feed = feed_of(url, columns=COLUMNS, **{"settle_s": 0.2, "every_s": 0.02, **how})
    table = open_table(folder, params_of())
    run_landing(LandingBuffer(table, params_of(), None, feed), feed, until_caught_up=True)
    feed.close()
    return rows_of(table)["price"].to_list()


def test_a_table_with_holes_is_drained_and_a_second_drain_brings_only_what_came_since(url, tmp_path):
    with table_in(url) as engine:
        put(engine, *(row(n) for n in (1, 2, 5, 9)))
        assert landed(url, tmp_path / "table") == [1, 2, 5, 9]
        put(engine, *(row(n) for n in (12, 10)))
        assert landed(url, tmp_path / "table") == [1, 2, 5, 9, 10, 12]
        assert landed(url, tmp_path / "table") == [1, 2, 5, 9, 10, 12]


def test_a_changed_row_of_a_table_by_time_lands_again_and_no_other(url, tmp_path):
    with table_in(url) as engine:
        old = datetime(2024, 5, 1, tzinfo=UTC)
        put(engine, *(row(n, old) for n in (3, 1, 2)), row(4, old - timedelta(days=1)))
        assert landed(url, tmp_path / "table", updated_at="updated_at") == [4, 1, 2, 3]
        with engine.begin() as connection:
            connection.execute(
                text("update bars set price = 20, updated_at = :at where id = 2"),
                {"at": "2024-05-01 00:00:01.5"},
            )
        assert landed(url, tmp_path / "table", updated_at="updated_at") == [4, 1, 2, 3, 20]


def test_a_transaction_that_commits_after_a_later_one_is_waited_for(server):
    """Two of them open at once in PostgreSQL; the one with the smaller id commits last."""
    with table_in(
        server.url, MAKE.replace("bigint primary key", "bigint generated by default as identity primary key")
    ) as engine:
        insert = text("insert into bars (series_id, price) values ('a', :price) returning id")
        feed = feed_of(server.url, settle_s=30.0, every_s=0.01)
        feed.open(dict)
        with engine.begin() as connection:
            assert connection.execute(insert, {"price": 1}).scalar() == 1
        feed._next = 1  # as after the first settling
        with engine.connect() as first, engine.connect() as second:
            assert first.execute(insert, {"price": 2}).scalar() == 2
            assert second.execute(insert, {"price": 3}).scalar() == 3
            second.commit()
            assert poll_all(feed) == [(1, 1.0)]
            assert not feed.is_caught_up()
            first.commit()
        assert poll_all(feed) == [(2, 2.0), (3, 3.0)]
        assert feed.is_caught_up()
        feed.close()


def test_a_server_that_goes_and_comes_back_costs_no_row_and_doubles_none(server, tmp_path):
    """Rows are put in while it is there; the landing goes on by itself and says once that it
    waits."""
    with table_in(server.url) as engine:
        put(engine, *(row(n) for n in range(100)))
        said, stop = [], threading.Event()
        feed = feed_of(server.url, said.append, columns=COLUMNS, settle_s=0.1, every_s=0.02)
        table = open_table(tmp_path / "table", params_of(commit_every_s=0.05))
        landing = LandingBuffer(table, params_of(commit_every_s=0.05), None, feed)
        running = threading.Thread(
            target=run_landing, args=(landing, feed), kwargs={"until_caught_up": False, "stop": stop.is_set}
        )
        running.start()
        time.sleep(0.3)
        server.stop()
        time.sleep(0.3)
        server.start()
        put(engine_again := create_engine(server.url), *(row(n) for n in range(100, 150)))
        engine_again.dispose()
        until(lambda: len(rows_of(open_existing_table(tmp_path / "table"))) == 150)
        stop.set()
        running.join()
        feed.close()
    assert rows_of(table)["price"].to_list() == [float(n) for n in range(150)]
    assert len(said) == 1
    assert "bars" in said[0]


def test_a_table_that_was_made_anew_under_its_name_is_refused(url, tmp_path):
    with table_in(url) as engine:
        put(engine, *(row(n) for n in range(5)))
        landed(url, tmp_path / "table")
    with table_in(url) as engine:
        put(engine, row(0), row(1))
        with pytest.raises(FeedError, match=r"ids up to 1, but 4 was read before"):
            landed(url, tmp_path / "table")


def test_a_view_in_a_schema_is_a_table(server):
    with table_in(server.url) as engine:
        put(engine, *(row(n) for n in range(6)))
        with engine.begin() as connection:
            connection.execute(text("create schema other"))
            connection.execute(
                text("create view other.dear as select id, event_time, price from bars where price >= 3")
            )
        feed = feed_of(server.url, table="other.dear", produced_at="event_time", settle_s=0.0, every_s=0.01)
        feed.open(dict)
        assert not poll_all(feed)  # the first id is not settled yet
        found = poll_all(feed)
        feed.close()
        with engine.begin() as connection:
            connection.execute(text("drop schema other cascade"))
    assert found == [(3, 3.0), (4, 4.0), (5, 5.0)]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"table": "none"}, "There is no none"),
        ({"id": "x"}, "has no column 'x'; it has id, series_id"),
        ({"updated_at": "price"}, "not a column of times"),
        ({"url": "sqlite:////nowhere/x.db"}, "does not answer"),
        ({"url": "secret"}, "no address"),
        ({"url": "oracle://u:secret@x/y"}, "no address"),
        ({"url": "postgresql+psycopg://u:secret@127.0.0.1:1/x"}, "does not answer"),
    ],
)
def test_what_cannot_be_read_is_said_at_the_start_and_no_password_with_it(tmp_path, how, said):
    url = f"sqlite:///{tmp_path}/x.db"
    with table_in(url), pytest.raises(FeedError, match=said) as caught:
        feed_of(**{"url": url, **how})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("number", "how"), [(-1, {}), (1 << 31, {"updated_at": "updated_at"})])
def test_an_id_that_fits_into_no_offset_is_refused(tmp_path, number, how):
    url = f"sqlite:///{tmp_path}/x.db"
    with table_in(url) as engine:
        put(engine, row(number, START))
        feed = feed_of(url, settle_s=0.0, **how)
        feed.open(dict)
        with pytest.raises(FeedError, match=r"must be a whole number from 0"):
            feed.poll(10, 0.0)


def test_times_decimals_bytes_and_flags_become_json(server):
    make = (
        "create table bars (id int primary key, at timestamptz, day date, price numeric(20, 4), raw bytea,"
        " flag boolean, note jsonb, no_number float)"
    )
    with table_in(server.url, make) as engine:
        with engine.begin() as connection:
            connection.execute(
                text(
                    "insert into bars values (0, '2024-01-01 12:00+02', '2024-01-02', 1.25, '\\x00ff', true,"
                    " '{\"a\": 1}', null), (1, '2024-01-01', null, null, null, null, null, 'NaN')"
                )
            )
        feed = feed_of(server.url, produced_at="at")
        feed.open(dict)
        records = feed.poll(10, 0.0).records
        feed.close()
    expected = {
        "id": 0,
        "at": "2024-01-01T10:00:00Z",
        "day": "2024-01-02",
        "price": 1.25,
        "raw": "0x00ff",
        "flag": True,
        "note": {"a": 1},
        "no_number": None,
    }
    assert json.loads(records["_value"][0]) == expected
    assert b"NaN" in records["_value"][1]  # no JSON, so it is quarantined, and no null
    assert records["_timestamp"][0] == datetime(2024, 1, 1, 10, tzinfo=UTC)
