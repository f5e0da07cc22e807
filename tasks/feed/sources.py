"""Which feed the parameters name. Each keeps to the same protocol; what they need is imported only where it is used."""

import string
from pathlib import Path

from tasks.core.about import About
from tasks.core.errors import FeedError
from tasks.core.records import Feed
from tasks.edges.settings import ROOT, settings
from tasks.feed.params import DatabaseSource, FeedParams, FilesSource, KafkaSource, WebSocketSource


def build_feed(params: FeedParams, dataset: str, about: About, root: Path = ROOT) -> Feed:
    """The source that *params* names. Raises FeedError when it is not there, or a secret is not."""
    source = params.source
    if isinstance(source, KafkaSource):
        return _kafka(source, dataset)
    if isinstance(source, FilesSource):
        return _files(source, params, about, root)
    return _websocket(source) if isinstance(source, WebSocketSource) else _database(source, params)


def _kafka(source: KafkaSource, dataset: str) -> Feed:
    from tasks.edges.kafka import KafkaFeed  # noqa: PLC0415

    s = settings()
    return KafkaFeed(s.kafka_address, source.topic, source.group or f"tidemill-{dataset}", s.feed_member, s.kafka_options)


def _files(source: FilesSource, params: FeedParams, about: About, root: Path) -> Feed:
    from tasks.edges.played import PlayedFeed  # noqa: PLC0415
    from tasks.feed.played import play, play_lines  # noqa: PLC0415

    if source.path is not None:
        played = play_lines(root / Path(source.path).expanduser(), params, about)
    else:
        played = play(str(source.dataset), params, root=root)
    return PlayedFeed(played, None if source.speed == "max" else source.speed)


def with_secrets(text: str) -> str:
    """*text* with each ${NAME} replaced. Raises FeedError for a name that TIDEMILL_FEED_SECRETS does not have."""
    try:
        return string.Template(text).substitute(settings().feed_secrets)
    except KeyError as error:
        raise FeedError(
            f'`feed.source` needs the secret {error.args[0]!r}, which TIDEMILL_FEED_SECRETS does not have. Set it as JSON: {{"{error.args[0]}": "..."}}.'
        ) from error
    except ValueError as error:
        raise FeedError(f"`feed.source` has a lone $ ({error}). Write $$ for a dollar sign, ${{NAME}} for a secret.") from error
