"""Commits of the feed's table beside other writers: ours, plain delta-rs, a full disk.

Rows are read by hand (tests/support/ledger.py).
"""

import errno
import os
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.transaction import AddAction
from ledger import live, live_files

from tasks.core.errors import FeedError, OffsetMovedError
from tasks.edges import files as disk
from tasks.edges.delta import (
    VersionedTable,
    align_offsets,
    commit_rows,
    compact_table,
    open_existing_table,
    restore_table,
)
from tasks.edges.delta.compact import MERGE_FILES
from tasks.edges.delta.log import TableLog
from tasks.edges.delta.snapshot import COMPACTIONS

COLUMNS = {"_source": pl.String(), "_offset": pl.Int64(), "disposition": pl.String()}


def rows(first, end, source="s"):
    return pl.DataFrame(
        {"_source": source, "_offset": range(first, end), "disposition": "row"}, schema=dict(COLUMNS)
    )


def offsets(folder, source="s"):
    files = [
        pq.ParquetFile(folder / path).read(columns=["_source", "_offset"]).to_pylist()
        for path in live_files(folder)
    ]
    return sorted(row["_offset"] for file in files for row in file if row["_source"] == source)


@pytest.fixture
def folder(tmp_path):
    table = VersionedTable(tmp_path / "table", COLUMNS, ["disposition"])
    for first in (0, 10, 20):
        commit_rows(table, rows(first, first + 10), {"s": first} if first else {}, {"s": first + 10})
    return tmp_path / "table"


def test_a_writer_of_another_source_is_no_conflict_and_one_of_the_same_is(folder):
    ours, theirs = open_existing_table(folder), open_existing_table(folder)
    commit_rows(theirs, rows(0, 5, "t"), {}, {"t": 5})
    commit_rows(ours, rows(30, 40), {"s": 30}, {"s": 40})
    with pytest.raises(OffsetMovedError):
        commit_rows(theirs, rows(30, 35), {"s": 30}, {"s": 35})
    assert offsets(folder) == list(range(40))
    assert offsets(folder, "t") == list(range(5))
    assert len(list(folder.rglob("*.parquet"))) == len(live_files(folder))  # the refused one left nothing


def test_a_first_commit_is_refused_when_another_process_made_it_meanwhile_and_we_have_looked(folder):
    ours, theirs = open_existing_table(folder), open_existing_table(folder)
    commit_rows(theirs, rows(0, 5, "t"), {}, {"t": 5})
    ours.refresh()
    with pytest.raises(OffsetMovedError, match="its beginning"):
        commit_rows(ours, rows(0, 3, "t"), {}, {"t": 3})


def test_our_restore_takes_rows_and_marks_back_and_a_running_writer_is_refused(folder):
    running = open_existing_table(folder)
    commit_rows(running, rows(0, 5, "t"), {}, {"t": 5})
    restore_table(open_existing_table(folder), 2)
    with pytest.raises(OffsetMovedError):
        commit_rows(running, rows(30, 40), {"s": 30}, {"s": 40})
    assert running.list_offsets() == {"s": 20}  # t is unread
    with pytest.raises(OffsetMovedError):
        commit_rows(running, rows(5, 9, "t"), {"t": 5}, {"t": 9})
    commit_rows(running, rows(0, 9, "t"), {}, {"t": 9})
    commit_rows(running, rows(20, 40), {"s": 20}, {"s": 40})
    assert (offsets(folder), offsets(folder, "t")) == (list(range(40)), list(range(9)))


@pytest.mark.parametrize("landed_after", [False, True])
def test_after_somebody_elses_restore_marks_follow_the_rows(folder, landed_after):
    """Also where a program that knows nothing of it committed in between: its rows go with the
    restore, and are read again."""
    running = open_existing_table(folder)
    DeltaTable(str(folder)).restore(2)
    if landed_after:
        stranger = pl.DataFrame(rows(30, 35)).write_parquet
        stranger(folder / "x.parquet")
        other = DeltaTable(str(folder))
        size = (folder / "x.parquet").stat().st_size
        add = AddAction("x.parquet", size, {"disposition": "row"}, 0, True, '{"numRecords": 5}')
        other.create_write_transaction([add], "append", other.schema(), ["disposition"])
    with pytest.raises(OffsetMovedError, match="restored by another program"):
        commit_rows(running, rows(30, 40), {"s": 30}, {"s": 40})
    assert align_offsets(running)
    assert running.find_offset("s") == 20
    commit_rows(running, rows(20, 40), {"s": 20}, {"s": 40})
    assert offsets(folder) == list(range(40))
    assert not align_offsets(open_existing_table(folder))


def test_a_restore_while_nobody_was_there_is_found_at_the_next_start(folder):
    other = DeltaTable(str(folder))
    other.restore(1)
    other.update_incremental()
    other.create_checkpoint()
    started = open_existing_table(folder)
    assert align_offsets(started)
    assert started.find_offset("s") == 10
    assert live(folder)[1]["s"] == 10


def test_a_writer_that_stood_still_while_its_entries_were_cleaned_from_the_log_goes_on(folder):
    idle, busy = open_existing_table(folder), open_existing_table(folder)
    for first in range(30, 60, 10):
        commit_rows(busy, rows(first, first + 10), {"s": first}, {"s": first + 10})
    for entry in (folder / "_delta_log").glob("*.json"):
        os.utime(entry, (1_600_000_000, 1_600_000_000))
    compact_table(busy)
    assert not (folder / "_delta_log" / f"{idle.version:020d}.json").exists()
    commit_rows(idle, rows(0, 5, "t"), {}, {"t": 5})
    assert (offsets(folder), offsets(folder, "t")) == (list(range(60)), list(range(5)))


def test_a_merge_and_somebody_elses_optimize_at_once_double_nothing(folder, monkeypatch):
    table = open_existing_table(folder)
    for first in range(30, 190, 10):
        commit_rows(table, rows(first, first + 10), {"s": first}, {"s": first + 10})
    monkeypatch.setattr(
        disk,
        "run_durability_hook",
        lambda point: DeltaTable(str(folder)).optimize.compact() if point == "merged files written" else None,
    )
    assert compact_table(table)["merged"] == 0
    assert offsets(folder) == list(range(190))


def test_two_compactions_of_several_partitions_at_the_same_time_double_nothing(folder, monkeypatch):
    """The second is refused at one partition, and must not go on with what it had listed of the
    others."""
    table = open_existing_table(folder)
    for first in range(30, 190, 10):
        both = pl.concat(
            [
                rows(first, first + 5),
                rows(first + 5, first + 10).with_columns(disposition=pl.lit("quarantine")),
            ]
        )
        commit_rows(table, both, {"s": first}, {"s": first + 10})
    begun = []

    def other(point):
        if point == "merged files written" and not begun:
            begun.append(True)
            compact_table(open_existing_table(folder))

    monkeypatch.setattr(disk, "run_durability_hook", other)
    assert compact_table(table)["merged"] == 0
    assert offsets(folder) == list(range(190))


def test_a_sync_of_the_log_that_fails_after_the_commit_leaves_what_it_names(folder, monkeypatch):
    table = open_existing_table(folder)

    def fails(*given):
        raise FeedError("cannot be written")

    monkeypatch.setattr(TableLog, "sync", fails)
    with pytest.raises(FeedError):
        commit_rows(table, rows(30, 40), {"s": 30}, {"s": 40})
    assert open_existing_table(folder).scan().collect().height == 40
    assert offsets(folder) == list(range(40))


def test_a_commit_that_was_made_and_not_told_counts_as_made(folder, monkeypatch):
    table = open_existing_table(folder)
    write = DeltaTable.create_write_transaction

    def made_and_not_told(*given, **more):
        write(*given, **more)
        raise OSError(errno.EIO, "the answer was lost")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", made_and_not_told)
    commit_rows(table, rows(30, 40), {"s": 30}, {"s": 40})
    assert table.find_offset("s") == 40
    assert offsets(folder) == list(range(40))


def test_a_log_that_cannot_be_written_ends_the_commit_with_its_reason_and_leaves_nothing(folder, monkeypatch):
    table = open_existing_table(folder)

    def full(*given, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", full)
        with pytest.raises(FeedError, match="No space left"):
            commit_rows(table, rows(30, 40), {"s": 30}, {"s": 40})
    assert len(list(folder.rglob("*.parquet"))) == 3
    commit_rows(table, rows(30, 40), {"s": 30}, {"s": 40})
    assert offsets(folder) == list(range(40))


def test_entries_of_a_process_that_was_killed_before_it_synced_are_synced_with_the_next_commit(
    folder, monkeypatch
):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink()))
    killed = open_existing_table(folder)
    killed.storage.sync = False
    commit_rows(killed, rows(30, 40), {"s": 30}, {"s": 40})
    assert not synced
    commit_rows(open_existing_table(folder), rows(40, 50), {"s": 40}, {"s": 50})
    entries = [int(path.stem) for path in synced if path.suffix == ".json"]
    assert entries == [0, 1, 2, 3, 4, 5]
    assert synced[-1] == folder / "_delta_log"  # the folder after its files


def test_files_and_log_stay_within_their_bound_whatever_was_committed(folder):
    """After a compaction: fewer than MERGE_FILES small files a partition, entries of `keep_log_h`
    hours, no file that nobody names and that is old."""
    table = open_existing_table(folder)
    for first in range(30, 630, 10):
        commit_rows(table, rows(first, first + 10), {"s": first}, {"s": first + 10})
    (folder / "disposition=row" / "part-orphan.parquet").write_bytes(b"of a kill")
    (folder / "_delta_log" / "00000000000000000063.json#1").write_bytes(b"of a kill")
    assert table.count_versions_since_checkpoint() == 63
    compact_table(table)
    long_ago = 1_600_000_000
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (long_ago, long_ago))
    commit_rows(table, rows(630, 640), {"s": 630}, {"s": 640})
    compact_table(table, keep_h=24)
    assert len(live_files(folder)) < MERGE_FILES
    left = [path for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts]
    assert "part-orphan.parquet" not in {path.name for path in left}
    assert len(left) > len(live_files(folder))  # what was merged just now is kept for those who read
    assert {path.name for path in (folder / "_delta_log").glob("*#*")} == set()
    assert len(list((folder / "_delta_log").glob("*.json"))) <= 3
    assert offsets(folder) == list(range(640))
    assert (table.list_offsets(), table.find_offset(COMPACTIONS)) == ({"s": 640}, 1)
