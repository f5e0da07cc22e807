"""A Delta table into which rows and the marks of what was read go in one commit, on disk before
anybody is told.

delta-rs commits; the files are written here, because three things are not its business. It never
syncs: parquet files are on disk before the commit names them, and the commit before `commit`
returns. It stores an application's transaction and compares nothing: marks are compared with where
the rows begin. It lets two writers remove the same file: whoever rewrites files looks whether they
are all still there.

A commit becomes the very next version after the one at which it was compared, or none: delta-rs may
not rebase it. When somebody was first, what they did is read, everything is compared again, and it
is tried again or given up; files that it would have named are removed then, and the caller reads
its marks and its records again (docs/decisions/exactly-once.md).

Somebody else's RESTORE (delta-rs's own, Spark's) takes rows back and leaves the marks. It is found
in the log before anything is committed after it, and `align_offsets` puts the marks where the rows
end.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC as ZONE
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import DeltaError
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction

from tasks.core.errors import FeedError, OffsetMovedError
from tasks.core.frames import UTC
from tasks.core.records import Marks

Columns = Mapping[str, pl.DataType]

_ABOUT = "tidemill."  # before the keys of what we keep beside a column
TIDY = "tidy"  # the mark that every rewriting of files moves by one
_UNREAD = -1  # a mark that was taken back to before the first record; Delta cannot forget one
# The mark that every replay of quarantined records moves by one: what a landing remembers of the
# rows is old then
REPLAY = "replay"
_TYPES: dict[Any, str] = {
    pl.String(): "string",
    pl.Binary(): "binary",
    pl.Boolean(): "boolean",
    pl.Int32(): "integer",
    pl.Int64(): "long",
    pl.Float64(): "double",
    UTC: "timestamp",
}
_FRAME_TYPES: dict[str, Any] = {name: dtype for dtype, name in _TYPES.items()}
# `tidy` makes checkpoints, and syncs them
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_STATISTICS = (pl.Int64, pl.Datetime)  # columns whose least and greatest value readers skip files by
SMALL_BYTES = 16_000_000  # files below are merged
MERGE_FILES = 16  # ... when a partition has this many


def run_durability_hook(point: str) -> None:
    """A place between two durable writes, named so that tests can end the process there.

    Does nothing.
    """


class VersionedTable:
    """One table. columns: name -> type, `partition_by` among them (strings). sync: off for what may
    be lost with the power.

    Not for two threads: each takes a Table of its own.
    """

    def __init__(
        self,
        folder: Path,
        columns: Columns,
        partition_by: Sequence[str],
        *,
        sync: bool = True,
        keep_log_h: int = 6,
    ) -> None:
        self.folder, self.partition_by, self._sync = folder, list(partition_by), sync
        self._log = folder / "_delta_log"
        if not DeltaTable.is_deltatable(str(folder)):
            fresh = [path for path in (self._log, folder, *folder.parents) if not path.exists()]
            configuration = {
                "delta.logRetentionDuration": f"interval {keep_log_h} hours",
                "delta.checkpointInterval": "100",
            }
            with _convert_write_errors(folder):
                DeltaTable.create(
                    str(folder),
                    _build_schema(columns),
                    partition_by=self.partition_by,
                    mode="ignore",
                    configuration=configuration,
                )
            for made in fresh:
                self._sync_folder(made.parent)
            run_durability_hook("table created")
        self._table = DeltaTable(str(folder))
        self._read = self._synced = -1  # versions up to which the log was read here, and was synced
        self._sources: set[str] = set()
        # The version at which somebody else took rows back, and the marks have not followed
        self._restored: int | None = None
        self._read_log()

    @property
    def version(self) -> int:
        """The version that this handle has read."""
        return self._table.version()

    @property
    def is_restored(self) -> bool:
        """Whether somebody took rows back and left the marks: no commit before `align_offsets`."""
        return self._restored is not None

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """Name -> type, as of this handle's version."""
        return {field.name: _FRAME_TYPES[field.type.type] for field in self._table.schema().fields}

    def refresh(self) -> None:
        """Read what others have committed."""
        self._table.update_incremental()
        self._read_log()

    def mark(self, source: str) -> int | None:
        """The next offset to read of *source*, as of this handle's version; None when nothing of
        it is in the table.
        """
        stored = self._table.transaction_version(source)
        return None if stored == _UNREAD else stored

    def commit(
        self, rows: pl.DataFrame, begins: Marks, ends: Marks, about: Mapping[str, Any] | None = None
    ) -> int:
        """Append *rows* and move the marks from *begins* to *ends*, all or nothing.

        Returns the version; rows may be none.
        rows: this table's columns, in any order; a column that lacks is null. about: noted in the
        log. A source that *begins* does not name is read from its beginning. Raises MarkMovedError
        when a mark is not where *rows* begin, or another writer moves one meanwhile: nothing was
        written.
        """

        def stands() -> None:
            self._check_not_restored()
            for source in {**begins, **ends}:
                stored = self._table.transaction_version(source)
                if stored is not None and stored != begins.get(source, _UNREAD):
                    begin = begins.get(source, "its beginning")
                    raise OffsetMovedError(
                        f"{source}: rows begin at {begin}, but {self.folder.name} has read up to {stored}."
                        " They are read again from there."
                    )

        try:
            stands()
        except DeltaError:  # the log's entries were cleaned away as old while this handle stood still
            self.refresh()
            stands()
        written = self._write(rows)
        moves = [Transaction(source, end) for source, end in ends.items() if end != begins.get(source)]
        self._commit_actions([add for add, _ in written], moves, about, stands, [path for _, path in written])
        return self.version

    def add_column(self, name: str, dtype: pl.DataType, about: Mapping[str, str] | None = None) -> None:
        """Add a nullable column; earlier rows have null there.

        Nothing when it is there already. about: kept beside its name, with version and time.
        Raises FeedError when it is there with another type.
        """

        def write(properties: CommitProperties) -> None:
            told = {**(about or {}), "version": str(self.version + 1), "at": datetime.now(ZONE).isoformat()}
            self._table.alter.add_columns(
                [_build_field(name, dtype, told)],
                commit_properties=properties,
                post_commithook_properties=_NO_HOOKS,
            )

        self.refresh()
        while name not in self.columns:
            self._check_not_restored()
            with contextlib.suppress(OffsetMovedError):  # another writer was first: look again
                self._commit_version(write, [], {"column": name}, self._raise_moved)
                self._sync_committed()
            run_durability_hook("column added")
        if (was := self.columns[name]) != dtype:
            raise FeedError(
                f"Field {name!r} is declared {dtype}, but in {self.folder.name} it is {was}; a column never"
                " changes its type. Declare it as it is, or under another name; `tidemill schema` says since"
                " when it is there."
            )

    def described(self) -> dict[str, dict[str, str]]:
        """Name -> what is kept beside each column: type, and version, time and manner of its
        coming (those of the beginning say nothing).
        """
        return {
            f.name: {
                "type": str(_FRAME_TYPES[f.type.type]),
                **{key.removeprefix(_ABOUT): v for key, v in f.metadata.items() if key.startswith(_ABOUT)},
            }
            for f in self._table.schema().fields
        }

    def find_row_bound(self, column: str, n_rows: int, only: Mapping[str, str] | None = None) -> Any:
        """A value of *column* such that the files that reach it hold *n_rows* rows, or all there
        are; None when there are none.
        """
        files = self._list_files(only or {}, {})
        if files.is_empty():
            return None
        newest = files.sort(f"max.{column}", descending=True).with_columns(
            n=pl.col("num_records").cum_sum() - pl.col("num_records")
        )
        return newest.filter(pl.col("n") < n_rows)[f"max.{column}"].min()

    def scan(
        self,
        only: Mapping[str, str] | None = None,
        least: Mapping[str, Any] | None = None,
        columns: Iterable[str] | None = None,
    ) -> pl.LazyFrame:
        """The rows as of this handle's version.

        only: values of partition columns. least: files whose greatest value of a column is smaller
        are not opened; rows are not filtered by it.
        """
        return self._open(self._list_files(only or {}, least or {}), columns)

    def _open(self, files: pl.DataFrame, columns: Iterable[str] | None = None) -> pl.LazyFrame:
        wanted = {
            name: dtype for name, dtype in self.columns.items() if columns is None or name in set(columns)
        }
        stored = {name: dtype for name, dtype in wanted.items() if name not in self.partition_by}
        frames = []
        for values, group in files.group_by(self.partition_by, maintain_order=True):
            paths = [str(self.folder / path) for path in group["path"]]
            frame = pl.scan_parquet(
                paths,
                schema=stored,
                missing_columns="insert",
                extra_columns="ignore",
                hive_partitioning=False,
                glob=False,
            )
            fixed = [
                pl.lit(value, pl.String).alias(name)
                for name, value in zip(self.partition_by, values, strict=True)
                if name in wanted
            ]
            frames.append(frame.with_columns(fixed).select(list(wanted)))
        return pl.concat(frames) if frames else pl.LazyFrame(schema=wanted)

    def least(self, column: str) -> Any:
        """The least value of *column* by the files' statistics; None when there are no rows."""
        files = self._list_files({}, {})
        return files[f"min.{column}"].min() if files.height else None

    def greatest(self, column: str, only: Mapping[str, str] | None = None) -> Any:
        """The greatest value of *column* by the files' statistics; None when there are no rows."""
        files = self._list_files(only or {}, {})
        return files[f"max.{column}"].max() if files.height else None

    def count_below(self, column: str, bound: Any, only: Mapping[str, str] | None = None) -> int:
        """Rows whose *column* is below *bound*.

        Opens only the files that hold some on either side.
        """
        files = self._list_files(only or {}, {})
        if files.is_empty():
            return 0
        whole = files.filter(pl.col(f"max.{column}") < bound)
        cut = files.filter((pl.col(f"min.{column}") < bound) & (pl.col(f"max.{column}") >= bound))
        inside = (
            self._open(cut, [column]).filter(pl.col(column) < bound).select(pl.len()).collect().item()
            if cut.height
            else 0
        )
        return int(whole["num_records"].sum()) + inside

    def counts(self, partition: str) -> dict[str, int]:
        """Rows by the values of a partition column."""
        return dict(
            self._list_files({}, {})
            .group_by(partition)
            .agg(pl.col("num_records").sum())
            .sort(partition)
            .iter_rows()
        )

    @property
    def n_files(self) -> int:
        """Files of this version."""
        return self._list_files({}, {}).height

    def marks(self) -> dict[str, int]:
        """Every source's mark, as of this handle's version."""
        return {
            source: mark
            for source in sorted(self._sources - {REPLAY})
            if (mark := self.mark(source)) is not None
        }

    @property
    def n_versions_since_checkpoint(self) -> int:
        """Versions since the last checkpoint; `tidy` makes one."""
        last = self._log / "_last_checkpoint"
        return self.version - (int(json.loads(last.read_bytes())["version"]) if last.exists() else 0)

    def compact(self, say: Callable[[str], None] = lambda _: None, keep_h: float = 24.0) -> dict[str, int]:
        """Merge small files, make a checkpoint, remove log entries and files that nobody needs any
        more.

        Returns what was done, in files. Afterwards each partition has fewer than MERGE_FILES files
        below SMALL_BYTES, and the log has the entries of the last `keep_log_h` hours. A file that
        no version of the last *keep_h* hours has, and that is older than that, is removed, and what
        a kill left half-written in the log. Another writer may commit meanwhile; another `tidy` may
        too, and then one of them merges less.
        """
        self.refresh()
        n_merged = sum(
            self._merge(group) for _, group in self._list_files({}, {}).group_by(self.partition_by)
        )
        self._table.create_checkpoint()
        self._sync_folder(self._log, self._log.glob("*checkpoint*"))
        run_durability_hook("checkpoint made")
        self._table.cleanup_metadata()
        # What kills left, too
        unused = self._table.vacuum(
            retention_hours=int(keep_h), dry_run=True, enforce_retention_duration=False, full=True
        )
        old = [self.folder / path for path in unused]
        # delta-rs's, before their rename
        old += [path for path in self._log.glob("*#*") if _is_older(path, 3600 * keep_h)]
        _delete_files(old)
        run_durability_hook("old files removed")
        self.refresh()
        say(f"{self.folder.name}: {n_merged} small files merged, {len(old)} old ones removed")
        return {"merged": n_merged, "removed": len(old)}

    def restore(self, version: int) -> int:
        """Make the table what it was at *version*, in one commit: its rows and its marks, so that
        what came later is read again.

        Raises FeedError when that version cannot be read any more.
        """
        self.refresh()
        then = self._at(version)
        self._apply_version(
            then,
            {source: mark for source, mark in then.marks().items() if source != TIDY},
            {"restored": version},
        )
        return self.version

    def align_offsets(self) -> bool:
        """Where somebody else has restored the table: put each source's mark where its rows end, in
        one commit.

        Returns whether that was so. Rows that were committed after that RESTORE go with it, and are
        read again: the marks that they began at were wrong.
        """
        self.refresh()
        if self._restored is None:
            return False
        restored, then = self._restored, self._at(self._restored)
        last = (
            then.scan(columns=["_source", "_offset"])
            .group_by("_source")
            .agg(pl.col("_offset").max() + 1)
            .collect()
        )
        self._apply_version(then, dict(last.iter_rows()), {"followed": restored})
        return True

    def _apply_version(self, then: "VersionedTable", marks: Marks, about: Mapping[str, Any]) -> None:
        """Take the files of *then*, an earlier version, and *marks*; sources without one are
        unread.
        """
        while True:
            now, past = self._list_files({}, {}), then._list_files({}, {})  # noqa: SLF001  (our own)
            added = past.join(now, on="path", how="anti")
            if gone := [path for path in added["path"] if not (self.folder / path).exists()]:
                raise FeedError(
                    f"Version {then.version} of {self.folder.name} needs {gone[0]}, which was removed as old."
                    " Choose a later version."
                )
            actions = [
                *self._build_add_actions(added, data_change=True),
                *self._build_remove_actions(now.join(past, on="path", how="anti"), data_change=True),
            ]
            wanted = {
                **dict.fromkeys(self._sources, _UNREAD),
                **marks,
                **{own: (self.mark(own) or 0) + 1 for own in (TIDY, REPLAY)},
            }
            moves = [
                Transaction(source, mark)
                for source, mark in wanted.items()
                if mark != self._table.transaction_version(source)
            ]
            with contextlib.suppress(OffsetMovedError):  # somebody committed in between: compare with that
                return self._commit_actions(actions, moves, about, self._raise_moved)

    def list_file_groups(
        self, only: Mapping[str, str], by: str, max_bytes: int = 64_000_000
    ) -> list[pl.DataFrame]:
        """Files of this version by rising least value of *by*, in groups of about *max_bytes*;
        see `read` and `replace`.
        """
        files = self._list_files(only, {}).sort(f"min.{by}", nulls_last=True)
        nth = ((files["size_bytes"].cum_sum() - files["size_bytes"]) // max_bytes).alias("nth")
        return [
            group.drop("nth") for group in files.with_columns(nth).partition_by("nth", maintain_order=True)
        ]

    def read(self, files: pl.DataFrame, columns: Iterable[str] | None = None) -> pl.LazyFrame:
        """The rows of *files*, a group of `list_file_groups`."""
        return self._open(files, columns)

    def replace(self, files: pl.DataFrame, rows: pl.DataFrame, about: Mapping[str, Any]) -> int:
        """Put *rows* in the place of *files*, all or nothing, and move the mark REPLAY.

        Returns the version.
        Raises MarkMovedError when another writer has rewritten files meanwhile: nothing was
        written.
        """
        stands = self._build_files_check(files)
        written = self._write(rows)
        moves = [self._build_compact_transaction(), Transaction(REPLAY, (self.mark(REPLAY) or 0) + 1)]
        self._commit_actions(
            [*(add for add, _ in written), *self._build_remove_actions(files, data_change=True)],
            moves,
            about,
            stands,
            [path for _, path in written],
        )
        return self.version

    def _at(self, version: int) -> "VersionedTable":
        """This table at an earlier version, for reading.

        Raises FeedError when it cannot be read any more.
        """
        then = copy(self)
        try:
            then._table = DeltaTable(str(self.folder), version=version)  # noqa: SLF001  (our own)
        except Exception as error:
            raise FeedError(
                f"Version {version} of {self.folder.name} cannot be read ({error}): its entries are gone from"
                " the log. Choose a later one."
            ) from error
        return then

    def _list_files(self, only: Mapping[str, str], least: Mapping[str, Any]) -> pl.DataFrame:
        """path, size_bytes, the partition columns and `least`'s greatest values of each file of
        this version, by path.
        """
        found = pl.DataFrame(self._table.get_add_actions(flatten=True))
        found = found.rename({f"partition.{name}": name for name in self.partition_by})
        for name, value in only.items():
            found = found.filter(pl.col(name) == value)
        for name, value in least.items():
            if f"max.{name}" in found.columns:
                found = found.filter((pl.col(f"max.{name}") >= value) | pl.col(f"max.{name}").is_null())
        return found.sort("path")

    def _write(self, rows: pl.DataFrame) -> list[tuple[AddAction, Path]]:
        """Files of *rows*, on disk, one a partition."""
        written: list[tuple[AddAction, Path]] = []
        for values, part in rows.partition_by(self.partition_by, as_dict=True, include_key=False).items():
            of = dict(zip(self.partition_by, map(str, values), strict=True))
            folder = self.folder.joinpath(*(f"{name}={value}" for name, value in of.items()))
            fresh = not folder.exists()
            path = folder / f"part-{uuid4().hex}.parquet"
            try:
                with _convert_write_errors(self.folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    part.write_parquet(path, compression="zstd", compression_level=1, statistics=False)
                self._sync_file(path)
                self._sync_folder(folder)
                if fresh:
                    for above in [*folder.parents][: len(of)]:
                        self._sync_folder(above)
            except BaseException:
                path.unlink(missing_ok=True)
                _delete_files(path for _, path in written)
                raise
            written.append((self._add(path, of, part), path))
            run_durability_hook("file written")
        run_durability_hook("files written")
        return written

    def _commit_actions(
        self,
        actions: list[Any],
        moves: list[Transaction],
        about: Mapping[str, Any] | None,
        stands: Callable[[], None],
        written: Iterable[Path] = (),
    ) -> None:
        """Commit *actions* and *moves*; see `_commit_version`.

        written: files that go when it is given up.
        """

        def write(properties: CommitProperties) -> None:
            self._table.create_write_transaction(
                actions,
                "append",
                self._table.schema(),
                self.partition_by,
                commit_properties=properties,
                post_commithook_properties=_NO_HOOKS,
            )

        try:
            self._commit_version(write, moves, about, stands)
        except (OffsetMovedError, FeedError):  # nothing was committed
            _delete_files(written)
            raise
        self._sync_committed()

    def _commit_version(
        self,
        write: Callable[[CommitProperties], Any],
        moves: list[Transaction],
        about: Mapping[str, Any] | None,
        stands: Callable[[], None],
    ) -> None:
        """Have *write* make the next version.

        When somebody else was first, *stands* is asked whether it may still be tried; it raises if
        not. What *write* raises says little; the log says whether the commit is there. Raises
        FeedError when it is not, and nobody was first: the disk is full, or the folder cannot be
        written to.
        """
        name = uuid4().hex
        told = {"tidemill": json.dumps({"id": name, **(about or {})}, default=str)}
        properties = CommitProperties(app_transactions=moves, custom_metadata=told, max_commit_retries=0)
        while True:
            before = self.version
            try:
                write(properties)
            except Exception as error:  # whatever it is, the log decides
                self.refresh()
                if any(
                    name in self._read_commit_info(version).get("tidemill", "")
                    for version in range(before + 1, self.version + 1)
                ):
                    break
                if self.version == before:
                    raise _build_write_error(self.folder, error) from error
                stands()
            else:
                break

    def _sync_committed(self) -> None:
        """Read what is committed now, and have it on disk.

        What it names stays, whatever happens here.
        """
        run_durability_hook("committed")
        self.refresh()
        self._sync_log()
        run_durability_hook("commit synced")

    def _raise_moved(self) -> None:
        raise OffsetMovedError(f"Another writer has committed to {self.folder.name} meanwhile.")

    def _check_not_restored(self) -> None:
        if self._restored is not None:
            raise OffsetMovedError(
                f"Version {self._restored} of {self.folder.name} was restored by somebody else, who left the"
                " marks where they were. They follow the rows now."
            )

    def _build_files_check(self, files: pl.DataFrame) -> Callable[[], None]:
        """A check that *files* are still there, and that nobody has rewritten any others.

        They are looked for at once, too: this handle may have moved since they were listed.
        """
        tidied = self.mark(TIDY)

        def stands() -> None:
            self._check_not_restored()
            if self.mark(TIDY) != tidied or not set(files["path"]) <= set(self._list_files({}, {})["path"]):
                raise OffsetMovedError(
                    f"Files of {self.folder.name} were rewritten by another process meanwhile."
                )

        stands()
        return stands

    def _merge(self, files: pl.DataFrame) -> int:
        """Rewrite one partition's small files as one; the number of files that went."""
        small = files.filter(pl.col("size_bytes") < SMALL_BYTES)
        if small.height < MERGE_FILES:
            return 0
        of = small.row(0, named=True)
        try:
            stands = self._build_files_check(small)
        except OffsetMovedError:
            return 0
        stored = {name: dtype for name, dtype in self.columns.items() if name not in self.partition_by}
        paths = [str(self.folder / path) for path in small["path"]]
        rows = pl.scan_parquet(
            paths, schema=stored, missing_columns="insert", hive_partitioning=False, glob=False
        ).collect()
        rows = rows.with_columns(pl.lit(of[name], pl.String).alias(name) for name in self.partition_by)
        written = self._write(rows)
        run_durability_hook("merged files written")
        # No new data
        adds = [
            AddAction(a.path, a.size, a.partition_values, a.modification_time, False, a.stats)  # noqa: FBT003
            for a, _ in written
        ]
        actions = [*adds, *self._build_remove_actions(small, data_change=False)]
        try:
            self._commit_actions(
                actions,
                [self._build_compact_transaction()],
                {"merged": small.height},
                stands,
                [path for _, path in written],
            )
        except OffsetMovedError:
            return 0
        return small.height

    def _build_compact_transaction(self) -> Transaction:
        return Transaction(TIDY, (self.mark(TIDY) or 0) + 1)

    def _add(self, path: Path, of: Mapping[str, str], rows: pl.DataFrame) -> AddAction:
        # data_change
        return AddAction(
            str(path.relative_to(self.folder)),
            path.stat().st_size,
            of,
            _get_now_ms(),
            True,  # noqa: FBT003
            _compute_statistics(rows),
        )

    def _build_add_actions(self, files: pl.DataFrame, *, data_change: bool) -> list[AddAction]:
        return [
            AddAction(
                f["path"],
                f["size_bytes"],
                {name: f[name] for name in self.partition_by},
                _get_now_ms(),
                data_change,
                _format_file_statistics(f),
            )
            for f in files.iter_rows(named=True)
        ]

    def _build_remove_actions(self, files: pl.DataFrame, *, data_change: bool) -> list[RemoveAction]:
        return [
            RemoveAction(
                f["path"],
                data_change,
                _get_now_ms(),
                f["size_bytes"],
                {name: f[name] for name in self.partition_by},
            )
            for f in files.iter_rows(named=True)
        ]

    def _read_log(self) -> None:
        """Take note of the versions that came: sources with a mark, and whether the last word is
        somebody else's RESTORE.
        """
        self._restored = self._find_foreign_restore()
        first = self._read + 1
        if self._read < 0 or not self._get_entry_path(first).exists():
            checkpoint = self._find_last_checkpoint()
            if checkpoint is not None:
                kept = pl.read_parquet(checkpoint, columns=["txn"])["txn"].drop_nulls()
                self._sources |= {row["appId"] for row in kept if row["appId"] is not None}
                first = max(first, _parse_version(checkpoint) + 1)
        for version in range(first, self.version + 1):
            for line in self._get_entry_path(version).read_bytes().splitlines():
                if b'"txn"' in line[:8]:
                    self._sources.add(json.loads(line)["txn"]["appId"])
        self._read = self.version

    def _find_foreign_restore(self) -> int | None:
        """The newest RESTORE that is not ours and has no commit of ours after it: those are made
        by who has looked.
        """
        for version in range(self.version, self._read, -1):
            if not (info := self._read_commit_info(version)):
                # The log was cleaned since our last commit: nobody knows what happened to the rows
                return version
            if "tidemill" in info:
                return None
            if info.get("operation") == "RESTORE":
                return version
        return self._restored

    def _read_commit_info(self, version: int) -> dict[str, Any]:
        """Who made *version* and how; empty when the log does not say any more."""
        entry = self._get_entry_path(version)
        lines = entry.read_bytes().splitlines() if entry.exists() else []
        return next((json.loads(line)["commitInfo"] for line in lines if b'"commitInfo"' in line[:14]), {})

    def _get_entry_path(self, version: int) -> Path:
        return self._log / f"{version:020d}.json"

    def _find_last_checkpoint(self) -> Path | None:
        return max(
            (path for path in self._log.glob("*.checkpoint.parquet") if _parse_version(path) <= self.version),
            default=None,
        )

    def _sync_file(self, path: Path) -> None:
        if self._sync:
            with _convert_write_errors(self.folder), path.open("rb") as handle:
                os.fsync(handle.fileno())

    def _sync_folder(self, folder: Path, files: Iterable[Path] = ()) -> None:
        if self._sync:
            for file in files:
                self._sync_file(file)
            handle = os.open(folder, os.O_RDONLY)
            try:
                with _convert_write_errors(self.folder):
                    os.fsync(handle)
            finally:
                os.close(handle)

    def _sync_log(self) -> None:
        """Every entry that this handle has not synced: one of another process may lack below
        ours after a power cut.
        """
        if not self._sync:
            return
        if self._synced < 0 and (checkpoint := self._find_last_checkpoint()) is not None:
            self._sync_folder(self._log, self._log.glob("*checkpoint*"))
            self._synced = _parse_version(checkpoint)
        entries = [
            entry
            for version in range(self._synced + 1, self.version + 1)
            if (entry := self._get_entry_path(version)).exists()
        ]
        self._sync_folder(self._log, entries)
        self._synced = self.version


def open_existing_table(folder: Path) -> VersionedTable:
    """The table that is there. Raises FeedError when there is none."""
    if not DeltaTable.is_deltatable(str(folder)):
        raise FeedError(
            f"{folder} holds no table. `tidemill feed` (or `tidemill feed drain`) makes it when the first"
            " records come."
        )
    table = DeltaTable(str(folder))
    return VersionedTable(folder, {}, table.metadata().partition_columns)


@contextmanager
def _convert_write_errors(folder: Path) -> Iterator[None]:
    """A disk that refuses, said as a FeedError that names the table's folder.

    A full disk is a ComputeError in polars's words.
    """
    try:
        yield
    except (OSError, pl.exceptions.ComputeError, DeltaError) as error:
        raise _build_write_error(folder, error) from error


def _build_write_error(folder: Path, error: Exception) -> FeedError:
    return FeedError(
        f"{folder} cannot be written: {error}. Nothing is lost or half-written: what is not in it is read"
        " again. Look at the disk's room, its health and the folder's rights, then start again."
    )


def _build_schema(columns: Columns) -> Schema:
    return Schema([_build_field(name, dtype) for name, dtype in columns.items()])


def _build_field(name: str, dtype: pl.DataType, about: Mapping[str, str] | None = None) -> Field:
    if dtype not in _TYPES:
        raise FeedError(f"Column {name!r} is {dtype}; the feed's table holds {', '.join(map(str, _TYPES))}.")
    return Field(
        name,
        PrimitiveType(_TYPES[dtype]),
        metadata={f"{_ABOUT}{key}": value for key, value in (about or {}).items()},
    )


def _compute_statistics(rows: pl.DataFrame) -> str:
    """Delta's statistics of one file: number of rows, nulls, least and greatest values."""
    counted = [name for name, dtype in rows.schema.items() if isinstance(dtype, _STATISTICS)]
    bounds = rows.select(
        *(pl.col(c).min().alias(f"min.{c}") for c in counted),
        *(pl.col(c).max().alias(f"max.{c}") for c in counted),
    ).row(0, named=True)
    nulls = rows.select(pl.col(counted).null_count()).row(0, named=True) if counted else {}
    return _format_statistics(rows.height, bounds, nulls, counted)


def _format_file_statistics(file: Mapping[str, Any]) -> str:
    """The same, of a file that a version has."""
    counted = [key.removeprefix("min.") for key in file if key.startswith("min.")]
    return _format_statistics(
        file["num_records"], file, {c: file.get(f"null_count.{c}") or 0 for c in counted}, counted
    )


def _format_statistics(
    n_rows: int, bounds: Mapping[str, Any], nulls: Mapping[str, int], counted: list[str]
) -> str:
    def text(value: Any) -> Any:
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if hasattr(value, "strftime") else value

    return json.dumps(
        {
            "numRecords": n_rows,
            "minValues": {c: text(bounds[f"min.{c}"]) for c in counted if bounds[f"min.{c}"] is not None},
            "maxValues": {c: text(bounds[f"max.{c}"]) for c in counted if bounds[f"max.{c}"] is not None},
            "nullCount": {c: int(nulls[c]) for c in counted},
        }
    )


def _parse_version(path: Path) -> int:
    return int(path.name.split(".")[0])


def _is_older(path: Path, seconds: float) -> bool:
    """Whether a file is there and was written so long ago."""
    try:
        return path.stat().st_mtime < time.time() - seconds
    except FileNotFoundError:
        return False


def _delete_files(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _get_now_ms() -> int:
    return int(time.time() * 1000)
