"""Records that a topic lost before they were read.

The loss is noted in the table, and reading goes on at the first record that is there.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from tasks.core.errors import FeedError
from tasks.edges.delta import VersionedTable, align_offsets, commit_rows
from tasks.feed.contract import DETAIL, LOST, RULE
from tasks.feed.dispositions import MONTH
from tasks.feed.params import FeedParams


class LostOffsets(NamedTuple):
    """Offsets of *source* from *first* to before *end*, never read."""

    source: str
    first: int
    end: int


def skip_lost(
    table: VersionedTable, params: FeedParams, kept: Mapping[str, tuple[int, int]]
) -> list[LostOffsets]:
    """Move offsets to what the topic still has.

    kept: source -> (first offset that is there, next one to be written).
    Each range becomes a row with the disposition `lost` at its last offset, in the commit that
    moves the offset, so that offsets that are aligned with the rows later are behind it too.
    Raises FeedError when a topic ends before its offset, OffsetMovedError when a process lands that
    source meanwhile; nothing was skipped then.
    """
    align_offsets(table)
    ranges = []
    for source, (first, end) in sorted(kept.items()):
        if (offset := table.find_offset(source)) is None:
            continue
        if offset > end:
            raise FeedError(
                f"{source} ends at offset {end:,}, before {offset:,}, up to where it was read: the topic's"
                " log was cut, and the same offsets are given to other records now. Which of its records are"
                " new cannot be decided, so nothing is skipped. Have what came since the cut produced to a"
                " new topic, which is read from its beginning."
            )
        if offset < first:
            ranges.append(LostOffsets(source, offset, first))
    if ranges:
        now = datetime.now(UTC)
        rows = [
            {
                "disposition": LOST,
                "month": now.strftime(MONTH[params.partition_by]),
                "_source": one.source,
                "_offset": one.end - 1,
                "_timestamp": now,
                RULE: LOST,
                DETAIL: f"offsets {one.first} to {one.end - 1} were removed from the topic before they were "
                f"read",
            }
            for one in ranges
        ]
        lost = pl.DataFrame(rows, schema={name: table.columns[name] for name in rows[0]})
        commit_rows(
            table,
            lost,
            {one.source: one.first for one in ranges},
            {one.source: one.end for one in ranges},
            {"skipped": ranges},
        )
    return ranges
