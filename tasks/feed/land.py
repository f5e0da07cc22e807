"""Landing: records are held until a commit is due, then decoded, sorted and committed with the marks they move, all or nothing."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tasks.core.errors import MarkMovedError
from tasks.core.frames import UTC
from tasks.core.records import RECORDS, Feed, Polled
from tasks.edges.delta import TIDY, Table
from tasks.feed.decode import DETAIL, RULE, JsonDecoder
from tasks.feed.params import TYPES, FeedParams
from tasks.feed.sort import DUPLICATE, EMPTY, ROW, Memory, forget, sort_records

_OWN = {"series_id": pl.String(), "event_time": UTC, "known_at": UTC, "place": pl.String(), "month": pl.String(), "_source": pl.String(), "_offset": pl.Int64(),
        "_timestamp": UTC, "_key": pl.Binary(), "_headers": pl.String(), "_raw": pl.Binary(), RULE: pl.String(), DETAIL: pl.String()}  # fmt: skip
PARTITIONS = ("place", "month")


class Landed(NamedTuple):
    """One commit.

    counts: records by place, duplicates too; they add up to what was read. seconds: from the first held record to the commit's end;
    commit_seconds: of it for decoding, sorting and committing. newest: of the rows' event times. added: fields that became columns.
    """

    version: int
    counts: dict[str, int]
    bytes_read: int
    seconds: float
    commit_seconds: float
    newest: datetime | None
    added: dict[str, str]


def open_table(folder: Path, params: FeedParams) -> Table:
    """The feed's table, made when it is not there, with a column for each field of *params*."""
    fields = {name: TYPES[spec.type] for name, spec in params.fields.items()}
    table = Table(folder, {**_OWN, **fields}, PARTITIONS, sync=params.sync, keep_log_h=params.keep_log_h)
    for name, dtype in fields.items():
        table.add_column(name, dtype)
    return table


class Landing:
    """Holds what a feed brought and commits it. every: see sort_records. Not for two threads."""

    def __init__(self, table: Table, params: FeedParams, every: str | None, feed: Feed) -> None:
        self.table, self._params, self._every, self._feed = table, params, every, feed
        self._memory = EMPTY
        self._held: list[pl.DataFrame] = []
        self._ends: dict[str, int] = {}
        self._begins: dict[str, int] = {}
        self._bytes = self._n_held = 0
        self._since = 0.0
        feed.open(self.marks)

    def marks(self) -> dict[str, int]:
        """The table's marks, read anew, and with them what is remembered of its rows; nothing is held any more."""
        self.table.refresh()
        self._forget_held()
        self._memory = _recall(self.table, self._params)
        found = {source: mark for source, mark in self.table.marks().items() if source != TIDY}
        self._begins = dict(found)
        return found

    @property
    def begins(self) -> dict[str, int]:
        """Where what is held begins, by source: the table's marks."""
        return self._begins

    @property
    def held_bytes(self) -> int:
        """Bytes of the values that are held."""
        return self._bytes

    @property
    def room(self) -> int:
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
        full = self._n_held >= self._params.commit_rows or self._bytes >= self._params.max_buffer_mb * 1_000_000
        return full or time.monotonic() - self._since >= self._params.commit_every_s

    def hold(self, polled: Polled) -> None:
        """Take what was polled."""
        if polled.revoked:
            self._held = [kept for frame in self._held if (kept := frame.filter(~pl.col("_source").is_in(polled.revoked))).height]
            self._ends = {source: end for source, end in self._ends.items() if source not in polled.revoked}
            self._n_held = sum(frame.height for frame in self._held)
        if polled.records.height:
            if not self._n_held:
                self._since = time.monotonic()
            self._held.append(polled.records)
            self._n_held += polled.records.height
            self._bytes += int(polled.records["_value"].bin.size().sum() or 0)
        self._ends |= polled.ends

    def commit(self) -> Landed | None:
        """Commit what is held; None when another writer had read on: what was held is forgotten and read again from the table's marks."""
        if not self._n_held:
            return None
        begun = time.monotonic()
        records = pl.concat(self._held, rechunk=True) if self._held else pl.DataFrame(schema=dict(RECORDS))
        decoder = self._decoder()
        decoded = decoder.decode(records["_value"].drop_nulls())
        rows, memory = sort_records(records, decoded, self._params, self._every, self._memory)
        counts = dict(rows["place"].value_counts().iter_rows())
        begins = {source: begin for source in self._ends if (begin := self._begins.get(source)) is not None}
        try:
            for name, dtype in decoded.added.items():
                self.table.add_column(name, dtype)
            about = {"counts": counts, "added": {name: str(dtype) for name, dtype in decoded.added.items()}}
            version = self.table.commit(rows.filter(pl.col("place") != DUPLICATE), begins, self._ends, about)
        except MarkMovedError:
            self._feed.rewind()
            return None
        now = time.monotonic()
        newest = rows.filter(pl.col("place") == ROW)["event_time"].max()
        landed = Landed(version, counts, self._bytes, now - self._since, now - begun, newest, about["added"])  # type: ignore[arg-type]  # a datetime
        self._memory = memory
        self._begins |= self._ends
        self._forget_held()
        return landed

    def _forget_held(self) -> None:
        self._held, self._ends, self._bytes, self._n_held = [], {}, 0, 0

    def _decoder(self) -> JsonDecoder:
        p = self._params
        own: dict[str, pl.DataType] = {p.time_field: pl.String() if p.time_format == "iso" else pl.Int64()}
        if p.series_field is not None:
            own[p.series_field] = pl.String()
        if p.known_at_field is not None:
            own[p.known_at_field] = own[p.time_field]
        if p.closed_field is not None:
            own[p.closed_field] = pl.Boolean()
        declared = {name: TYPES[spec.type] for name, spec in p.fields.items()}
        added = {name: dtype for name, dtype in self.table.columns.items() if name not in {*_OWN, *declared, *own}}
        nullable = frozenset({*(name for name, spec in p.fields.items() if spec.nullable), *added})
        return JsonDecoder({**own, **declared, **added}, nullable, p.max_record_kb * 1024, p.max_added_fields - len(added))


def drain(
    landing: Landing,
    feed: Feed,
    *,
    until_drained: bool,
    stop: Callable[[], bool] = lambda: False,
    turn: Callable[[Landed | None], Any] = lambda _: None,
) -> None:
    """Land records for ever, or until all that was there at the start has landed; *stop* ends it after the commit that is under way.

    turn: called after each poll, with what has landed then, if anything.
    """
    poll_s = min(landing.commit_every_s / 5, 0.1)
    while not stop():
        landing.hold(feed.poll(landing.room, poll_s))
        drained = until_drained and feed.is_drained()
        turn(landing.commit() if landing.is_due or drained else None)
        if drained and landing.is_empty:
            return
    turn(landing.commit())


def _recall(table: Table, params: FeedParams) -> Memory:
    """What the table's newest rows say: each series' newest time, and the ids that may come again."""
    key = ["series_id", "event_time", *(["known_at"] if params.known_at_field else []), *params.id_fields]
    last = table.scan({"place": ROW}, columns=["event_time"]).select(pl.col("event_time").max()).collect().item()
    if last is None:
        return EMPTY
    since = last - timedelta(seconds=2 * params.lateness_s)
    values = [name for name in table.columns if not name.startswith("_") and name not in {*PARTITIONS, *key}]
    if params.known_at_field is None and "known_at" in values:
        values.remove("known_at")
    rows = table.scan({"place": ROW}, least={"event_time": since}).select(*key, *values).collect()
    newest = rows.group_by("series_id").agg(newest=pl.col("event_time").max())
    if not params.dedupe:
        return Memory(newest, EMPTY.ids)
    payload = pl.struct(values).hash() if values else pl.lit(0, pl.UInt64)
    ids = rows.select(_id=pl.struct(key).hash(), _payload=payload, series_id="series_id", event_time="event_time")
    return Memory(newest, forget(ids, newest, params))
