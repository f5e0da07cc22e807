"""Compaction: small files become one, and what no version needs any more is removed."""

import time
from pathlib import Path

import polars as pl

from tasks.core.errors import OffsetMovedError
from tasks.edges import files as disk
from tasks.edges.delta.commit import (
    build_counter_move,
    build_files_check,
    build_new_actions,
    build_remove_actions,
    commit_actions,
)
from tasks.edges.delta.snapshot import COMPACTIONS
from tasks.edges.delta.storage import delete_files
from tasks.edges.delta.table import VersionedTable

SMALL_BYTES = 16_000_000  # files below are merged
MERGE_FILES = 16  # ... when a partition has this many


def compact_table(table: VersionedTable, keep_h: float = 24.0) -> dict[str, int]:
    """Merge small files, make a checkpoint, remove old log entries and unused files.

    keep_h: a file is removed when no version of the last *keep_h* hours has it and it is older than
    that; so is what a kill left half-written in the log.
    Returns the number of files that were merged and removed. Afterwards each partition has fewer
    than MERGE_FILES files below SMALL_BYTES, and the log has the entries of its `keep_log_h` hours.
    Another writer may commit meanwhile. Another compaction may run too; one of them merges less.
    """
    table.refresh()
    groups = table.list_files().group_by(table.partition_by)
    n_merged = sum(_merge_partition(table, group) for _, group in groups)
    table.delta_table.create_checkpoint()
    table.log.sync_checkpoints()
    disk.run_durability_hook("checkpoint made")
    table.delta_table.cleanup_metadata()
    unused = table.delta_table.vacuum(
        retention_hours=int(keep_h), dry_run=True, enforce_retention_duration=False, full=True
    )
    # delta-rs writes an entry of the log under such a name before it renames it
    entries = [path for path in table.log.folder.glob("*#*") if _is_older(path, 3600 * keep_h)]
    old = [*(table.folder / path for path in unused), *entries]
    delete_files(old)
    disk.run_durability_hook("old files removed")
    table.refresh()
    return {"merged": n_merged, "removed": len(old)}


def select_small_files(files: pl.DataFrame) -> pl.DataFrame:
    """The files of one partition that are to be merged; none while they are few."""
    small = files.filter(pl.col("size_bytes") < SMALL_BYTES)
    return small if small.height >= MERGE_FILES else small.clear()


def _merge_partition(table: VersionedTable, files: pl.DataFrame) -> int:
    """Rewrite one partition's small files as one; the number of files that went."""
    small = select_small_files(files)
    if small.is_empty():
        return 0
    try:
        check = build_files_check(table, small)
        written = table.storage.write_rows(table.scan_files(small).collect(), table.stored_names)
        disk.run_durability_hook("merged files written")
        actions = [
            *build_new_actions(table, written, data_change=False),
            *build_remove_actions(table, small, data_change=False),
        ]
        moves = [build_counter_move(table, COMPACTIONS)]
        note = {"merged": small.height}
        commit_actions(table, actions, moves, note, check, [file.path for file in written])
    except OffsetMovedError:  # another writer has rewritten files
        return 0
    return small.height


def _is_older(path: Path, seconds: float) -> bool:
    """Whether a file exists and was written that long ago."""
    try:
        return path.stat().st_mtime < time.time() - seconds
    except FileNotFoundError:
        return False
