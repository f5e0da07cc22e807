"""Which feed the parameters name. Each keeps to the same protocol; what they need is imported only where it is used."""

from pathlib import Path

from tasks.core.about import About
from tasks.core.errors import FeedError
from tasks.core.records import Feed
from tasks.edges.settings import ROOT, filled, settings
from tasks.feed.events import Raise
from tasks.feed.params import DatabaseSource, ExchangeSource, FeedParams, FilesSource, KafkaSource, WebsocketSource


def build_feed(params: FeedParams, dataset: str, about: About, raise_: Raise, root: Path = ROOT) -> Feed:
    """The source that *params* names. raise_: how it raises an event. Raises FeedError when it is not there."""
    source = params.source
    if isinstance(source, KafkaSource):
        return _kafka(source, dataset, raise_)
    if isinstance(source, DatabaseSource):
        return _database(source, raise_)
    if isinstance(source, WebsocketSource):
        return _websocket(source, raise_)
    if isinstance(source, ExchangeSource):
        return _exchange(source, raise_)
    return _files(source, params, about, root)


def _database(source: DatabaseSource, raise_: Raise) -> Feed:
    from tasks.edges.feeds.database import DatabaseFeed  # noqa: PLC0415

    if not (url := settings().feed_database):
        raise FeedError(
            "`feed.source` is a database, and nothing says where it is. Set TIDEMILL_FEED_DATABASE (postgresql+psycopg://USER:PASSWORD@HOST/NAME)."
        )
    return DatabaseFeed(url, **source.model_dump(exclude={"kind"}), told=lambda why: raise_("source_down", said=why))


def _kafka(source: KafkaSource, dataset: str, raise_: Raise) -> Feed:
    from tasks.edges.feeds.kafka import KafkaFeed  # noqa: PLC0415

    s = settings()
    return KafkaFeed(
        s.kafka_address,
        source.topic,
        source.group or f"tidemill-{dataset}-{source.topic}",
        s.feed_member,
        s.kafka_options,
        lambda why: raise_("source_down", said=why),
    )


def _websocket(source: WebsocketSource, raise_: Raise) -> Feed:
    from tasks.edges.feeds.websocket import WebsocketFeed  # noqa: PLC0415

    return WebsocketFeed(
        **{
            **source.model_dump(exclude={"kind"}),
            "log": source.log or source.url.partition("?")[0],
            "url": filled(source.url),
            "subscribe": tuple(map(filled, source.subscribe)),
            "headers": {name: filled(value) for name, value in source.headers.items()},
            "backfill_url": source.backfill_url and filled(source.backfill_url),
        },
        told=lambda why: raise_("source_down", said=why),
        lost=lambda facts: raise_("records_lost", **facts),
    )


def _exchange(source: ExchangeSource, raise_: Raise) -> Feed:
    from tasks.edges.feeds.exchange import ExchangeFeed  # noqa: PLC0415

    return ExchangeFeed(
        **source.model_dump(exclude={"kind"}),
        options=settings().feed_exchange,
        told=lambda why: raise_("source_down", said=why),
        lost=lambda facts: raise_("records_lost", **facts),
    )


def _files(source: FilesSource, params: FeedParams, about: About, root: Path) -> Feed:
    from tasks.edges.feeds.played import PlayedFeed  # noqa: PLC0415
    from tasks.feed.played import play, play_lines  # noqa: PLC0415

    if source.path is not None:
        played = play_lines(root / Path(source.path).expanduser(), params, about)
    else:
        played = play(str(source.dataset), params, root=root)
    return PlayedFeed(played, None if source.speed == "max" else source.speed)
