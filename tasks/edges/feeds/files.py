"""Records of files as a feed: replayed as they became known, at a multiple of real time."""

import time
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from tasks.core.records import RECORDS, Offsets, PolledRecords, build_empty_poll
from tasks.edges.feeds.base import ReplayedRecords, SourceContext, SourceParams


class FilesParams(SourceParams):
    """Files that are replayed; no broker is needed.

    dataset: whose own files (its `ingest.source`), as ingest reads them; each row is a record,
    known at the end of its step plus the publish delay.
    path: instead, a file of one JSON record a line, as it is (also .gz).
    speed: a multiple of the time between records, or `max`.
    """

    dataset: str | None = None
    path: str | None = None
    speed: Annotated[float, Field(gt=0)] | Literal["max"] = 1.0

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError(
                "`feed.source` of kind files needs either `dataset` (whose files are replayed) or `path` (a"
                " file of JSON lines)."
            )
        return self


class ReplayPace:
    """Which records are due. speed: a multiple of real time; None: all are due immediately.

    The record at *begin* is due now, the others by their distance from it.
    """

    def __init__(self, known_at: pl.Series, speed: float | None, begin: int = 0) -> None:
        self._known_us = known_at.dt.timestamp("us").to_numpy()
        self._speed = speed
        self._begin_us = int(self._known_us[begin]) if begin < len(self._known_us) else 0
        self._started = time.monotonic()

    def count_due(self) -> int:
        """How many of all records are due by now."""
        if self._speed is None:
            return len(self._known_us)
        now_us = self._begin_us + (time.monotonic() - self._started) * self._speed * 1e6
        return int(np.searchsorted(self._known_us, now_us, side="right"))

    def compute_wait_s(self, index: int) -> float:
        """Seconds until the record at *index* is due; 0 when it is, or when there is none."""
        if self._speed is None or index >= len(self._known_us):
            return 0.0
        due_s = float(self._known_us[index] - self._begin_us) / 1e6 / self._speed
        return max(due_s - (time.monotonic() - self._started), 0.0)


class FilesFeed:
    """One source. Offsets count the records; opened at an offset, its record is due immediately."""

    Params: ClassVar[type[SourceParams]] = FilesParams

    def __init__(self, replayed: ReplayedRecords, speed: float | None = None) -> None:
        self._replayed, self._speed = replayed, speed
        self._n_records, self._next = len(replayed.known_at), 0
        self._read_offsets: Callable[[], Offsets] = dict
        self._pace = ReplayPace(replayed.known_at, speed)

    @classmethod
    def connect(cls, params: FilesParams, context: SourceContext) -> Self:
        """See RecordSource."""
        return cls(context.read_replay(params), None if params.speed == "max" else params.speed)

    def open(self, read_offsets: Callable[[], Offsets]) -> None:
        """See RecordSource."""
        self._read_offsets = read_offsets
        self.rewind()

    def poll(self, n_records: int, timeout_s: float) -> PolledRecords:
        """See RecordSource."""
        if (n_due := self._pace.count_due()) <= self._next:
            is_over = self._next >= self._n_records
            time.sleep(timeout_s if is_over else min(timeout_s, self._pace.compute_wait_s(self._next)))
            n_due = self._pace.count_due()
        n = max(min(n_due, self._next + n_records, self._n_records) - self._next, 0)
        if not n:
            return build_empty_poll()
        first, self._next = self._next, self._next + n
        records = self._replayed.read(first, n).with_columns(
            pl.lit(self._replayed.name).alias("_source"),
            pl.int_range(first, first + n, dtype=pl.Int64).alias("_offset"),
            self._replayed.known_at.slice(first, n).alias("_timestamp"),
            pl.lit(None, pl.String).alias("_headers"),
        )
        return PolledRecords(
            records.select(pl.col(name).cast(dtype) for name, dtype in RECORDS.items()),
            {self._replayed.name: self._next},
        )

    def is_same(self) -> bool:
        """See RecordSource."""
        return True

    def rewind(self) -> None:
        """See RecordSource."""
        self._next = min(self._read_offsets().get(self._replayed.name, 0), self._n_records)
        self._pace = ReplayPace(self._replayed.known_at, self._speed, self._next)

    def compute_lag(self) -> dict[str, int]:
        """Records that are due and were not polled."""
        return {self._replayed.name: max(min(self._pace.count_due(), self._n_records) - self._next, 0)}

    def is_caught_up(self) -> bool:
        """Whether everything was replayed; at a speed that takes its time."""
        return self._next >= self._n_records

    def close(self) -> None:
        """See RecordSource."""
        self._n_records = self._next
