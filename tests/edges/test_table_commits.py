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
from ledger import live, live_files

from tasks.core.errors import FeedError, OffsetMovedError
from tasks.edges import delta
from tasks.edges.delta import VersionedTable, open_existing_table

COLUMNS = {"_source": pl.String(), "_offset": pl.Int64(), "place": pl.String()}


def rows(first, end, source="s"):
    return pl.DataFrame(
        {"_source": source, "_offset": range(first, end), "place": "row"}, schema=dict(COLUMNS)
    )


def offsets(folder, source="s"):
    files = [
        pq.ParquetFile(folder / path).read(columns=["_source", "_offset"]).to_pylist()
        for path in live_files(folder)
    ]
    return sorted(row["_offset"] for file in files for row in file if row["_source"] == source)


@pytest.fixture
def folder(tmp_path):
    table = VersionedTable(tmp_path / "table", COLUMNS, ["place"])
    for first in (0, 10, 20):
        table.commit(rows(first, first + 10), {"s": first} if first else {}, {"s": first + 10})
    return tmp_path / "table"


def test_a_writer_of_another_source_is_no_conflict_and_one_of_the_same_is(folder):
    ours, theirs = open_existing_table(folder), open_existing_table(folder)
    theirs.commit(rows(0, 5, "t"), {}, {"t": 5})
    ours.commit(rows(30, 40), {"s": 30}, {"s": 40})
    with pytest.raises(OffsetMovedError):
        theirs.commit(rows(30, 35), {"s": 30}, {"s": 35})
    assert offsets(folder) == list(range(40))
    assert offsets(folder, "t") == list(range(5))
    assert len(list(folder.rglob("*.parquet"))) == len(live_files(folder))  # the refused one left nothing


def test_a_first_commit_is_refused_when_another_process_made_it_meanwhile_and_we_have_looked(folder):
    ours, theirs = open_existing_table(folder), open_existing_table(folder)
    theirs.commit(rows(0, 5, "t"), {}, {"t": 5})
    ours.refresh()
    with pytest.raises(OffsetMovedError, match="its beginning"):
        ours.commit(rows(0, 3, "t"), {}, {"t": 3})


def test_our_restore_takes_rows_and_marks_back_and_a_running_writer_is_refused(folder):
    running = open_existing_table(folder)
    running.commit(rows(0, 5, "t"), {}, {"t": 5})
    open_existing_table(folder).restore(2)
    with pytest.raises(OffsetMovedError):
        running.commit(rows(30, 40), {"s": 30}, {"s": 40})
    assert running.marks() == {"s": 20, "tidy": 1}  # t is unread
    with pytest.raises(OffsetMovedError):
        running.commit(rows(5, 9, "t"), {"t": 5}, {"t": 9})
    running.commit(rows(0, 9, "t"), {}, {"t": 9})
    running.commit(rows(20, 40), {"s": 20}, {"s": 40})
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
        add = delta.AddAction("x.parquet", size, {"place": "row"}, 0, True, '{"numRecords": 5}')
        other.create_write_transaction([add], "append", other.schema(), ["place"])
    with pytest.raises(OffsetMovedError, match="restored by somebody else"):
        running.commit(rows(30, 40), {"s": 30}, {"s": 40})
    assert running.align_offsets()
    assert running.mark("s") == 20
    running.commit(rows(20, 40), {"s": 20}, {"s": 40})
    assert offsets(folder) == list(range(40))
    assert not open_existing_table(folder).align_offsets()


def test_a_restore_while_nobody_was_there_is_found_at_the_next_start(folder):
    other = DeltaTable(str(folder))
    other.restore(1)
    other.update_incremental()
    other.create_checkpoint()
    started = open_existing_table(folder)
    assert started.align_offsets()
    assert started.mark("s") == 10
    assert live(folder)[1]["s"] == 10


def test_a_writer_that_stood_still_while_its_entries_were_cleaned_from_the_log_goes_on(folder):
    idle, busy = open_existing_table(folder), open_existing_table(folder)
    for first in range(30, 60, 10):
        busy.commit(rows(first, first + 10), {"s": first}, {"s": first + 10})
    for entry in (folder / "_delta_log").glob("*.json"):
        os.utime(entry, (1_600_000_000, 1_600_000_000))
    busy.compact()
    assert not (folder / "_delta_log" / f"{idle.version:020d}.json").exists()
    idle.commit(rows(0, 5, "t"), {}, {"t": 5})
    assert (offsets(folder), offsets(folder, "t")) == (list(range(60)), list(range(5)))


def test_a_merge_and_somebody_elses_optimize_at_once_double_nothing(folder, monkeypatch):
    table = open_existing_table(folder)
    for first in range(30, 190, 10):
        table.commit(rows(first, first + 10), {"s": first}, {"s": first + 10})
    monkeypatch.setattr(
        delta,
        "run_durability_hook",
        lambda point: DeltaTable(str(folder)).optimize.compact() if point == "merged files written" else None,
    )
    assert table.compact()["merged"] == 0
    assert offsets(folder) == list(range(190))


def test_two_who_tidy_several_partitions_at_once_double_nothing(folder, monkeypatch):
    """The second is refused at one partition, and must not go on with what it had listed of the
    others."""
    table = open_existing_table(folder)
    for first in range(30, 190, 10):
        both = pl.concat(
            [rows(first, first + 5), rows(first + 5, first + 10).with_columns(place=pl.lit("quarantine"))]
        )
        table.commit(both, {"s": first}, {"s": first + 10})
    begun = []

    def other(point):
        if point == "merged files written" and not begun:
            begun.append(True)
            open_existing_table(folder).compact()

    monkeypatch.setattr(delta, "run_durability_hook", other)
    assert table.compact()["merged"] == 0
    assert offsets(folder) == list(range(190))


def test_a_sync_of_the_log_that_fails_after_the_commit_leaves_what_it_names(folder, monkeypatch):
    table = open_existing_table(folder)

    def fails(*given):
        raise FeedError("cannot be written")

    monkeypatch.setattr(VersionedTable, "_sync_log", fails)
    with pytest.raises(FeedError):
        table.commit(rows(30, 40), {"s": 30}, {"s": 40})
    assert open_existing_table(folder).scan().collect().height == 40
    assert offsets(folder) == list(range(40))


def test_a_commit_that_was_made_and_not_told_counts_as_made(folder, monkeypatch):
    table = open_existing_table(folder)
    write = DeltaTable.create_write_transaction

    def made_and_not_told(*given, **more):
        write(*given, **more)
        raise OSError(errno.EIO, "the answer was lost")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", made_and_not_told)
    table.commit(rows(30, 40), {"s": 30}, {"s": 40})
    assert table.mark("s") == 40
    assert offsets(folder) == list(range(40))


def test_a_log_that_cannot_be_written_ends_the_commit_with_its_reason_and_leaves_nothing(folder, monkeypatch):
    table = open_existing_table(folder)

    def full(*given, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", full)
        with pytest.raises(FeedError, match="No space left"):
            table.commit(rows(30, 40), {"s": 30}, {"s": 40})
    assert len(list(folder.rglob("*.parquet"))) == 3
    table.commit(rows(30, 40), {"s": 30}, {"s": 40})
    assert offsets(folder) == list(range(40))


def test_entries_of_a_process_that_was_killed_before_it_synced_are_synced_with_the_next_commit(
    folder, monkeypatch
):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink()))
    killed = open_existing_table(folder)
    killed._sync = False
    killed.commit(rows(30, 40), {"s": 30}, {"s": 40})
    assert not synced
    open_existing_table(folder).commit(rows(40, 50), {"s": 40}, {"s": 50})
    entries = [int(path.stem) for path in synced if path.suffix == ".json"]
    assert entries == [0, 1, 2, 3, 4, 5]
    assert synced[-1] == folder / "_delta_log"  # the folder after its files


def test_files_and_log_stay_within_their_bound_whatever_was_committed(folder):
    """After `tidy`: fewer than MERGE_FILES small files a partition, entries of `keep_log_h`
    hours, no file that nobody names and that is old."""
    table = open_existing_table(folder)
    for first in range(30, 630, 10):
        table.commit(rows(first, first + 10), {"s": first}, {"s": first + 10})
    (folder / "place=row" / "part-orphan.parquet").write_bytes(b"of a kill")
    (folder / "_delta_log" / "00000000000000000063.json#1").write_bytes(b"of a kill")
    assert table.n_versions_since_checkpoint == 63
    table.compact()
    long_ago = 1_600_000_000
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (long_ago, long_ago))
    table.commit(rows(630, 640), {"s": 630}, {"s": 640})
    table.compact(keep_h=24)
    assert len(live_files(folder)) < delta.MERGE_FILES
    left = [path for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts]
    assert "part-orphan.parquet" not in {path.name for path in left}
    assert len(left) > len(live_files(folder))  # what was merged just now is kept for those who read
    assert {path.name for path in (folder / "_delta_log").glob("*#*")} == set()
    assert len(list((folder / "_delta_log").glob("*.json"))) <= 3
    assert offsets(folder) == list(range(640))
    assert open_existing_table(folder).marks() == {"s": 640, "tidy": 1}
