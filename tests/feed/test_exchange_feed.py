"""Bars of an exchange through ccxt itself, against its REST on this machine: closed ones alone,
each once, and what it does not give any more is said to be lost."""

import json
import time
from datetime import UTC, datetime

import pytest
from exchange_server import Exchange
from landed import rows_of

from tasks.core.errors import FeedError
from tasks.edges.feeds.exchange import ExchangeFeed, ExchangeParams
from tasks.feed.land import LandingBuffer, open_table, run_landing
from tasks.feed.params import FeedParams

VALUES = ("open", "high", "low", "close", "volume")
PARAMS = FeedParams.model_validate(
    {
        "source": {"kind": "exchange", "exchange": "bitstamp", "symbols": ["BTC/USD"], "timeframe": "1m"},
        "fields": {name: {} for name in VALUES},
        "sync": False,
        "dedupe": False,
        "commit_every_s": 0.05,
        "lateness_s": 1e9,
    }
)
MINUTE = int(time.time()) // 60
FIRST = MINUTE - 2_000


def minutes(*spans):
    return [60 * (FIRST + m) for begin, end in spans for m in range(begin, end)]


def params_of(**how):
    named = {"kind": "exchange", "exchange": "bitstamp", "symbols": ["BTC/USD"], "timeframe": "1m"}
    return ExchangeParams(**{**named, **how})


def feed_of(exchange, *symbols, report_down=lambda _: None, report_lost=lambda _: None, **how):
    begin = datetime.fromtimestamp(60 * FIRST, UTC)
    quick = {"since": begin, "settle_s": 0.0, "every_s": 0.02, **how}
    params = params_of(symbols=symbols or ("BTC/USD",), **quick)
    return ExchangeFeed(params, exchange.options, report_down, report_lost)


def land(exchange, folder, *symbols, **how):
    """The table after a drain."""
    feed, table = feed_of(exchange, *symbols, **how), open_table(folder, PARAMS)
    run_landing(LandingBuffer(table, PARAMS, None, feed), feed, until_caught_up=True)
    feed.close()
    return rows_of(table)


def landed(rows, symbol="BTC/USD"):
    """Minutes since FIRST of its rows; each at its own time and with its own values."""
    rows = rows.filter((rows["series_id"] == symbol) & (rows["disposition"] == "row"))
    assert (rows["event_time"].dt.epoch("s") // 60).to_list() == rows["close"].to_list()
    return [int(close) - FIRST for close in rows["close"]]


def test_closed_bars_of_several_symbols_land_once_over_holes_and_pages(tmp_path):
    """The second symbol begins late and has a hole of more than a page; a bar is open until its
    minute is over."""
    spans = {"btcusd": [(0, 2_050)], "ethusd": [(700, 720), (1_400, 2_050)]}
    with Exchange({market: minutes(*of) for market, of in spans.items()}) as exchange:
        rows = land(exchange, tmp_path / "t", "BTC/USD", "ETH/USD")
        until = int(time.time()) // 60 - FIRST
        btc, eth = landed(rows), landed(rows, "ETH/USD")
        assert btc == list(range(btc[-1] + 1))
        assert eth == [*range(700, 720), *range(1_400, eth[-1] + 1)]
        assert {btc[-1], eth[-1]} <= {until - 1, until - 2}
        again = landed(land(exchange, tmp_path / "t", "BTC/USD", "ETH/USD"))
        assert again == list(range(again[-1] + 1))


def test_what_the_exchange_does_not_give_any_more_is_said_to_be_lost(tmp_path):
    lost = []
    with Exchange({"btcusd": minutes((0, 10))}) as exchange:
        assert landed(land(exchange, tmp_path / "t")) == list(range(10))
    with Exchange({"btcusd": minutes((0, 60))}, forgets=minutes((20, 21))[0]) as exchange:
        rows = land(exchange, tmp_path / "t", report_lost=lost.append)
        assert landed(rows) == [*range(10), *range(20, 60)]
        assert land(exchange, tmp_path / "t", report_lost=lost.append).equals(rows)
    assert rows["_rule"].drop_nulls().to_list() == ["lost"]
    assert len(lost) == 1


def test_what_is_forgotten_between_two_polls_is_said_to_be_lost_even_one_record_a_poll():
    with Exchange({"btcusd": minutes((0, 60))}) as exchange:
        feed, offsets = feed_of(exchange), []
        feed.open(dict)
        assert [feed.poll(n, 0.0).records.height for n in (3, 3)] == [3, 2]
        exchange.forgets = minutes((20, 21))[0]
        while len(offsets) < 3:
            offsets += feed.poll(1, 0.0).records["_offset"].to_list()
        feed.close()
    assert offsets == [60_000 * (FIRST + 4) + 1, 60_000 * (FIRST + 20), 60_000 * (FIRST + 21)]


def test_an_exchange_that_is_overloaded_is_asked_again_and_that_is_said_once(tmp_path):
    said = []
    with Exchange({"btcusd": minutes((0, 10))}, faults=[503, 502]) as exchange:
        assert landed(land(exchange, tmp_path / "t", report_down=said.append)) == list(range(10))
    assert len(said) == 1


@pytest.mark.parametrize(
    ("how", "options", "said"),
    [
        ({"exchange": "nowhere"}, None, "knows no exchange"),
        ({"symbols": ["XRP/USD"]}, None, "has no XRP/USD"),
        ({"timeframe": "7m"}, None, "has no bars of 7m"),
        ({}, {"urls": {"api": {"public": "http://127.0.0.1:9"}}}, "does not answer"),
    ],
)
def test_what_is_not_known_is_said_at_the_start(how, options, said):
    with Exchange({}) as exchange, pytest.raises(FeedError, match=said):
        ExchangeFeed(params_of(**how), options or exchange.options)


def test_a_bar_is_given_when_it_has_closed_and_settled():
    minute = int(time.time()) // 60  # of this test: a suite may have begun long before
    bars = [60 * m for m in range(minute - 10, minute + 10)]
    with Exchange({"btcusd": bars}) as exchange:
        feed = feed_of(exchange, since=datetime.fromtimestamp(60 * (minute - 3), UTC), settle_s=60.0)
        feed.open(dict)
        records = feed.poll(10, 0.0).records
        feed.close()
    ends = [json.loads(value)["close"] * 60 + 60 for value in records["_value"]]
    assert ends
    assert max(ends) <= time.time() - 60 < max(ends) + 60
