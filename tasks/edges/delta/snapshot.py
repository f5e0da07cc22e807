"""One version of a table, for reading: rows, offsets, columns and files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from deltalake import DeltaTable

from tasks.edges.delta.schema import FORMER_NAMES, parse_columns, parse_notes
from tasks.edges.delta.statistics import find_row_bound, group_files, select_files, split_at

T = TypeVar("T")  # the syntax `def f[T]` needs 3.12

UNREAD = -1  # the offset of a source that was taken back to before its first record
# Counters, kept as offsets are. COMPACTIONS moves with each rewriting of files. REPLAYS moves with
# each replay of quarantined records: what a landing remembers of the rows is out of date then.
COMPACTIONS, REPLAYS = "tidy", "replay"


class TableSnapshot:
    """The version of *table* in *folder*. sources: those that may have an offset.

    stored_names: partition column -> its name in the log and in folders.
    """

    def __init__(self, folder: Path, table: DeltaTable, sources: set[str]) -> None:
        self.folder, self._table, self._sources = folder, table, sources
        stored = table.metadata().partition_columns
        self.stored_names = {FORMER_NAMES.get(name, name): name for name in stored}

    @property
    def partition_by(self) -> list[str]:
        """The partition columns."""
        return list(self.stored_names)

    @property
    def version(self) -> int:
        """The version that is read."""
        return self._table.version()

    @property
    def columns(self) -> dict[str, pl.DataType]:
        """Name -> type."""
        return self._rename_stored(parse_columns(self._table.schema()))

    def describe_columns(self) -> dict[str, dict[str, str]]:
        """Name -> type, and the version, time and way in which a later column came."""
        return self._rename_stored(parse_notes(self._table.schema()))

    def get_stored_offset(self, source: str) -> int | None:
        """What the log has for *source*: None, UNREAD or its offset."""
        return self._table.transaction_version(source)

    def find_offset(self, source: str) -> int | None:
        """The next offset to read of *source*; None when nothing of it is in the table."""
        stored = self.get_stored_offset(source)
        return None if stored == UNREAD else stored

    def list_offsets(self) -> dict[str, int]:
        """Source -> the next offset to read, of every source that was read."""
        sources = sorted(self._sources - {COMPACTIONS, REPLAYS})
        return {source: offset for source in sources if (offset := self.find_offset(source)) is not None}

    def scan(
        self,
        only: Mapping[str, str] | None = None,
        least: Mapping[str, Any] | None = None,
        columns: Iterable[str] | None = None,
    ) -> pl.LazyFrame:
        """The rows of the files that *only* and *least* leave; rows are not filtered.

        only: values of partition columns.
        least: column -> value; files whose greatest value is smaller are not opened.
        """
        return self.scan_files(self.list_files(only, least), columns)

    def scan_files(self, files: pl.DataFrame, columns: Iterable[str] | None = None) -> pl.LazyFrame:
        """The rows of *files*, a part of `list_files`."""
        wanted = {
            name: dtype for name, dtype in self.columns.items() if columns is None or name in set(columns)
        }
        stored = {name: dtype for name, dtype in wanted.items() if name not in self.partition_by}
        frames = []
        for values, group in files.group_by(self.partition_by, maintain_order=True):
            frame = pl.scan_parquet(
                [str(self.folder / path) for path in group["path"]],
                schema=stored,
                missing_columns="insert",
                extra_columns="ignore",
                hive_partitioning=False,
                glob=False,
            )
            partition = zip(self.partition_by, values, strict=True)
            fixed = [pl.lit(value, pl.String).alias(name) for name, value in partition if name in wanted]
            frames.append(frame.with_columns(fixed).select(list(wanted)))
        return pl.concat(frames) if frames else pl.LazyFrame(schema=wanted)

    def list_files(
        self, only: Mapping[str, str] | None = None, least: Mapping[str, Any] | None = None
    ) -> pl.DataFrame:
        """A frame of files (see `statistics`), by path; *only* and *least* as in `scan`."""
        files = pl.DataFrame(self._table.get_add_actions(flatten=True))
        files = files.rename({f"partition.{stored}": name for name, stored in self.stored_names.items()})
        return select_files(files, only or {}, least or {})

    def list_file_groups(
        self, only: Mapping[str, str], by: str, max_bytes: int = 64_000_000
    ) -> list[pl.DataFrame]:
        """Files by rising least value of *by*, in groups of about *max_bytes*."""
        return group_files(self.list_files(only), by, max_bytes)

    def find_row_bound(self, column: str, n_rows: int, only: Mapping[str, str] | None = None) -> Any:
        """A value of *column* that files of at least *n_rows* rows reach; None without rows."""
        return find_row_bound(self.list_files(only), column, n_rows)

    def find_least(self, column: str) -> Any:
        """The least value of *column* by the files' statistics; None when there are no rows."""
        files = self.list_files()
        return files[f"min.{column}"].min() if files.height else None

    def find_greatest(self, column: str, only: Mapping[str, str] | None = None) -> Any:
        """The greatest value of *column* by the files' statistics; None when there are no rows."""
        files = self.list_files(only)
        return files[f"max.{column}"].max() if files.height else None

    def count_rows_below(self, column: str, bound: Any, only: Mapping[str, str] | None = None) -> int:
        """Rows whose *column* is below *bound*; only files with rows on both sides are opened."""
        files = self.list_files(only)
        if files.is_empty():
            return 0
        n_below, across = split_at(files, column, bound)
        if across.is_empty():
            return n_below
        rows = self.scan_files(across, [column]).filter(pl.col(column) < bound)
        return n_below + int(rows.select(pl.len()).collect().item())

    def count_rows_by(self, partition: str) -> dict[str, int]:
        """Rows by the values of a partition column."""
        counts = self.list_files().group_by(partition).agg(pl.col("num_records").sum())
        return dict(counts.sort(partition).iter_rows())

    def count_files(self) -> int:
        """Files of this version."""
        return self.list_files().height

    def _rename_stored(self, columns: dict[str, T]) -> dict[str, T]:
        """*columns* with partition columns under their names of today."""
        name_of = {stored: name for name, stored in self.stored_names.items()}
        return {name_of.get(name, name): value for name, value in columns.items()}
