"""What every source of a feed is: its parameters, and a class that reads from any offset again.

A source is one file in this folder, with a `SourceParams` and a class that keeps to `RecordSource`,
and one line in FEEDS. tests/laws/test_feeds.py runs every source of FEEDS.

Offsets. A source's name (`kafka:<cluster>/<topic id>/0`) never means another log. A record's offset
is its place in that log: rising, gaps allowed. A *stored* offset is the next one to read, one more
than that of the last record: after the record at 41 the table has 42. A source that is opened at 42
begins with the record at 42, or with the first one after it; the record at 41 does not come again.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import polars as pl

from tasks.core.records import Offsets, PolledRecords
from tasks.core.strict import Strict


class SourceParams(Strict):
    """`feed.source` of params.yaml. kind: a name of FEEDS. is_json: its records are JSON."""

    is_json: ClassVar[bool] = False

    kind: str


class ReplayedRecords(NamedTuple):
    """Records that exist already, in the order in which they became known.

    name: of the log; another content, or another order, has another name.
    known_at: when each record was known, rising.
    read: (first, number) -> _key and _value of those records.
    """

    name: str
    known_at: pl.Series
    read: Callable[[int, int], pl.DataFrame]


class SourceContext(NamedTuple):
    """What a source is given besides its parameters.

    report_down: called with the reason when the source stops answering, once until it answers.
    report_lost: called with the facts of records that cannot be had any more.
    read_replay: the records of a dataset or a file, as params.yaml reads them.
    """

    dataset: str
    report_down: Callable[[str], Any]
    report_lost: Callable[[Mapping[str, Any]], Any]
    read_replay: Callable[[Any], ReplayedRecords]


class RecordSource(Protocol):
    """A source of records that can be read again from any offset. Not for two threads.

    In this order: `connect`, `open`, then `poll` again and again, `close` last. Before each commit
    of what was polled comes `is_same`; after a commit that was refused, `rewind`.
    """

    Params: ClassVar[type[SourceParams]]

    @classmethod
    def connect(cls, params: Any, context: SourceContext) -> Self:
        """The source that *params*, an object of `Params`, describe; not opened.

        Raises FeedError when it is not there, or its address is not set.
        """
        ...

    def open(self, read_offsets: Callable[[], Offsets]) -> None:
        """Begin at the offsets that *read_offsets* gives, now and whenever partitions are assigned.

        A source without an offset is read from its beginning.
        """
        ...

    def poll(self, n_records: int, timeout_s: float) -> PolledRecords:
        """At most *n_records*, and what there is after *timeout_s*; fewer than asked is no end.

        Raises FeedError for what waiting does not fix. A source that is down gives no records.
        """
        ...

    def is_same(self) -> bool:
        """Whether what was polled is of the sources that it names; asked before each commit.

        False: it is not known at the moment, ask again. Raises FeedError when they are others now.
        """
        ...

    def rewind(self) -> None:
        """Begin again at the offsets: another writer has moved them."""
        ...

    def compute_lag(self) -> dict[str, int]:
        """Records of each source beyond what was polled, as far as is known without a request."""
        ...

    def is_caught_up(self) -> bool:
        """Whether all that was there at `open` has been polled."""
        ...

    def close(self) -> None:
        """Release the source. A poll that comes later gives nothing."""
        ...
