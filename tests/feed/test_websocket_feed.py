"""A socket that drops, repeats, reorders, skips and falls silent: each number lands once or is
said to be lost, by the ledger of the server."""

import json
import random
import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import rows_of
from socket_server import DROP, SILENCE, STALL, Server, message

from tasks.core.errors import FeedError
from tasks.edges.feeds.websocket.feed import WebsocketFeed, WebsocketParams
from tasks.feed.land import LandingBuffer, open_table, run_landing
from tasks.feed.params import FeedParams

PARAMS = FeedParams.model_validate(
    {
        "source": {"kind": "websocket", "url": "ws://x"},
        "fields": {"x": {}, "n": {"type": "int"}},
        "sync": False,
        "dedupe": False,
        "commit_every_s": 0.05,
        "lateness_s": 1e9,
    }
)


def feed_of(server, report_lost=lambda _: None, **how):
    quick = {
        "log": "x",
        "sequence_field": "n",
        "reorder_s": 0.05,
        "heartbeat_s": 0.2,
        "silent_s": 1.0,
        "reconnect_max_s": 0.2,
    }
    params = WebsocketParams(kind="websocket", url=server.url, **{**quick, **how})
    return WebsocketFeed(params, report_lost=report_lost)


def land(feed, folder, until, within_s=20.0):
    """(landed messages, lost ranges) once the mark is at *until*."""
    table = open_table(folder, PARAMS)
    landing, end = LandingBuffer(table, PARAMS, None, feed), time.monotonic() + within_s

    def stop():
        assert time.monotonic() < end, (landing.begins, feed.compute_lag())
        return landing.begins.get("websocket:x", 0) >= until

    run_landing(landing, feed, until_caught_up=False, stop=stop)
    feed.close()
    return told(table)


def told(table):
    """(numbers of the rows in order of their offsets, numbers that are said to be lost)."""
    rows = rows_of(table)
    landed = rows.filter(rows["disposition"] == "row")
    assert landed["n"].to_list() == landed["_offset"].to_list()
    assert landed["x"].to_list() == landed["n"].to_list()
    ranges = [
        map(int, re.findall(r"\d+", said)) for said in rows.filter(rows["disposition"] == "lost")["_detail"]
    ]
    assert set(rows["disposition"]) <= {"row", "lost"}
    return landed["n"].to_list(), [number for first, last in ranges for number in range(first, last + 1)]


def test_repeats_are_dropped_and_what_is_out_of_order_is_put_in_order(tmp_path):
    with Server([0, 1, 1, 0, 3, 2, 2, 5, 4, 3, 6]) as server:
        assert land(feed_of(server, begin_at=0), tmp_path / "t", 7) == (list(range(7)), [])
        assert not server.asked


def test_a_gap_is_fetched_page_by_page_and_what_rest_does_not_have_is_said_to_be_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.edges.feeds.websocket.sequencer.REQUEST_PAUSE_S", 0.02)
    lost = []
    with Server([0, 1, DROP], [40, 41], rest=set(range(45)) - {7, 8, 30}) as server:
        found = land(
            feed_of(server, lost.append, begin_at=0, backfill_url=server.backfill_url),
            tmp_path / "t",
            42,
        )
    assert found == ([n for n in range(42) if n not in {7, 8, 30}], [7, 8, 30])
    assert [(one["first"], one["last"], one["n"]) for one in lost] == [(7, 8, 2), (30, 30, 1)]


def test_without_rest_a_gap_is_said_to_be_lost(tmp_path):
    with Server([0, 1, DROP], [5, 9]) as server:
        assert land(feed_of(server, begin_at=0), tmp_path / "t", 10) == ([0, 1, 5, 9], [2, 3, 4, 6, 7, 8])


def test_a_rest_that_gives_something_else_than_asked_for_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.edges.feeds.websocket.sequencer.REQUEST_PAUSE_S", 0.02)
    with Server([0, 5], rest=range(9), listens=False) as server:
        assert land(feed_of(server, begin_at=0, backfill_url=server.backfill_url), tmp_path / "t", 6) == (
            [0, 5],
            [1, 2, 3, 4],
        )
        assert server.asked == [(1, 4)] * 3


def test_a_rest_that_is_down_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.edges.feeds.websocket.sequencer.REQUEST_PAUSE_S", 0.02)
    with Server([0, 5], rest=range(6), faults=[503, 429, 500, 503, 500]) as server:
        found = land(feed_of(server, begin_at=0, backfill_url=server.backfill_url), tmp_path / "t", 6)
        assert len(server.asked) == 6
    assert found == (list(range(6)), [])


@pytest.mark.parametrize("fault", [DROP, SILENCE, STALL])
def test_a_connection_that_ends_or_falls_silent_or_answers_no_ping_is_made_anew(tmp_path, fault):
    """silent_s is long where pings alone must find it."""
    with Server([0, 1, fault], [2, 3]) as server:
        began = time.monotonic()
        assert land(
            feed_of(server, begin_at=0, silent_s=0.5 if fault == SILENCE else 30.0), tmp_path / "t", 4
        ) == ([0, 1, 2, 3], [])
        assert time.monotonic() - began < 5
        assert server.n_connections == 2


def test_a_start_after_a_kill_fetches_from_the_tables_mark(tmp_path):
    """Polled and not committed when it ended: REST has it."""
    with Server([0, 1, 2], [9], rest=range(10)) as server:
        assert land(feed_of(server, begin_at=0), tmp_path / "t", 3) == ([0, 1, 2], [])
        killed = feed_of(server, backfill_url=server.backfill_url)
        killed.open(lambda: {"websocket:x": 3})
        until = time.monotonic() + 5
        while killed.poll(100, 0.05).records.is_empty():
            assert time.monotonic() < until
        killed.close()
        assert land(feed_of(server, backfill_url=server.backfill_url), tmp_path / "t", 10) == (
            list(range(10)),
            [],
        )


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), missing=st.sets(st.integers(0, 29), max_size=8), has_rest=st.booleans())
def test_whatever_the_socket_does_each_number_is_there_once_or_said_to_be_lost(
    tmp_path_factory, seed, missing, has_rest
):
    """Up to four connections, which send parts of 0 to 29 shuffled within reach, some twice,
    some not at all; REST lacks *missing*."""
    rng = random.Random(seed)
    cuts = sorted({0, 30, *(rng.randrange(30) for _ in range(3))})
    scripts = []
    for first, end in pairwise(cuts):
        part = [n for n in range(max(first - 3, 0), end) if rng.random() < 0.85 or n == 29]
        part = sorted([*part, *(n for n in part if rng.random() < 0.2)], key=lambda n: n + rng.uniform(0, 3))
        scripts.append([*part, *(["{", '{"n": null}', "[]"] if rng.random() < 0.5 else []), DROP])
    scripts[-1].pop()
    with Server(*scripts, rest=set(range(30)) - missing) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.edges.feeds.websocket.sequencer.REQUEST_PAUSE_S", 0.01)
        patch.setattr("tasks.edges.feeds.websocket.connection._FIRST_PAUSE_S", 0.01)
        feed = feed_of(server, begin_at=0, backfill_url=server.backfill_url if has_rest else None)
        landed, lost = land(feed, tmp_path_factory.mktemp("t") / "t", 30)
    assert sorted(landed + lost) == list(range(30))
    assert not has_rest or set(lost) <= missing


def test_without_numbers_the_time_without_a_connection_is_said_to_be_lost(tmp_path):
    with Server([*(json.dumps(message(n)) for n in range(3)), DROP], [3, 4, SILENCE]) as server:
        feed, table = feed_of(server, sequence_field=None), open_table(tmp_path / "t", PARAMS)
        until = time.monotonic() + 10
        run_landing(
            LandingBuffer(table, PARAMS, None, feed),
            feed,
            until_caught_up=False,
            stop=lambda: len(rows_of(table)) >= 6 or time.monotonic() > until,
        )
        feed.close()
        rows = rows_of(table)
        assert rows["n"].to_list() == [0, 1, 2, None, 3, 4]
        assert rows["_rule"].to_list() == [None] * 3 + ["lost"] + [None] * 2
        assert rows["_offset"].is_sorted()
        again = feed_of(server, sequence_field=None)
        again.open(table.list_offsets)
        value = again.poll(1, 5.0).records["_value"][0]
        again.close()
    assert b"without a connection" in value


def test_records_may_lie_in_a_field_and_in_lists(tmp_path):
    with Server(
        [
            '{"event": "subscribed"}',
            json.dumps({"data": [message(0), message(1)]}),
            json.dumps({"data": {**message(2), "n": "2"}}),
            SILENCE,
        ]
    ) as server:
        feed = feed_of(server, begin_at=0, records_field="data", subscribe=["please"])
        feed.open(dict)
        values, until = [], time.monotonic() + 5
        while len(values) < 3 and time.monotonic() < until:
            values += feed.poll(10, 0.05).records["_value"].to_list()
        assert [json.loads(value)["x"] for value in values] == [0, 1, 2]
        assert server.received == ["please"]
        feed.close()


def test_numbers_that_begin_anew_are_refused(tmp_path):
    with Server([step for n in range(60) for step in (n % 40, 0.02)]) as server:
        feed = feed_of(server, silent_s=0.5, heartbeat_s=0.1)
        feed.open(lambda: {"websocket:x": 50})
        with pytest.raises(FeedError, match="begun to count again"):
            feed.poll(10, 5.0)
        feed.close()


def test_a_full_buffer_stops_reading_and_nothing_is_lost(tmp_path):
    """A gap that REST fills late; what lies beyond it is more than may wait."""
    with (
        Server([0, *range(2, 400)], rest=range(400), faults=[503] * 3) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("tasks.edges.feeds.websocket.sequencer.REQUEST_PAUSE_S", 0.1)
        feed = feed_of(server, begin_at=0, backfill_url=server.backfill_url)
        feed._buffer_bytes = 2_000
        seen = []
        table = open_table(tmp_path / "t", PARAMS)
        landing = LandingBuffer(table, PARAMS, None, feed)
        run_landing(
            landing,
            feed,
            until_caught_up=False,
            on_poll=lambda _: seen.append(feed._sequencer.n_waiting_bytes),
            stop=lambda: landing.begins.get("websocket:x", 0) >= 400,
        )
        feed.close()
    assert max(seen) < 2_000 + 200
    assert told(table) == (list(range(400)), [])


def test_a_server_that_goes_away_is_said_once_and_one_that_is_not_there_is_refused_without_the_secret():
    said = []
    with Server([0]) as server:
        secret = f"{server.url}?key=secret"
        params = WebsocketParams(kind="websocket", url=secret, log="x")
        feed = WebsocketFeed(params.model_copy(update={"reconnect_max_s": 0.1}), said.append)
        feed.open(dict)
        assert feed.poll(1, 1.0).records.height == 1
    feed.poll(1, 1.0)
    feed.close()
    assert len(said) == 1
    with pytest.raises(FeedError, match="no connection") as caught:
        WebsocketFeed(params)
    assert "secret" not in said[0] + str(caught.value)


def test_a_drain_ends_when_what_came_before_the_first_message_has_landed_or_nothing_comes(tmp_path):
    table = open_table(tmp_path / "t", PARAMS)
    for script, n_landed in (([], 0), ([7], 8), ([], 8)):
        with Server(script, rest=range(8)) as server:
            feed = feed_of(server, begin_at=0, backfill_url=server.backfill_url, silent_s=0.2)
            run_landing(LandingBuffer(table, PARAMS, None, feed), feed, until_caught_up=True)
            feed.close()
        assert told(table) == (list(range(n_landed)), [])
