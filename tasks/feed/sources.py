"""The source that a feed's parameters name, connected."""

from pathlib import Path

from tasks.core.about import About
from tasks.edges.feeds import get_feed_class
from tasks.edges.feeds.base import RecordSource, ReplayedRecords, SourceContext
from tasks.edges.feeds.files import FilesParams
from tasks.edges.settings import ROOT
from tasks.feed.events import EventReporter
from tasks.feed.params import FeedParams


def build_source(
    params: FeedParams, dataset: str, about: About, report: EventReporter, root: Path = ROOT
) -> RecordSource:
    """The source that *params* name. report: how it raises an event.

    Raises FeedError when it is not there.
    """

    def read_replay(files: FilesParams) -> ReplayedRecords:
        from tasks.feed.replayed_feed import read_replayed_lines, read_replayed_rows

        if files.path is not None:
            return read_replayed_lines(root / Path(files.path).expanduser(), params, about)
        return read_replayed_rows(str(files.dataset), params, root=root)

    context = SourceContext(
        dataset,
        lambda reason: report("source_down", reason=reason),
        lambda facts: report("records_lost", **facts),
        read_replay,
    )
    return get_feed_class(params.source.kind).connect(params.source, context)
