"""Which feed the parameters name.

Each keeps to the same protocol; what they need is imported only where it is used.
"""

from pathlib import Path

from tasks.core.about import About
from tasks.core.errors import FeedError
from tasks.core.records import Feed
from tasks.edges.settings import ROOT, read_settings, resolve_placeholders
from tasks.feed.events import EventReporter
from tasks.feed.params import (
    DatabaseSource,
    ExchangeSource,
    FeedParams,
    KafkaSource,
    ReplayedFilesSource,
    WebsocketSource,
)


def build_feed(
    params: FeedParams, dataset: str, about: About, raise_: EventReporter, root: Path = ROOT
) -> Feed:
    """The source that *params* names. raise_: how it raises an event.

    Raises FeedError when it is not there.
    """
    source = params.source
    if isinstance(source, KafkaSource):
        return _build_kafka_feed(source, dataset, raise_)
    if isinstance(source, DatabaseSource):
        return _build_database_feed(source, raise_)
    if isinstance(source, WebsocketSource):
        return _build_websocket_feed(source, raise_)
    if isinstance(source, ExchangeSource):
        return _build_exchange_feed(source, raise_)
    return _build_files_feed(source, params, about, root)


def _build_database_feed(source: DatabaseSource, raise_: EventReporter) -> Feed:
    from tasks.edges.feeds.database import DatabaseFeed

    if not (url := read_settings().feed_database):
        raise FeedError(
            "`feed.source` is a database, and nothing says where it is. Set TIDEMILL_FEED_DATABASE"
            " (postgresql+psycopg://USER:PASSWORD@HOST/NAME)."
        )
    return DatabaseFeed(
        url, **source.model_dump(exclude={"kind"}), told=lambda why: raise_("source_down", message=why)
    )


def _build_kafka_feed(source: KafkaSource, dataset: str, raise_: EventReporter) -> Feed:
    from tasks.edges.feeds.kafka import KafkaFeed

    s = read_settings()
    return KafkaFeed(
        s.kafka_address,
        source.topic,
        source.group or f"tidemill-{dataset}-{source.topic}",
        s.feed_member,
        s.kafka_options,
        lambda why: raise_("source_down", message=why),
    )


def _build_websocket_feed(source: WebsocketSource, raise_: EventReporter) -> Feed:
    from tasks.edges.feeds.websocket import WebsocketFeed

    return WebsocketFeed(
        **{
            **source.model_dump(exclude={"kind"}),
            "log": source.log or source.url.partition("?")[0],
            "url": resolve_placeholders(source.url),
            "subscribe": tuple(map(resolve_placeholders, source.subscribe)),
            "headers": {name: resolve_placeholders(value) for name, value in source.headers.items()},
            "backfill_url": source.backfill_url and resolve_placeholders(source.backfill_url),
        },
        told=lambda why: raise_("source_down", message=why),
        lost=lambda facts: raise_("records_lost", **facts),
    )


def _build_exchange_feed(source: ExchangeSource, raise_: EventReporter) -> Feed:
    from tasks.edges.feeds.exchange import ExchangeFeed

    return ExchangeFeed(
        **source.model_dump(exclude={"kind"}),
        options=read_settings().feed_exchange,
        told=lambda why: raise_("source_down", message=why),
        lost=lambda facts: raise_("records_lost", **facts),
    )


def _build_files_feed(source: ReplayedFilesSource, params: FeedParams, about: About, root: Path) -> Feed:
    from tasks.edges.feeds.played import ReplayedFeed
    from tasks.feed.played import build_replayed_feed, read_replayed_lines

    if source.path is not None:
        played = read_replayed_lines(root / Path(source.path).expanduser(), params, about)
    else:
        played = build_replayed_feed(str(source.dataset), params, root=root)
    return ReplayedFeed(played, None if source.speed == "max" else source.speed)
