"""Landing: records are held until a commit is due, then decoded, sorted and committed with the
marks they move, all or nothing.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import polars as pl

from tasks.core.errors import OffsetMovedError
from tasks.core.frames import UTC
from tasks.core.records import Feed, PolledRecords
from tasks.edges.delta import REPLAYS, VersionedTable, add_column, align_offsets, commit_rows
from tasks.feed.decode import DETAIL, RULE, DecodedBatch, RecordContract, RecordDecoder, RecordReader
from tasks.feed.formats import build_decoder
from tasks.feed.params import TYPES, FeedParams
from tasks.feed.sort import (
    DUPLICATE,
    EMPTY,
    QUARANTINE,
    ROW,
    RowMemory,
    build_row_ids,
    filter_memory_ids,
    list_id_columns,
    sort_records,
)

OWN = {
    "series_id": pl.String(),
    "event_time": UTC,
    "known_at": UTC,
    "place": pl.String(),
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
PARTITIONS = ("place", "month")
_RECALL_ROWS = 2_000_000  # a second, at most, before the first commit after a start


class LandedCommit(NamedTuple):
    """One commit.

    counts: records by place, duplicates too; they add up to what was read. seconds: from the first
    held record to the commit's end;
    commit_seconds: of it for decoding, sorting and committing. newest: of the rows' event times.
    added: fields that became columns.
    broken: see Decoded.
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
    """The feed's table, made when it is not there, with a column for each field of *params*."""
    fields = {name: TYPES[spec.type] for name, spec in params.fields.items()}
    table = VersionedTable(
        folder, {**OWN, **fields}, PARTITIONS, sync=params.sync, keep_log_h=params.keep_log_h
    )
    align_offsets(table)
    for name, dtype in fields.items():
        add_column(table, name, dtype, {"how": "declared"})
    return table


class LandingBuffer:
    """Holds what a feed brought and commits it. every: see sort_records. reader: see decoder_of.

    Not for two threads.
    """

    def __init__(
        self,
        table: VersionedTable,
        params: FeedParams,
        every: str | None,
        feed: Feed,
        reader: RecordReader | None = None,
    ) -> None:
        self.table, self._params, self._every, self._feed = table, params, every, feed
        self._memory = EMPTY
        self._reader, self._decoder = reader, cast("RecordDecoder | None", None)
        self._held: list[pl.DataFrame] = []
        self._ends: dict[str, int] = {}
        self._begins: dict[str, int] = {}
        self._bytes = self._n_held = 0
        self._since = 0.0
        # Told why, when another writer had overtaken a commit
        self.refused: Callable[[str], Any] = lambda _: None
        feed.open(self.marks)

    def marks(self) -> dict[str, int]:
        """The table's marks, read anew, and with them what is remembered of its rows; nothing is
        held any more.
        """
        align_offsets(self.table)
        self._delete_held()
        self._memory = _read_memory(self.table, self._params)
        self._replays = self.table.find_offset(REPLAYS) or 0
        found = self.table.list_offsets()
        self._begins = dict(found)
        return found

    @property
    def begins(self) -> dict[str, int]:
        """Where what is held begins, by source: the table's marks."""
        return self._begins

    @property
    def n_held_bytes(self) -> int:
        """Bytes of the values that are held."""
        return self._bytes

    @property
    def n_free_records(self) -> int:
        """How many more records may be held, as their size has been so far."""
        budget = self._params.max_buffer_mb * 1_000_000 - self._bytes
        mean = self._bytes / self._n_held if self._n_held else 1_000.0
        return max(1, min(self._params.commit_rows - self._n_held, int(budget / max(mean, 1.0)), 10_000))

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
        full = (
            self._n_held >= self._params.commit_rows or self._bytes >= self._params.max_buffer_mb * 1_000_000
        )
        return full or time.monotonic() - self._since >= self._params.commit_every_s

    def add_records(self, polled: PolledRecords) -> None:
        """Take what was polled."""
        if polled.revoked:
            self._held = [
                kept
                for frame in self._held
                if (kept := frame.filter(~pl.col("_source").is_in(polled.revoked))).height
            ]
            self._ends = {source: end for source, end in self._ends.items() if source not in polled.revoked}
            self._n_held = sum(frame.height for frame in self._held)
            self._bytes = sum(int(frame["_value"].bin.size().sum() or 0) for frame in self._held)
        if polled.records.height:
            if not self._n_held:
                self._since = time.monotonic()
            self._held.append(polled.records)
            self._n_held += polled.records.height
            self._bytes += int(polled.records["_value"].bin.size().sum() or 0)
        self._ends |= polled.ends

    def commit(self) -> LandedCommit | None:
        """Commit what is held; None when the source does not vouch for it just now, and it stays
        held, or another writer had read on.

        What was held is forgotten then, and read again from the table's marks.
        """
        if not self._n_held or not self._feed.is_same():
            return None
        begun = time.monotonic()
        records = pl.concat(self._held)
        self._held = []  # else the frames live beside what is made of them
        decoded = self._decode_records(records)
        rows, memory = sort_records(records, decoded, self._params, self._every, self._memory)
        counts = dict(rows["place"].value_counts().iter_rows())
        begins = {source: begin for source in self._ends if (begin := self._begins.get(source)) is not None}
        # Rows that were replayed meanwhile are not remembered: recall them first
        begins[REPLAYS] = self._replays
        try:
            rows, added = add_new_columns(self.table, rows, decoded)
            about = {"counts": counts, "added": added}
            version = commit_rows(
                self.table, rows.filter(pl.col("place") != DUPLICATE), begins, self._ends, about
            )
        except OffsetMovedError as error:
            self.refused(str(error))
            self._feed.rewind()
            return None
        now = time.monotonic()
        newest = rows.filter(pl.col("place") == ROW)["event_time"].max()
        # A datetime
        landed = LandedCommit(
            version,
            counts,
            self._bytes,
            now - self._since,
            now - begun,
            newest,  # type: ignore[arg-type]
            added,
            decoded.broken,
        )
        self._memory = memory
        self._begins |= self._ends
        self._delete_held()
        return landed

    def _delete_held(self) -> None:
        self._held, self._ends, self._bytes, self._n_held = [], {}, 0, 0

    def _decode_records(self, records: pl.DataFrame) -> DecodedBatch:
        contract = build_contract(self._params, self.table.columns)
        if self._decoder is None or self._decoder.contract != contract:
            self._decoder = build_decoder(contract, self._reader)
        return self._decoder.decode(records["_value"].drop_nulls())


def build_contract(params: FeedParams, columns: Mapping[str, pl.DataType]) -> RecordContract:
    """What a record must be: what *params* declare, and the columns of the table that evolution
    has added.
    """
    text = pl.String() if params.time_format == "iso" else pl.Int64()
    own: dict[str, pl.DataType] = {params.time_field: text}
    if params.series_field is not None:
        own[params.series_field] = pl.String()
    if params.known_at_field is not None:
        own[params.known_at_field] = text
    if params.closed_field is not None:
        own[params.closed_field] = pl.Boolean()
    declared = {name: TYPES[spec.type] for name, spec in params.fields.items()}
    arrived = {name: dtype for name, dtype in columns.items() if name not in {*OWN, *declared, *own}}
    nullable = frozenset({*(name for name, spec in params.fields.items() if spec.nullable), *arrived})
    return RecordContract(
        {**own, **declared, **arrived},
        nullable,
        frozenset(arrived),
        params.max_record_kb * 1024,
        params.max_added_fields - len(arrived),
    )


def run_loop(
    landing: LandingBuffer,
    feed: Feed,
    *,
    until_drained: bool,
    stop: Callable[[], bool] = lambda: False,
    turn: Callable[[LandedCommit | None], Any] = lambda _: None,
) -> None:
    """Land records for ever, or until all that was there at the start has landed; *stop* ends it
    after the commit that is under way.

    turn: called after each poll, with what has landed then, if anything.
    """
    poll_s = min(landing.commit_every_s / 5, 0.1)
    while not stop():
        landing.add_records(feed.poll(landing.n_free_records, poll_s))
        drained = until_drained and feed.is_caught_up()
        turn(landing.commit() if landing.is_due or drained else None)
        # Asked again: a refused commit has sent it back
        if drained and landing.is_empty and feed.is_caught_up():
            return
    turn(landing.commit())


def add_new_columns(
    table: VersionedTable, rows: pl.DataFrame, decoded: DecodedBatch
) -> tuple[pl.DataFrame, dict[str, str]]:
    """(*rows* with the table's columns, name -> type of columns made for new fields).

    A field that quarantined records alone have becomes none.
    """
    kept = rows.filter(pl.col("place") != QUARANTINE)
    added = {name: dtype for name, dtype in decoded.added.items() if kept[name].null_count() < kept.height}
    for name, dtype in added.items():
        add_column(table, name, dtype, {"how": "arrived"})
    return rows.select([name for name in rows.columns if name in table.columns]), {
        name: str(dtype) for name, dtype in added.items()
    }


def _read_memory(table: VersionedTable, params: FeedParams) -> RowMemory:
    """What the table's rows say: each series' newest time, and the ids that may come again.

    It is what the landing that wrote them remembered, with two bounds: the newest _RECALL_ROWS rows
    are asked, so a series that was silent longer begins anew; and where more than `feed.max_ids`
    ids lie within `feed.lateness_s`, the oldest are forgotten.
    """
    key = list_id_columns(params)
    least = table.find_row_bound("event_time", _RECALL_ROWS, {"place": ROW})
    if least is None:
        return EMPTY
    newest = (
        table.scan({"place": ROW}, {"event_time": least}, ["series_id", "event_time"])
        .group_by("series_id")
        .agg(newest=pl.col("event_time").max())
        .collect()
    )
    if not params.dedupe:
        return RowMemory(newest, EMPTY.ids)
    values = [
        name
        for name in table.columns
        if not name.startswith("_") and name not in {*PARTITIONS, *key, "known_at"}
    ]
    # A datetime
    behind = newest["newest"].min() - timedelta(seconds=params.lateness_s)  # type: ignore[operator]
    rows = table.scan({"place": ROW}, {"event_time": max(least, behind)}, [*key, *values])
    alive = rows.join(newest.lazy(), on="series_id").filter(
        pl.col("event_time") >= pl.col("newest") - pl.duration(seconds=params.lateness_s)
    )
    ids = alive.select(build_row_ids(key, values)).collect()
    return RowMemory(newest, filter_memory_ids(ids, newest, params))
