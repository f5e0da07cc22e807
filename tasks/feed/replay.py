"""A replay: what a dataset or a file holds is produced again, at a multiple of real time."""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import polars as pl

from tasks.edges.feeds.base import ReplayedRecords
from tasks.edges.feeds.files import ReplayPace

_BATCH = 5_000  # records between two looks at the clock
_WAIT_S = 0.2
_REPORT_S = 5.0


class RecordWriter(Protocol):
    """Where records go."""

    def write(self, records: pl.DataFrame) -> None:
        """Take _timestamp, _key and _value."""
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
    replayed: ReplayedRecords,
    writer: RecordWriter,
    speed: float | None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, float], None] = lambda _n, _s: None,
) -> ReplayResult:
    """Write *replayed* until its end or *stop*.

    speed: a multiple of real time; None: everything immediately.
    report: called every five seconds with (records so far, seconds).
    """
    n_records, n_written = len(replayed.known_at), 0
    pace = ReplayPace(replayed.known_at, speed)
    started = reported = time.monotonic()
    while n_written < n_records and not stop():
        n = min(pace.count_due() - n_written, _BATCH)
        if n > 0:
            timestamps = replayed.known_at.slice(n_written, n).alias("_timestamp")
            writer.write(replayed.read(n_written, n).with_columns(timestamps))
            n_written += n
        else:
            time.sleep(min(pace.compute_wait_s(n_written), _WAIT_S))
        if time.monotonic() - reported >= _REPORT_S:
            reported = time.monotonic()
            report(n_written, reported - started)
    n_sent = writer.flush()
    return ReplayResult(n_sent, n_records, time.monotonic() - started, n_written < n_records)
