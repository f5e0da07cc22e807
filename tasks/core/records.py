"""What a feed brings, before anybody has looked inside: records with the place they were read
from, and how far that place has been read.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import polars as pl

from tasks.core.frames import UTC

# _source: which log (a partition, a file, a table), by a name that never means another one.
# _offset: place in it, rising, gaps allowed.
# _timestamp: when the record was produced. _value: its bytes; null is a tombstone. _headers: JSON,
# null where there are none.
RECORDS: Mapping[str, pl.DataType] = {
    "_source": pl.String(),
    "_offset": pl.Int64(),
    "_timestamp": UTC,
    "_key": pl.Binary(),
    "_value": pl.Binary(),
    "_headers": pl.String(),
}

_LOST = b"\x00lost: "  # no text and no format begins like this


def encode_loss(what: str) -> bytes:
    """The value of a record that stands for others that came and cannot be had any more.

    It becomes a row of the place `lost`.
    """
    return _LOST + what.encode()


def decode_loss(value: bytes) -> str | None:
    """What *value* says is lost; None when it is a record like any other."""
    return value[len(_LOST) :].decode(errors="replace") if value.startswith(_LOST) else None


Marks = Mapping[str, int]  # source -> the next offset to read of it


class PolledRecords(NamedTuple):
    """records: RECORDS in the order of reading. ends: the next offset of each source that was read
    or is known to hold no more.

    revoked: sources that are no longer ours; what is held of them must be forgotten.
    """

    records: pl.DataFrame
    ends: dict[str, int]
    revoked: frozenset[str] = frozenset()


class Feed(Protocol):
    """A source of records that can be read again from any mark."""

    def open(self, marks: Callable[[], Marks]) -> None:
        """Begin where *marks* says, now and whenever sources are handed over; a source without a
        mark is read from its beginning.
        """
        ...

    def poll(self, n_records: int, within_s: float) -> PolledRecords:
        """At most *n_records*, and what there is after *within_s*.

        Raises FeedError for what waiting does not mend.
        """
        ...

    def is_same(self) -> bool:
        """Whether what was polled is of the sources that it names; asked before each commit.

        False: nobody knows just now, ask again.
        Raises FeedError when they are others now.
        """
        ...

    def rewind(self) -> None:
        """Begin again at the marks: another writer has moved them."""
        ...

    def lag(self) -> dict[str, int]:
        """Records that each source of ours holds beyond what was polled, as far as the feed
        knows without asking.
        """
        ...

    def is_caught_up(self) -> bool:
        """Whether all that was there at `open` has been polled."""
        ...

    def close(self) -> None:
        """Let go of the sources."""
        ...
