"""Landing: records are held until a commit is due, then decoded, classified and committed.

Rows and the offsets that they move are one commit, all or nothing.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import polars as pl

from tasks.core.errors import OffsetMovedError
from tasks.core.frames import UTC
from tasks.core.records import PolledRecords
from tasks.edges.delta import REPLAYS, VersionedTable, add_column, align_offsets, commit_rows
from tasks.edges.feeds.base import RecordSource
from tasks.feed.contract import DETAIL, RULE, RecordContract, RecordReader
from tasks.feed.decode import DecodedBatch, RecordDecoder
from tasks.feed.dispositions import (
    DUPLICATE,
    EMPTY,
    QUARANTINE,
    ROW,
    RowMemory,
    build_row_ids,
    decide_dispositions,
    filter_memory_ids,
    list_id_columns,
)
from tasks.feed.formats import build_decoder
from tasks.feed.params import TYPES, FeedParams

TABLE_COLUMNS = {
    "series_id": pl.String(),
    "event_time": UTC,
    "known_at": UTC,
    "disposition": pl.String(),
    "month": pl.String(),
    "_source": pl.String(),
    "_offset": pl.Int64(),
    "_timestamp": UTC,
    "_key": pl.Binary(),
    "_headers": pl.String(),
    "_raw": pl.Binary(),
    RULE: pl.String(),
    DETAIL: pl.String(),
}
PARTITIONS = ("disposition", "month")
_MEMORY_ROWS = 2_000_000  # read before the first commit after a start; a second, at most
_MAX_POLLED = 10_000  # records of one poll
_FIRST_BYTES = 1_000.0  # of a record, before there was one


class LandedCommit(NamedTuple):
    """One commit.

    counts: records by disposition, duplicates too; their sum is what was read.
    seconds: from the first held record to the commit's end.
    commit_seconds: of it for decoding, classifying and committing.
    newest: of the rows' event times.
    added: fields that became columns.
    broken: see DecodedBatch.
    """

    version: int
    counts: dict[str, int]
    bytes_read: int
    seconds: float
    commit_seconds: float
    newest: datetime | None
    added: dict[str, str]
    broken: dict[tuple[str, str], int]


def open_table(folder: Path, params: FeedParams) -> VersionedTable:
    """The feed's table, made when there is none, with a column for each field of *params*."""
    fields = {name: TYPES[spec.type] for name, spec in params.fields.items()}
    table = VersionedTable(
        folder, {**TABLE_COLUMNS, **fields}, PARTITIONS, sync=params.sync, keep_log_h=params.keep_log_h
    )
    align_offsets(table)
    for name, dtype in fields.items():
        add_column(table, name, dtype, {"how": "declared"})
    return table


class LandingBuffer:
    """Holds what a source brought, and commits it. Not for two threads.

    every: see decide_dispositions.
    reader: of the feed's format; None for JSON.
    """

    def __init__(
        self,
        table: VersionedTable,
        params: FeedParams,
        every: str | None,
        feed: RecordSource,
        reader: RecordReader | None = None,
    ) -> None:
        self.table, self._params, self._every, self._feed = table, params, every, feed
        self._memory = EMPTY
        self._reader, self._decoder = reader, cast("RecordDecoder | None", None)
        self._held: list[pl.DataFrame] = []
        self._ends: dict[str, int] = {}
        self._begins: dict[str, int] = {}
        self._n_bytes = self._n_held = 0
        self._held_since = 0.0
        # Called with the reason, when another writer had overtaken a commit
        self.on_refused: Callable[[str], Any] = lambda _: None
        feed.open(self.read_offsets)

    def read_offsets(self) -> dict[str, int]:
        """The table's offsets, read again, and what is remembered of its rows.

        Nothing is held any more.
        """
        align_offsets(self.table)
        self._delete_held()
        self._memory = _read_memory(self.table, self._params)
        self._n_replays = self.table.find_offset(REPLAYS) or 0
        self._begins = self.table.list_offsets()
        return dict(self._begins)

    @property
    def begins(self) -> dict[str, int]:
        """Where what is held begins, by source: the table's offsets."""
        return self._begins

    @property
    def n_held_bytes(self) -> int:
        """Bytes of the values that are held."""
        return self._n_bytes

    @property
    def n_free_records(self) -> int:
        """How many more records may be held, by their mean size so far."""
        n_free_bytes = self._params.max_buffer_mb * 1_000_000 - self._n_bytes
        mean = self._n_bytes / self._n_held if self._n_held else _FIRST_BYTES
        n_fitting = int(n_free_bytes / max(mean, 1.0))
        return max(1, min(self._params.commit_rows - self._n_held, n_fitting, _MAX_POLLED))

    @property
    def commit_every_s(self) -> float:
        """How long a record is held at most."""
        return self._params.commit_every_s

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return not self._n_held

    @property
    def is_due(self) -> bool:
        """Whether what is held should be committed now."""
        if not self._n_held:
            return False
        max_bytes = self._params.max_buffer_mb * 1_000_000
        is_full = self._n_held >= self._params.commit_rows or self._n_bytes >= max_bytes
        return is_full or time.monotonic() - self._held_since >= self._params.commit_every_s

    def add_records(self, polled: PolledRecords) -> None:
        """Hold what was polled."""
        if polled.revoked:
            is_ours = ~pl.col("_source").is_in(polled.revoked)
            frames = [frame.filter(is_ours) for frame in self._held]
            self._held = [frame for frame in frames if frame.height]
            self._ends = {source: end for source, end in self._ends.items() if source not in polled.revoked}
            self._n_held = sum(frame.height for frame in self._held)
            self._n_bytes = sum(map(_count_bytes, self._held))
        if polled.records.height:
            if not self._n_held:
                self._held_since = time.monotonic()
            self._held.append(polled.records)
            self._n_held += polled.records.height
            self._n_bytes += _count_bytes(polled.records)
        self._ends |= polled.ends

    def commit(self) -> LandedCommit | None:
        """Commit what is held.

        None when there is nothing; when the source cannot confirm at the moment that it is the
        same, and all stays held; and when another writer had read on. What was held is forgotten
        then, and read again from the table's offsets.
        """
        if not self._n_held or not self._feed.is_same():
            return None
        begun = time.monotonic()
        records = pl.concat(self._held)
        self._held = []  # else the frames are in memory together with what is made of them
        decoded = self._decode_records(records)
        rows, memory = decide_dispositions(records, decoded, self._params, self._every, self._memory)
        counts = dict(rows["disposition"].value_counts().iter_rows())
        begins = {source: begin for source in self._ends if (begin := self._begins.get(source)) is not None}
        # Rows that were replayed meanwhile are not remembered: they are read first then
        begins[REPLAYS] = self._n_replays
        try:
            rows, added = add_new_columns(self.table, rows, decoded)
            kept = rows.filter(pl.col("disposition") != DUPLICATE)
            note = {"counts": counts, "added": added}
            version = commit_rows(self.table, kept, begins, self._ends, note)
        except OffsetMovedError as error:
            self.on_refused(str(error))
            self._feed.rewind()
            return None
        now = time.monotonic()
        newest = rows.filter(pl.col("disposition") == ROW)["event_time"].max()
        landed = LandedCommit(
            version,
            counts,
            self._n_bytes,
            now - self._held_since,
            now - begun,
            newest,  # type: ignore[arg-type]  # a datetime
            added,
            decoded.broken,
        )
        self._memory = memory
        self._begins |= self._ends
        self._delete_held()
        return landed

    def _delete_held(self) -> None:
        self._held, self._ends, self._n_bytes, self._n_held = [], {}, 0, 0

    def _decode_records(self, records: pl.DataFrame) -> DecodedBatch:
        contract = build_contract(self._params, self.table.columns)
        if self._decoder is None or self._decoder.contract != contract:
            self._decoder = build_decoder(contract, self._reader)
        return self._decoder.decode(records["_value"].drop_nulls())


def build_contract(params: FeedParams, columns: Mapping[str, pl.DataType]) -> RecordContract:
    """What a record must be: what *params* declare, and the columns that came with records."""
    time_type = pl.String() if params.time_format == "iso" else pl.Int64()
    required: dict[str, pl.DataType] = {params.time_field: time_type}
    if params.series_field is not None:
        required[params.series_field] = pl.String()
    if params.known_at_field is not None:
        required[params.known_at_field] = time_type
    if params.closed_field is not None:
        required[params.closed_field] = pl.Boolean()
    declared = {name: TYPES[spec.type] for name, spec in params.fields.items()}
    others = {*TABLE_COLUMNS, *declared, *required}
    arrived = {name: dtype for name, dtype in columns.items() if name not in others}
    nullable = frozenset({*(name for name, spec in params.fields.items() if spec.nullable), *arrived})
    return RecordContract(
        {**required, **declared, **arrived},
        nullable,
        frozenset(arrived),
        params.max_record_kb * 1024,
        params.max_added_fields - len(arrived),
    )


def run_landing(
    landing: LandingBuffer,
    feed: RecordSource,
    *,
    until_caught_up: bool,
    stop: Callable[[], bool] = lambda: False,
    on_poll: Callable[[LandedCommit | None], Any] = lambda _: None,
) -> None:
    """Land records until *stop*, or until all that was there at the start has landed.

    stop: ends it after the current commit.
    on_poll: called after each poll with what has landed then, if anything.
    """
    poll_s = min(landing.commit_every_s / 5, 0.1)
    while not stop():
        landing.add_records(feed.poll(landing.n_free_records, poll_s))
        is_caught_up = until_caught_up and feed.is_caught_up()
        on_poll(landing.commit() if landing.is_due or is_caught_up else None)
        # Asked again: a refused commit has sent it back
        if is_caught_up and landing.is_empty and feed.is_caught_up():
            return
    on_poll(landing.commit())


def add_new_columns(
    table: VersionedTable, rows: pl.DataFrame, decoded: DecodedBatch
) -> tuple[pl.DataFrame, dict[str, str]]:
    """(*rows* with the table's columns, name -> type of columns made for new fields).

    A field that only quarantined records have becomes none.
    """
    good = rows.filter(pl.col("disposition") != QUARANTINE)
    added = {name: dtype for name, dtype in decoded.added.items() if good[name].null_count() < good.height}
    for name, dtype in added.items():
        add_column(table, name, dtype, {"how": "arrived"})
    kept = rows.select([name for name in rows.columns if name in table.columns])
    return kept, {name: str(dtype) for name, dtype in added.items()}


def _count_bytes(records: pl.DataFrame) -> int:
    return int(records["_value"].bin.size().sum() or 0)


def _read_memory(table: VersionedTable, params: FeedParams) -> RowMemory:
    """What the table's rows say: each series' newest time, and the ids that may come again.

    It is what the landing that wrote them remembered, with two bounds. The newest _MEMORY_ROWS rows
    are read, so a series that was silent for longer begins again. Where more than `feed.max_ids`
    ids are within `feed.lateness_s`, the oldest are forgotten.
    """
    key = list_id_columns(params)
    only = {"disposition": ROW}
    least = table.find_row_bound("event_time", _MEMORY_ROWS, only)
    if least is None:
        return EMPTY
    times = table.scan(only, {"event_time": least}, ["series_id", "event_time"])
    newest = times.group_by("series_id").agg(newest=pl.col("event_time").max()).collect()
    if not params.dedupe:
        return RowMemory(newest, EMPTY.ids)
    values = [
        name
        for name in table.columns
        if not name.startswith("_") and name not in {*PARTITIONS, *key, "known_at"}
    ]
    lateness = timedelta(seconds=params.lateness_s)
    behind = newest["newest"].min() - lateness  # type: ignore[operator]  # a datetime
    rows = table.scan(only, {"event_time": max(least, behind)}, [*key, *values])
    alive = rows.join(newest.lazy(), on="series_id").filter(
        pl.col("event_time") >= pl.col("newest") - pl.duration(seconds=params.lateness_s)
    )
    ids = alive.select(build_row_ids(key, values)).collect()
    return RowMemory(newest, filter_memory_ids(ids, newest, params))
