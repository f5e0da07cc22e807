"""Sources that a feed reads, one file each; FEEDS names them."""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from tasks.core.errors import FeedError

if TYPE_CHECKING:
    from tasks.edges.feeds.base import RecordSource

# Kind -> class; its module is imported when the kind is asked for, so that a feed pays for no other
FEEDS = {
    "kafka": "tasks.edges.feeds.kafka:KafkaFeed",
    "files": "tasks.edges.feeds.files:FilesFeed",
    "database": "tasks.edges.feeds.database:DatabaseFeed",
    "websocket": "tasks.edges.feeds.websocket.feed:WebsocketFeed",
    "exchange": "tasks.edges.feeds.exchange:ExchangeFeed",
}


def get_feed_class(kind: str) -> "type[RecordSource]":
    """The class of the sources of *kind*. Raises FeedError with the known kinds."""
    if kind not in FEEDS:
        near = difflib.get_close_matches(kind, FEEDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise FeedError(
            f"No feed source {kind!r}{hint}; there are {', '.join(FEEDS)}. Correct `feed.source.kind` in"
            " params.yaml, or write a source (docs/how-to/add-a-feed-source.md)."
        )
    module, _, name = FEEDS[kind].partition(":")
    found: type[RecordSource] = getattr(import_module(module), name)
    return found
