"""What the parameters name becomes a feed; secrets come from the environment, and stand in no
mark, event or message."""

import json
import time
from datetime import UTC, datetime
from functools import partial

import pytest
from exchange_server import Exchange
from landed import rows_of
from pydantic import ValidationError
from socket_server import Server
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tasks.core.about import About, Target
from tasks.core.errors import FeedError, SettingsError
from tasks.edges.settings import read_settings
from tasks.feed.events import read_events, report_event
from tasks.feed.land import LandingBuffer, open_table, run_landing
from tasks.feed.params import FeedParams
from tasks.feed.sources import build_source

ABOUT = About(description="sources", every="1m", target=Target(column="x", unit="1"), horizon_steps=1)


@pytest.fixture
def environment(monkeypatch):
    read_settings.cache_clear()
    yield monkeypatch.setenv
    read_settings.cache_clear()


def params_of(fields=None, **source):
    return FeedParams.model_validate(
        {"source": source, "fields": fields or {"x": {}}, "sync": False, "lateness_s": 1e9}
    )


def drained(params, folder):
    feed = build_source(params, "d", ABOUT, partial(report_event, folder))
    table = open_table(folder / "table", params)
    run_landing(LandingBuffer(table, params, None, feed), feed, until_caught_up=True)
    feed.close()
    return rows_of(table)


def test_a_database_lands_and_its_address_comes_from_the_environment(tmp_path, environment):
    params = params_of(
        kind="database",
        table="bars",
        columns=["series_id", "event_time", "x"],
        produced_at="event_time",
        settle_s=0.0,
        every_s=0.01,
    )
    with pytest.raises(FeedError, match="Set TIDEMILL_FEED_DATABASE"):
        drained(params, tmp_path)
    read_settings.cache_clear()
    environment("TIDEMILL_FEED_DATABASE", url := f"sqlite:///{tmp_path}/x.db")
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(
            text("create table bars (id integer primary key, series_id text, event_time timestamp, x real)")
        )
        connection.execute(
            text(
                "insert into bars values (3, 'a', '2024-01-01 00:00:00.000000', 1.5), (7, 'a', '2024-01-01"
                " 00:01:00.000000', 2.5)"
            )
        )
    rows = drained(params, tmp_path)
    assert rows["x"].to_list() == [1.5, 2.5]
    assert rows["_timestamp"].equals(rows["event_time"], check_names=False)
    assert rows["_source"].unique().to_list() == [f"database:sqlite:{tmp_path}/x.db/bars/id"]


def test_a_socket_lands_and_what_it_lost_is_an_event(tmp_path, environment, monkeypatch):
    monkeypatch.setattr("tasks.edges.feeds.websocket.sequencer.REQUEST_PAUSE_S", 0.01)
    with Server([5], rest={0, 1, 2, 4}) as server:
        url, backfill = f"{server.url}?key=${{LIVE_KEY}}", f"{server.backfill_url}&key=${{LIVE_KEY}}"
        params = params_of(
            kind="websocket", url=url, sequence_field="n", begin_at=0, reorder_s=0.0, backfill_url=backfill
        )
        with pytest.raises(SettingsError, match="LIVE_KEY"):
            drained(params, tmp_path)
        environment("LIVE_KEY", "secret")
        rows = drained(params, tmp_path)
        assert rows["_source"].unique().to_list() == [f"websocket:{server.url}"]
    assert rows["n"].to_list() == [0, 1, 2, None, 4, 5]
    events = read_events(tmp_path)
    assert [(one.event, one.facts["first"], one.facts["last"]) for one in events] == [("records_lost", 3, 3)]
    assert "secret" not in str(events) + str(rows.rows())


def test_an_exchange_lands_with_options_from_the_environment(tmp_path, environment):
    minute = int(time.time()) // 60 - 10
    with Exchange({"btcusd": [60 * (minute + i) for i in range(5)]}) as exchange:
        environment("TIDEMILL_FEED_EXCHANGE", json.dumps(exchange.options))
        source = {
            "kind": "exchange",
            "exchange": "bitstamp",
            "symbols": ["BTC/USD"],
            "timeframe": "1m",
            "since": f"{datetime.fromtimestamp(60 * (minute + 2), UTC):%Y-%m-%dT%H:%M:%S}",
        }
        rows = drained(params_of({"close": {}}, **source), tmp_path)
    assert rows["close"].to_list() == [minute + 2, minute + 3, minute + 4]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"kind": "database", "table": "x", "updated_at": "a", "produced_at": "b"}, "Leave out produced_at"),
        (
            {"kind": "websocket", "url": "ws://x", "backfill_url": "http://x/{first}/{last}"},
            "no sequence_field",
        ),
        (
            {
                "kind": "websocket",
                "url": "ws://x",
                "sequence_field": "n",
                "backfill_url": "http://x/${first}/{last}",
            },
            "must hold",
        ),
        ({"kind": "database", "table": "x", "password": "y"}, "Extra inputs"),
    ],
)
def test_a_source_that_cannot_be_is_refused(source, said):
    with pytest.raises(ValidationError, match=said):
        params_of(**source)
