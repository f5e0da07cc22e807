"""How the table's fields came to be: which were there at the beginning, which came when and by
which version, when each was last seen.
"""

from datetime import datetime
from typing import NamedTuple

import polars as pl

from tasks.edges.delta import VersionedTable
from tasks.feed.land import OWN
from tasks.feed.params import FeedParams
from tasks.feed.sort import ROW


class FieldHistory(NamedTuple):
    """How a field came to be.

    came: `first` (with the table), `declared` (in params.yaml, later), `arrived` (in a record).
    version, at: of the coming; None for the first.
    last_seen: newest event time of a row in which it is not null; None when there is none.
    nullable: whether a record may be without it today.
    """

    field: str
    type: str
    nullable: bool
    came: str
    version: int | None
    at: str | None
    last_seen: datetime | None


def read_history(table: VersionedTable, params: FeedParams) -> list[FieldHistory]:
    """Of each field, in the order in which they came."""
    columns = {name: about for name, about in table.describe_columns().items() if name not in OWN}
    seen = _read_last_seen(table, list(columns))
    return [
        FieldHistory(
            field=name,
            type=about["type"],
            nullable=name not in params.fields or params.fields[name].nullable,
            came=about.get("how", "first"),
            version=int(about["version"]) if "version" in about else None,
            at=about.get("at"),
            last_seen=seen.get(name),
        )
        for name, about in columns.items()
    ]


def _read_last_seen(table: VersionedTable, fields: list[str]) -> dict[str, datetime]:
    """Newest files first, until each field has been seen."""
    found: dict[str, datetime] = {}
    for files in reversed(table.list_file_groups({"place": ROW}, "event_time")):
        wanted = [name for name in fields if name not in found]
        if not wanted:
            break
        newest = table.scan_files(files, ["event_time", *wanted]).select(
            pl.col("event_time").filter(pl.col(n).is_not_null()).max().alias(n) for n in wanted
        )
        found |= {
            name: last for name, last in newest.collect().row(0, named=True).items() if last is not None
        }
    return found
