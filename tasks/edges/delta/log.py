"""The log of a table, `_delta_log`: what each version says, and its entries on disk."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.edges.delta.storage import TableStorage

OURS = "tidemill"  # the key of what our commits note about themselves


class CommitInfo(NamedTuple):
    """What a version says of itself. note: of a commit of ours; None: another program made it."""

    operation: str
    note: str | None


class TableLog:
    """Reads the log up to a version, and syncs it.

    sources: every source that has had an offset.
    restored_version: of a RESTORE by another program, while the offsets have not followed.
    """

    def __init__(self, storage: TableStorage) -> None:
        self._storage = storage
        self.folder = storage.folder / "_delta_log"
        self._read_version = self._synced_version = -1
        self.sources: set[str] = set()
        self.restored_version: int | None = None

    def read(self, version: int) -> None:
        """Take note of the versions after the last one that was read, up to *version*."""
        self.restored_version = self._find_foreign_restore(version)
        first = self._read_version + 1
        if self._read_version < 0 or not self._get_entry_path(first).exists():
            checkpoint = self._find_last_checkpoint(version)
            if checkpoint is not None:
                transactions = pl.read_parquet(checkpoint, columns=["txn"])["txn"].drop_nulls()
                self.sources |= {row["appId"] for row in transactions if row["appId"] is not None}
                first = max(first, parse_version(checkpoint) + 1)
        for entry in range(first, version + 1):
            self.sources |= parse_sources(self._get_entry_path(entry).read_bytes())
        self._read_version = version

    def sync(self, version: int) -> None:
        """Have every entry up to *version* on disk that this handle has not synced.

        After a power cut an entry of another process may be missing below ours.
        """
        if not self._storage.sync:
            return
        if self._synced_version < 0 and (checkpoint := self._find_last_checkpoint(version)) is not None:
            self.sync_checkpoints()
            self._synced_version = parse_version(checkpoint)
        entries = map(self._get_entry_path, range(self._synced_version + 1, version + 1))
        self._storage.sync_folder(self.folder, (entry for entry in entries if entry.exists()))
        self._synced_version = version

    def sync_checkpoints(self) -> None:
        """Have the checkpoints on disk."""
        self._storage.sync_folder(self.folder, self.folder.glob("*checkpoint*"))

    def has_commit(self, commit_id: str, versions: Iterable[int]) -> bool:
        """Whether one of *versions* is our commit *commit_id*."""
        infos = map(self._read_commit_info, versions)
        return any(commit_id in (info.note or "") for info in infos if info is not None)

    def count_versions_since_checkpoint(self, version: int) -> int:
        """Versions between the last checkpoint and *version*."""
        last = self.folder / "_last_checkpoint"
        return version - (int(json.loads(last.read_bytes())["version"]) if last.exists() else 0)

    def _find_foreign_restore(self, version: int) -> int | None:
        """The newest RESTORE that is not ours and has no commit of ours after it.

        Our commits are made only after such a RESTORE was looked for.
        """
        for read in range(version, self._read_version, -1):
            info = self._read_commit_info(read)
            if info is not None and info.note is not None:
                return None
            # Without an entry (the log was cleaned since our last commit) it is not known what
            # happened to the rows
            if info is None or info.operation == "RESTORE":
                return read
        return self.restored_version

    def _read_commit_info(self, version: int) -> CommitInfo | None:
        """Who made *version* and how; None when the log has no such entry any more."""
        entry = self._get_entry_path(version)
        return parse_commit_info(entry.read_bytes()) if entry.exists() else None

    def _get_entry_path(self, version: int) -> Path:
        return self.folder / f"{version:020d}.json"

    def _find_last_checkpoint(self, version: int) -> Path | None:
        paths = (p for p in self.folder.glob("*.checkpoint.parquet") if parse_version(p) <= version)
        return max(paths, default=None)


def parse_commit_info(entry: bytes) -> CommitInfo | None:
    """`commitInfo` of a log entry; None when it has none."""
    for line in entry.splitlines():
        if b'"commitInfo"' in line[:14]:
            info = json.loads(line)["commitInfo"]
            return CommitInfo(info.get("operation", ""), info.get(OURS))
    return None


def parse_sources(entry: bytes) -> set[str]:
    """The sources whose offset a log entry sets."""
    return {json.loads(line)["txn"]["appId"] for line in entry.splitlines() if b'"txn"' in line[:8]}


def parse_version(path: Path) -> int:
    """The version of an entry or a checkpoint, by its file's name."""
    return int(path.name.split(".")[0])
