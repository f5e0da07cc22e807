"""What a feed brings: records with their place, before anything has looked inside them."""

from collections.abc import Mapping
from typing import NamedTuple

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

Offsets = Mapping[str, int]  # source -> the next offset to read of it: one more than the last that was read

_LOST = b"\x00lost: "  # no text and no format begins like this


class PolledRecords(NamedTuple):
    """records: RECORDS in the order of reading.

    ends: the next offset of each source that was read, or is known to hold no more.
    revoked: sources that another member reads now; what is held of them must be forgotten.
    """

    records: pl.DataFrame
    ends: dict[str, int]
    revoked: frozenset[str] = frozenset()


def build_empty_poll() -> PolledRecords:
    """A poll that brought nothing."""
    return PolledRecords(pl.DataFrame(schema=dict(RECORDS)), {})


def encode_loss(what: str) -> bytes:
    """The value of a record in place of others, which came and cannot be had any more.

    It becomes a row with the disposition `lost`.
    """
    return _LOST + what.encode()


def decode_loss(value: bytes) -> str | None:
    """What *value* reports as lost; None when it is a record like any other."""
    return value[len(_LOST) :].decode(errors="replace") if value.startswith(_LOST) else None
