"""The history of the table's fields: when and how each came, and when it was last seen."""

from datetime import datetime
from typing import NamedTuple

import polars as pl

from tasks.edges.delta import VersionedTable
from tasks.feed.dispositions import ROW
from tasks.feed.land import TABLE_COLUMNS
from tasks.feed.params import FeedParams


class FieldHistory(NamedTuple):
    """How a field came to be.

    came: `first` (with the table), `declared` (in params.yaml, later), `arrived` (in a record).
    version, since: of the coming; None for the first.
    last_seen: newest event time of a row in which it is not null; None when there is none.
    nullable: whether a record may be without it today.
    """

    field: str
    type: str
    nullable: bool
    came: str
    version: int | None
    since: str | None
    last_seen: datetime | None


def read_history(table: VersionedTable, params: FeedParams) -> list[FieldHistory]:
    """Of each field, in the order in which they came."""
    notes = {name: note for name, note in table.describe_columns().items() if name not in TABLE_COLUMNS}
    last_seen = _read_last_seen(table, list(notes))
    return [
        FieldHistory(
            field=name,
            type=note["type"],
            nullable=name not in params.fields or params.fields[name].nullable,
            came=note.get("how", "first"),
            version=int(note["version"]) if "version" in note else None,
            since=note.get("at"),
            last_seen=last_seen.get(name),
        )
        for name, note in notes.items()
    ]


def _read_last_seen(table: VersionedTable, fields: list[str]) -> dict[str, datetime]:
    """Field -> newest event time with a value; newest files are read first, until all are seen."""
    last_seen: dict[str, datetime] = {}
    for files in reversed(table.list_file_groups({"disposition": ROW}, "event_time")):
        wanted = [name for name in fields if name not in last_seen]
        if not wanted:
            break
        newest = table.scan_files(files, ["event_time", *wanted]).select(
            pl.col("event_time").filter(pl.col(n).is_not_null()).max().alias(n) for n in wanted
        )
        times = newest.collect().row(0, named=True)
        last_seen |= {name: time for name, time in times.items() if time is not None}
    return last_seen
