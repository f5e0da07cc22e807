"""A replay: what a dataset or a file holds is produced again, at a multiple of the time that lay
between the records.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import polars as pl

from tasks.edges.feeds.played import ReplayedRecords, ReplayPace

_BATCH = 5_000  # records between two looks at the clock
_WAIT_S = 0.2
_SAY_S = 5.0


class RecordWriter(Protocol):
    """Where records go."""

    def write(self, records: pl.DataFrame) -> None:
        """Hand over _timestamp, _key and _value."""
        ...

    def flush(self) -> int:
        """Wait until all are there; how many are."""
        ...


class ReplayResult(NamedTuple):
    """What a replay did. stopped: before its end."""

    n_sent: int
    n_records: int
    seconds: float
    stopped: bool


def run_replay(
    played: ReplayedRecords,
    writer: RecordWriter,
    speed: float | None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[int, float], None] = lambda _n, _s: None,
) -> ReplayResult:
    """Write *played* at *speed* (None: at once) until its end or *stop*. say: (records so far,
    seconds), every five seconds.
    """
    n, at = len(played.known_at), 0
    pace = ReplayPace(played.known_at, speed)
    started = said = time.monotonic()
    while at < n and not stop():
        if (due := min(pace.due(), at + _BATCH)) > at:
            records = played.records(at, due - at)
            writer.write(records.with_columns(played.known_at.slice(at, due - at).alias("_timestamp")))
            at = due
        else:
            time.sleep(min(pace.compute_wait_s(at), _WAIT_S))
        if time.monotonic() - said >= _SAY_S:
            said = time.monotonic()
            say(at, said - started)
    n_sent = writer.flush()
    return ReplayResult(n_sent, n, time.monotonic() - started, at < n)
