"""A Delta table whose rows, and the offsets of what was read, go in one commit, on disk.

delta-rs commits. The files are written here, because three things are not its business:

- It never syncs. Parquet files are on disk before the commit that names them, and the commit is on
  disk before the call returns.
- It stores an application's transaction and compares nothing. Offsets are compared with where the
  rows begin.
- It lets two writers remove the same file. A rewrite checks that all files are still there.

`commit` has the steps of a commit, numbered. A commit becomes the version right after the one at
which it was compared, or none. Where another writer was first, its versions are read, everything is
compared again, and the commit is tried again or given up. The files of a commit that is given up
are removed, and the caller reads its offsets and its records again
(docs/decisions/exactly-once.md).

A RESTORE by another program (delta-rs itself, Spark) takes rows back and leaves the offsets. It is
found in the log before the next commit, and `align_offsets` puts the offsets where the rows end.
"""

from tasks.edges.delta.commit import add_column, commit_rows, replace_files
from tasks.edges.delta.compact import compact_table
from tasks.edges.delta.restore import align_offsets, restore_table
from tasks.edges.delta.snapshot import REPLAYS
from tasks.edges.delta.table import VersionedTable, open_existing_table

__all__ = [
    "REPLAYS",
    "VersionedTable",
    "add_column",
    "align_offsets",
    "commit_rows",
    "compact_table",
    "open_existing_table",
    "replace_files",
    "restore_table",
]
