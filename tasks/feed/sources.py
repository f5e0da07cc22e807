"""Which feed the parameters name. Each keeps to the same protocol; what they need is imported only where it is used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.core.about import About
from tasks.core.records import Feed
from tasks.edges.settings import ROOT, settings
from tasks.feed.params import FeedParams, FilesSource, KafkaSource


def build_feed(params: FeedParams, dataset: str, about: About, root: Path = ROOT, away: Callable[[str], Any] = lambda _: None) -> Feed:
    """The source that *params* names. away: told why, when it does not answer later. Raises FeedError when it is not there now."""
    source = params.source
    return _kafka(source, dataset, away) if isinstance(source, KafkaSource) else _files(source, params, about, root)


def _kafka(source: KafkaSource, dataset: str, away: Callable[[str], Any]) -> Feed:
    from tasks.edges.kafka import KafkaFeed  # noqa: PLC0415

    s = settings()
    return KafkaFeed(s.kafka_address, source.topic, source.group or f"tidemill-{dataset}", s.feed_member, s.kafka_options, away)


def _files(source: FilesSource, params: FeedParams, about: About, root: Path) -> Feed:
    from tasks.edges.played import PlayedFeed  # noqa: PLC0415
    from tasks.feed.played import play, play_lines  # noqa: PLC0415

    if source.path is not None:
        played = play_lines(root / Path(source.path).expanduser(), params, about)
    else:
        played = play(str(source.dataset), params, root=root)
    return PlayedFeed(played, None if source.speed == "max" else source.speed)
