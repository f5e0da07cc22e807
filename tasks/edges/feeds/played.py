"""Records that are there already, played as a feed: in the order in which they were known, at a
multiple of the time that lay between them.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.records import RECORDS, Marks, PolledRecords


class ReplayedRecords(NamedTuple):
    """What is played.

    log: its name; other contents have another one. known_at: when each record was known, rising.
    records: (first, number) -> _key and _value of those.
    """

    log: str
    known_at: pl.Series
    records: Callable[[int, int], pl.DataFrame]


class ReplayPace:
    """Which records are due. speed: times real time; None: all at once.

    The one at *begin* is due now, the others by their distance from it.
    """

    def __init__(self, known_at: pl.Series, speed: float | None, begin: int = 0) -> None:
        self._us = known_at.dt.timestamp("us").to_numpy()
        self._speed = speed
        self._from = int(self._us[begin]) if begin < len(self._us) else 0
        self._started = time.monotonic()

    def due(self) -> int:
        """How many of all records are due by now."""
        if self._speed is None:
            return len(self._us)
        return int(
            np.searchsorted(
                self._us, self._from + (time.monotonic() - self._started) * self._speed * 1e6, side="right"
            )
        )

    def compute_wait_s(self, at: int) -> float:
        """Seconds until the record *at* is due; 0 when it is, or when there is none."""
        if self._speed is None or at >= len(self._us):
            return 0.0
        return max(
            float(self._us[at] - self._from) / 1e6 / self._speed - (time.monotonic() - self._started), 0.0
        )


class ReplayedFeed:
    """A feed of one source.

    Offsets are places in the order of playing; opened at a mark, the record there is due at once.
    """

    def __init__(self, played: ReplayedRecords, speed: float | None = None) -> None:
        self._played, self._speed = played, speed
        self._n, self._at = len(played.known_at), 0
        self._marks: Callable[[], Marks] = dict
        self._pace = ReplayPace(played.known_at, speed)

    def open(self, marks: Callable[[], Marks]) -> None:
        """See Feed."""
        self._marks = marks
        self.rewind()

    def poll(self, n_records: int, within_s: float) -> PolledRecords:
        """See Feed."""
        if (due := self._pace.due()) <= self._at:
            time.sleep(min(within_s, self._pace.compute_wait_s(self._at)) if self._at < self._n else within_s)
            due = self._pace.due()
        n = max(min(due, self._at + n_records, self._n) - self._at, 0)
        if not n:
            return PolledRecords(pl.DataFrame(schema=dict(RECORDS)), {})
        first, self._at = self._at, self._at + n
        records = self._played.records(first, n).with_columns(
            pl.lit(self._played.log).alias("_source"),
            pl.int_range(first, first + n, dtype=pl.Int64).alias("_offset"),
            self._played.known_at.slice(first, n).alias("_timestamp"),
            pl.lit(None, pl.String).alias("_headers"),
        )
        return PolledRecords(
            records.select(pl.col(name).cast(dtype) for name, dtype in RECORDS.items()),
            {self._played.log: self._at},
        )

    def is_same(self) -> bool:
        """See Feed."""
        return True

    def rewind(self) -> None:
        """See Feed."""
        self._at = min(self._marks().get(self._played.log, 0), self._n)
        self._pace = ReplayPace(self._played.known_at, self._speed, self._at)

    def lag(self) -> dict[str, int]:
        """Records that are due and were not polled."""
        return {self._played.log: max(min(self._pace.due(), self._n) - self._at, 0)}

    def is_caught_up(self) -> bool:
        """Whether everything was played; at a speed that takes its time."""
        return self._at >= self._n

    def close(self) -> None:
        """See Feed."""
        self._n = self._at
