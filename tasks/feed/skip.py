"""Records that a topic lost before they were read: the gap is noted in the table, and reading goes on at the first that is there."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from tasks.core.errors import FeedError
from tasks.edges.delta import Table
from tasks.feed.decode import DETAIL, LOST, RULE
from tasks.feed.params import FeedParams
from tasks.feed.sort import MONTH


class Gap(NamedTuple):
    """Offsets of *source* from *first* to before *end*, never read."""

    source: str
    first: int
    end: int


def skip_lost(table: Table, params: FeedParams, kept: Mapping[str, tuple[int, int]]) -> list[Gap]:
    """Move marks to what the topic still has. kept: source -> (first offset that is there, next one to be written).

    Each gap is a row of the place `lost` at its last offset, in the commit that moves the mark, so that marks that follow the rows follow it too.
    Raises FeedError when a topic ends before its mark, MarkMovedError when a process lands that source meanwhile; nothing was skipped then.
    """
    table.follow_rows()
    gaps = []
    for source, (first, end) in sorted(kept.items()):
        if (mark := table.mark(source)) is None:
            continue
        if mark > end:
            raise FeedError(
                f"{source} ends at offset {end:,}, before {mark:,}, up to where it was read: the topic's log was cut, and the same offsets are given to other records now. "
                "Which of its records are new cannot be told, so nothing is skipped. Have what came since the cut produced to a topic made anew, which is read from its beginning."
            )
        if mark < first:
            gaps.append(Gap(source, mark, first))
    if gaps:
        now = datetime.now(UTC)
        rows = [
            {"place": LOST, "month": now.strftime(MONTH[params.partition_by]), "_source": gap.source, "_offset": gap.end - 1, "_timestamp": now,
             RULE: LOST, DETAIL: f"offsets {gap.first} to {gap.end - 1} were removed from the topic before they were read"}
            for gap in gaps
        ]  # fmt: skip
        lost = pl.DataFrame(rows, schema={name: table.columns[name] for name in rows[0]})
        table.commit(lost, {gap.source: gap.first for gap in gaps}, {gap.source: gap.end for gap in gaps}, {"skipped": gaps})
    return gaps
