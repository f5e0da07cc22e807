"""Records that a topic lost before they were read: what is lost is noted in the table, and
reading goes on at the first that is there.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from tasks.core.errors import FeedError
from tasks.edges.delta import VersionedTable, align_offsets, commit_rows
from tasks.feed.decode import DETAIL, LOST, RULE
from tasks.feed.params import FeedParams
from tasks.feed.sort import MONTH


class LostOffsets(NamedTuple):
    """Offsets of *source* from *first* to before *end*, never read."""

    source: str
    first: int
    end: int


def skip_lost(
    table: VersionedTable, params: FeedParams, kept: Mapping[str, tuple[int, int]]
) -> list[LostOffsets]:
    """Move marks to what the topic still has. kept: source -> (first offset that is there, next one
    to be written).

    Each range is a row of the place `lost` at its last offset, in the commit that moves the mark,
    so that marks that follow the rows follow it too.
    Raises FeedError when a topic ends before its mark, OffsetMovedError when a process lands that
    source meanwhile; nothing was skipped then.
    """
    align_offsets(table)
    found = []
    for source, (first, end) in sorted(kept.items()):
        if (mark := table.find_offset(source)) is None:
            continue
        if mark > end:
            raise FeedError(
                f"{source} ends at offset {end:,}, before {mark:,}, up to where it was read: the topic's log"
                " was cut, and the same offsets are given to other records now. Which of its records are new"
                " cannot be told, so nothing is skipped. Have what came since the cut produced to a topic"
                " made anew, which is read from its beginning."
            )
        if mark < first:
            found.append(LostOffsets(source, mark, first))
    if found:
        now = datetime.now(UTC)
        rows = [
            {
                "place": LOST,
                "month": now.strftime(MONTH[params.partition_by]),
                "_source": one.source,
                "_offset": one.end - 1,
                "_timestamp": now,
                RULE: LOST,
                DETAIL: f"offsets {one.first} to {one.end - 1} were removed from the topic before they were "
                f"read",
            }
            for one in found
        ]
        lost = pl.DataFrame(rows, schema={name: table.columns[name] for name in rows[0]})
        commit_rows(
            table,
            lost,
            {one.source: one.first for one in found},
            {one.source: one.end for one in found},
            {"skipped": found},
        )
    return found
