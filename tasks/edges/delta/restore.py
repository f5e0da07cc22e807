"""Earlier versions: a restore of ours, and offsets that follow a restore by another program."""

import contextlib
from collections.abc import Mapping
from typing import Any

import polars as pl
from deltalake import Transaction

from tasks.core.errors import FeedError, OffsetMovedError
from tasks.core.records import Offsets
from tasks.edges.delta.commit import (
    build_add_actions,
    build_counter_move,
    build_remove_actions,
    commit_actions,
    raise_moved,
)
from tasks.edges.delta.snapshot import COMPACTIONS, REPLAYS, UNREAD, TableSnapshot
from tasks.edges.delta.table import VersionedTable


def restore_table(table: VersionedTable, version: int) -> int:
    """Take *table* back to its rows and offsets at *version*, in one commit.

    What came later is read again. Returns the version of the commit.
    Raises FeedError when *version* cannot be read any more.
    """
    table.refresh()
    earlier = table.read_version(version)
    _apply_version(table, earlier, earlier.list_offsets(), {"restored": version})
    return table.version


def align_offsets(table: VersionedTable) -> bool:
    """Put each offset where the rows of its source end, after a RESTORE by another program.

    One commit. Rows that were committed after that RESTORE are taken back too, and are read again:
    the offsets at which they began were wrong.
    Returns whether there was such a RESTORE.
    """
    table.refresh()
    if (restored := table.log.restored_version) is None:
        return False
    earlier = table.read_version(restored)
    rows = earlier.scan(columns=["_source", "_offset"])
    ends = rows.group_by("_source").agg(pl.col("_offset").max() + 1).collect()
    _apply_version(table, earlier, dict(ends.iter_rows()), {"followed": restored})
    return True


def _apply_version(
    table: VersionedTable, earlier: TableSnapshot, offsets: Offsets, note: Mapping[str, Any]
) -> None:
    """Take the files of *earlier* and *offsets*; sources without an offset are unread."""
    while True:
        now, past = table.list_files(), earlier.list_files()
        added, removed = past.join(now, on="path", how="anti"), now.join(past, on="path", how="anti")
        if missing := [path for path in added["path"] if not (table.folder / path).exists()]:
            raise FeedError(
                f"Version {earlier.version} of {table.folder.name} needs {missing[0]}, which was removed as"
                " old. Choose a later version."
            )
        actions = [
            *build_add_actions(table, added, data_change=True),
            *build_remove_actions(table, removed, data_change=True),
        ]
        wanted = {**dict.fromkeys(table.log.sources - {COMPACTIONS, REPLAYS}, UNREAD), **offsets}
        moves = [
            *(Transaction(s, offset) for s, offset in wanted.items() if offset != table.get_stored_offset(s)),
            build_counter_move(table, COMPACTIONS),
            build_counter_move(table, REPLAYS),
        ]
        with contextlib.suppress(OffsetMovedError):  # another writer was first: compare with its version
            return commit_actions(table, actions, moves, note, lambda: raise_moved(table))
