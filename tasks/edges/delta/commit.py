"""Commits: what becomes the table's next version, or does not happen at all.

`commit_rows` has the steps of a landing:

1. Compare the table's offsets with where the rows begin.
2. Write a parquet file a partition. Sync the files, then their folders.
3. Write the log entry of the next version: it names the files and the offsets. delta-rs may not
   rebase it. Where another writer was first, read its versions, compare again as in step 1, and try
   again.
4. Read the log, and sync every entry that this handle has not synced.

The call returns after step 4. A kill before step 3 leaves files that no version names, and
compaction removes them. A kill after step 3 leaves a whole commit, which the next reader sees
by its offsets. Every other commit has the same steps 3 and 4 with a comparison of its own.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
from deltalake import CommitProperties, PostCommitHookProperties, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

from tasks.core.errors import FeedError, OffsetMovedError
from tasks.core.records import Offsets
from tasks.edges import files as disk
from tasks.edges.delta.log import OURS
from tasks.edges.delta.schema import build_field
from tasks.edges.delta.snapshot import COMPACTIONS, REPLAYS, UNREAD, TableSnapshot
from tasks.edges.delta.statistics import compute_statistics, format_file_statistics
from tasks.edges.delta.storage import WrittenFile, build_write_error, delete_files
from tasks.edges.delta.table import VersionedTable

# `compact_table` makes checkpoints, and syncs them
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def commit_rows(
    table: VersionedTable,
    rows: pl.DataFrame,
    begins: Offsets,
    ends: Offsets,
    note: Mapping[str, Any] | None = None,
) -> int:
    """Append *rows* and move the offsets from *begins* to *ends*, all or nothing.

    rows: the table's columns, in any order; a missing column is null. There may be no rows.
    begins: a source that it does not name is read from its beginning.
    note: kept in the log.
    Returns the version. Raises OffsetMovedError when an offset is not where *rows* begin, or
    another writer moves one meanwhile; nothing was written then.
    """

    def check() -> None:
        table.check_not_restored()
        check_offsets(table, begins, ends)

    # 1. Compare
    try:
        check()
    except DeltaError:  # the entries after this handle's version were cleaned from the log as old
        table.refresh()
        check()
    # 2. Write and sync the files
    written = table.storage.write_rows(rows, table.stored_names)
    # 3. and 4. Commit, and sync the log
    moves = [Transaction(source, end) for source, end in ends.items() if end != begins.get(source)]
    commit_actions(
        table, build_new_actions(table, written), moves, note, check, [file.path for file in written]
    )
    return table.version


def check_offsets(table: TableSnapshot, begins: Offsets, ends: Offsets) -> None:
    """Raise OffsetMovedError when *table* has read another part of a source than up to *begins*."""
    for source in {**begins, **ends}:
        stored = table.get_stored_offset(source)
        if stored is not None and stored != begins.get(source, UNREAD):
            begin = begins.get(source, "its beginning")
            raise OffsetMovedError(
                f"{source}: rows begin at {begin}, but {table.folder.name} has read up to {stored}. They are"
                " read again from there."
            )


def add_column(
    table: VersionedTable, name: str, dtype: pl.DataType, note: Mapping[str, str] | None = None
) -> None:
    """Add a nullable column; earlier rows have null there. Nothing when the table has it.

    note: kept with the column, in addition to version and time.
    Raises FeedError when the table has it with another type.
    """

    def write(properties: CommitProperties) -> None:
        came = {"version": str(table.version + 1), "at": datetime.now(UTC).isoformat()}
        table.delta_table.alter.add_columns(
            [build_field(name, dtype, {**(note or {}), **came})],
            commit_properties=properties,
            post_commithook_properties=_NO_HOOKS,
        )

    table.refresh()
    while name not in table.columns:
        table.check_not_restored()
        with contextlib.suppress(OffsetMovedError):  # another writer was first: look again
            _write_version(table, write, [], {"column": name}, lambda: raise_moved(table))
            _sync_version(table)
        disk.run_durability_hook("column added")
    if (stored := table.columns[name]) != dtype:
        raise FeedError(
            f"Field {name!r} is declared {dtype}, but in {table.folder.name} it is {stored}; a column never"
            " changes its type. Declare it as it is, or under another name; `tidemill schema` says since"
            " when it is there."
        )


def replace_files(
    table: VersionedTable, files: pl.DataFrame, rows: pl.DataFrame, note: Mapping[str, Any]
) -> int:
    """Put *rows* in the place of *files*, all or nothing, and count a replay.

    files: a group of `list_file_groups`.
    Returns the version. Raises OffsetMovedError when another writer has rewritten files meanwhile;
    nothing was written then.
    """
    check = build_files_check(table, files)
    written = table.storage.write_rows(rows, table.stored_names)
    actions = [*build_new_actions(table, written), *build_remove_actions(table, files, data_change=True)]
    moves = [build_counter_move(table, COMPACTIONS), build_counter_move(table, REPLAYS)]
    commit_actions(table, actions, moves, note, check, [file.path for file in written])
    return table.version


def commit_actions(
    table: VersionedTable,
    actions: list[Any],
    moves: list[Transaction],
    note: Mapping[str, Any] | None,
    check: Callable[[], None],
    written: Iterable[Path] = (),
) -> None:
    """Steps 3 and 4: commit *actions* and *moves*, and have the log on disk.

    check: called where another writer was first; raises when the commit may not be tried again.
    written: files to remove when the commit is given up.
    """

    def write(properties: CommitProperties) -> None:
        table.delta_table.create_write_transaction(
            actions,
            "append",
            table.delta_table.schema(),
            list(table.stored_names.values()),
            commit_properties=properties,
            post_commithook_properties=_NO_HOOKS,
        )

    try:
        _write_version(table, write, moves, note, check)
    except (OffsetMovedError, FeedError):  # nothing was committed
        delete_files(written)
        raise
    _sync_version(table)


def _write_version(
    table: VersionedTable,
    write: Callable[[CommitProperties], Any],
    moves: list[Transaction],
    note: Mapping[str, Any] | None,
    check: Callable[[], None],
) -> None:
    """Step 3: have *write* make the next version.

    An error of *write* does not tell whether the commit was made; the log does.
    Raises FeedError when it was not made and no other writer was first: the disk is full, or the
    folder cannot be written to.
    """
    commit_id = uuid4().hex
    properties = CommitProperties(
        app_transactions=moves,
        custom_metadata={OURS: json.dumps({"id": commit_id, **(note or {})}, default=str)},
        max_commit_retries=0,
    )
    while True:
        before = table.version
        try:
            write(properties)
        except Exception as error:  # whatever it is, the log decides
            table.refresh()
            if table.log.has_commit(commit_id, range(before + 1, table.version + 1)):
                break
            if table.version == before:
                raise build_write_error(table.folder, error) from error
            check()
        else:
            break


def _sync_version(table: VersionedTable) -> None:
    """Step 4: read what is committed, and have it on disk. Its files stay, even if this fails."""
    disk.run_durability_hook("committed")
    table.refresh()
    table.log.sync(table.version)
    disk.run_durability_hook("commit synced")


def raise_moved(table: VersionedTable) -> None:
    """Raise OffsetMovedError: another writer was first."""
    raise OffsetMovedError(f"Another writer has committed to {table.folder.name} meanwhile.")


def build_files_check(table: VersionedTable, files: pl.DataFrame) -> Callable[[], None]:
    """A check that *files* are still in the table, and that no file was rewritten.

    It is made once here: *table* may have moved since *files* were listed.
    """
    n_compactions = table.find_offset(COMPACTIONS)

    def check() -> None:
        table.check_not_restored()
        is_moved = table.find_offset(COMPACTIONS) != n_compactions
        if is_moved or not set(files["path"]) <= set(table.list_files()["path"]):
            raise OffsetMovedError(
                f"Files of {table.folder.name} were rewritten by another process meanwhile."
            )

    check()
    return check


def build_counter_move(table: TableSnapshot, counter: str) -> Transaction:
    """The move of COMPACTIONS or REPLAYS by one."""
    return Transaction(counter, (table.find_offset(counter) or 0) + 1)


def build_new_actions(
    table: TableSnapshot, written: Iterable[WrittenFile], *, data_change: bool = True
) -> list[AddAction]:
    """The actions that add *written*. data_change: False where their rows are not new."""
    return [
        AddAction(
            str(file.path.relative_to(table.folder)),
            file.path.stat().st_size,
            file.partition,
            _get_now_ms(),
            data_change,
            compute_statistics(file.rows),
        )
        for file in written
    ]


def build_add_actions(table: TableSnapshot, files: pl.DataFrame, *, data_change: bool) -> list[AddAction]:
    """The actions that add *files* of another version again."""
    return [
        AddAction(
            file["path"],
            file["size_bytes"],
            {stored: file[name] for name, stored in table.stored_names.items()},
            _get_now_ms(),
            data_change,
            format_file_statistics(file),
        )
        for file in files.iter_rows(named=True)
    ]


def build_remove_actions(
    table: TableSnapshot, files: pl.DataFrame, *, data_change: bool
) -> list[RemoveAction]:
    """The actions that remove *files*."""
    return [
        RemoveAction(
            file["path"],
            data_change,
            _get_now_ms(),
            file["size_bytes"],
            {stored: file[name] for name, stored in table.stored_names.items()},
        )
        for file in files.iter_rows(named=True)
    ]


def _get_now_ms() -> int:
    return int(time.time() * 1000)
