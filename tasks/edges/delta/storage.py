"""The folder of a table on disk: its parquet files, synced, and errors that name the folder."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import polars as pl
from deltalake.exceptions import DeltaError

from tasks.core.errors import FeedError
from tasks.edges import files as disk


class WrittenFile(NamedTuple):
    """A parquet file that no version names yet. partition: stored name -> its value."""

    path: Path
    partition: dict[str, str]
    rows: pl.DataFrame


class TableStorage:
    """Writes and syncs below *folder*. sync: off for what may be lost with the power."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self.folder, self.sync = folder, sync

    def write_rows(self, rows: pl.DataFrame, stored_names: Mapping[str, str]) -> list[WrittenFile]:
        """Write *rows*, a file a partition; all are on disk, or none is left.

        stored_names: partition column -> its name in folders.
        """
        written: list[WrittenFile] = []
        for values, part in rows.partition_by(list(stored_names), as_dict=True, include_key=False).items():
            partition = dict(zip(stored_names.values(), map(str, values), strict=True))
            try:
                written.append(self._write_part(part, partition))
            except BaseException:
                delete_files(file.path for file in written)
                raise
            disk.run_durability_hook("file written")
        disk.run_durability_hook("files written")
        return written

    def sync_folder(self, folder: Path, paths: Iterable[Path] = ()) -> None:
        """Have *paths* on disk, then their names in *folder*."""
        if self.sync:
            with convert_write_errors(self.folder):
                for path in paths:
                    disk.sync_file(path)
                disk.sync_folder(folder)

    def _write_part(self, rows: pl.DataFrame, partition: Mapping[str, str]) -> WrittenFile:
        folder = self.folder.joinpath(*(f"{name}={value}" for name, value in partition.items()))
        is_new = not folder.exists()
        path = folder / f"part-{uuid4().hex}.parquet"
        try:
            with convert_write_errors(self.folder):
                folder.mkdir(parents=True, exist_ok=True)
                rows.write_parquet(path, compression="zstd", compression_level=1, statistics=False)
            self.sync_folder(folder, [path])
            if is_new:
                for parent in [*folder.parents][: len(partition)]:
                    self.sync_folder(parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return WrittenFile(path, dict(partition), rows)


@contextmanager
def convert_write_errors(folder: Path) -> Iterator[None]:
    """Raise what a disk refuses as a FeedError that names the table's *folder*.

    polars reports a full disk as a ComputeError.
    """
    try:
        yield
    except (OSError, pl.exceptions.ComputeError, DeltaError) as error:
        raise build_write_error(folder, error) from error


def build_write_error(folder: Path, error: Exception) -> FeedError:
    """The error of a write below *folder* that failed with *error*."""
    return FeedError(
        f"{folder} cannot be written: {error}. Nothing is lost or half-written: what is not in it is read"
        " again. Check the disk's free space, its health and the folder's permissions, then start again."
    )


def delete_files(paths: Iterable[Path]) -> None:
    """Remove *paths*; one that is gone is no error."""
    for path in paths:
        path.unlink(missing_ok=True)
