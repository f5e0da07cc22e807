"""A table at the version that its handle has read."""

from collections.abc import Sequence
from pathlib import Path

from deltalake import DeltaTable

from tasks.core.errors import FeedError, OffsetMovedError
from tasks.edges import files as disk
from tasks.edges.delta.log import TableLog
from tasks.edges.delta.protocol import check_protocol
from tasks.edges.delta.schema import Columns, build_schema
from tasks.edges.delta.snapshot import TableSnapshot
from tasks.edges.delta.storage import TableStorage, convert_write_errors


class VersionedTable(TableSnapshot):
    """The table in *folder*, made when there is none. Not for two threads: each opens its own.

    columns: of a new table, name -> type, those of *partition_by* among them (strings).
    sync: off for what may be lost with the power.
    keep_log_h: hours for which a new table keeps the entries of its log.
    Raises FeedError for a table that another engine gave a feature that is not known here.
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
        self.storage = TableStorage(folder, sync=sync)
        self.log = TableLog(self.storage)
        if not DeltaTable.is_deltatable(str(folder)):
            _create_table(self.storage, self.log.folder, columns, partition_by, keep_log_h)
        super().__init__(folder, DeltaTable(str(folder)), self.log.sources)
        check_protocol(self._table, folder)
        self.log.read(self.version)

    @property
    def delta_table(self) -> DeltaTable:
        """delta-rs's handle, for commits."""
        return self._table

    @property
    def is_restored(self) -> bool:
        """Whether another program took rows back, and `align_offsets` must come before a commit."""
        return self.log.restored_version is not None

    def check_not_restored(self) -> None:
        """Raise OffsetMovedError when `align_offsets` must come first."""
        if self.is_restored:
            raise OffsetMovedError(
                f"Version {self.log.restored_version} of {self.folder.name} was restored by another program,"
                " which left the offsets where they were. They follow the rows now."
            )

    def refresh(self) -> None:
        """Read what others have committed. Raises FeedError as `check_protocol`."""
        self._table.update_incremental()
        check_protocol(self._table, self.folder)
        self.log.read(self.version)

    def read_version(self, version: int) -> TableSnapshot:
        """This table at an earlier *version*. Raises FeedError when the log does not have it."""
        try:
            earlier = DeltaTable(str(self.folder), version=version)
        except Exception as error:
            raise FeedError(
                f"Version {version} of {self.folder.name} cannot be read ({error}): its entries are gone from"
                " the log. Choose a later one."
            ) from error
        return TableSnapshot(self.folder, earlier, self.log.sources)

    def count_versions_since_checkpoint(self) -> int:
        """Versions since the last checkpoint; `compact_table` makes one."""
        return self.log.count_versions_since_checkpoint(self.version)


def open_existing_table(folder: Path) -> VersionedTable:
    """The table in *folder*. Raises FeedError when there is none."""
    if not DeltaTable.is_deltatable(str(folder)):
        raise FeedError(
            f"{folder} holds no table. `tidemill feed` (or `tidemill feed drain`) makes it when the first"
            " records come."
        )
    return VersionedTable(folder, {}, ())


def _create_table(
    storage: TableStorage, log: Path, columns: Columns, partition_by: Sequence[str], keep_log_h: int
) -> None:
    folder = storage.folder
    new = [path for path in (log, folder, *folder.parents) if not path.exists()]
    with convert_write_errors(folder):
        DeltaTable.create(
            str(folder),
            build_schema(columns),
            partition_by=list(partition_by),
            mode="ignore",
            configuration={
                "delta.logRetentionDuration": f"interval {keep_log_h} hours",
                "delta.checkpointInterval": "100",
            },
        )
    for path in new:
        storage.sync_folder(path.parent)
    disk.run_durability_hook("table created")
