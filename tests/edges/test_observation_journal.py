"""What was acknowledged stays, whatever ends the process; readers see whole lines alone."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from homes import at_home

from tasks.core.errors import JournalError
from tasks.core.frames import QUARANTINE, SERIES
from tasks.edges.observations import (
    LINK,
    get_observations_path,
    hold_observations,
    link_observations,
    list_observation_files,
    read_observations,
    write_observations,
)
from tasks.edges.settings import ROOT, build_child_environment

DATASET = "meters"
START = datetime(2024, 1, 1, tzinfo=UTC)
NONE = QUARANTINE.conform(pl.DataFrame(schema=QUARANTINE.columns))
# Appends a line of two rows again and again, and prints its number once it is acknowledged
WRITER = """
import sys; sys.path[:0] = ["tests/edges", "tests/support"]
from test_observation_journal import append
for k in range(int(sys.argv[1]), 10**9):
    append([k, k + 0.1])
    print(k, flush=True)
"""


def build(values):
    times = [START + timedelta(hours=k) for k in range(len(values))]
    known = [time + timedelta(hours=1) for time in times]
    columns = {"series_id": ["north"] * len(values), "event_time": times, "known_at": known, "load": values}
    return SERIES.conform(pl.DataFrame(columns, schema_overrides={"load": pl.Float64}))


def append(values):
    with hold_observations(DATASET):
        write_observations(DATASET, build(values), NONE)


def read():
    rows = read_observations(get_observations_path(DATASET))
    return None if rows is None else rows["load"].to_list()


def test_rows_come_back_as_they_were_sent_and_the_file_only_grows(tmp_path):
    sent = [[0.1, None], [1e300, -5e-324], [1 / 3]]
    with at_home(tmp_path):
        assert read() is None
        contents = [b""]
        for values in sent:
            append(values)
            contents.append(get_observations_path(DATASET).read_bytes())
            assert contents[-1].startswith(contents[-2])
        assert read() == [value for values in sent for value in values]
        rows = read_observations(get_observations_path(DATASET))
        assert rows.head(2).equals(build(sent[0]))
        assert rows.schema == build([0.0]).schema


def test_a_line_that_was_cut_off_anywhere_counts_as_not_written(tmp_path):
    with at_home(tmp_path):
        append([1.0])
        path = get_observations_path(DATASET)
        whole = path.read_bytes()
        append([2.0, 3.0])
        added = path.read_bytes()[len(whole) :]
        for n_bytes in range(len(added)):
            path.write_bytes(whole + added[:n_bytes])
            assert read() == [1.0]
        append([4.0])
        assert read() == [1.0, 4.0]


def test_a_changed_line_is_named_and_nothing_is_added(tmp_path):
    with at_home(tmp_path):
        append([1.0])
        append([2.0])
        changed = get_observations_path(DATASET).read_bytes().replace(b"[1.0]", b"[9.0]")
    with at_home(tmp_path / "another"):
        path = get_observations_path(DATASET)
        path.parent.mkdir(parents=True)
        path.write_bytes(changed)
        with pytest.raises(JournalError, match="Line 1 of"):
            append([3.0])
        assert path.read_bytes() == changed


def test_killed_at_any_moment_it_has_all_that_was_acknowledged(tmp_path):
    with at_home(tmp_path):
        done = -1
        for pause_s in (0.0, 0.05):
            command = [sys.executable, "-c", WRITER, str(done + 1)]
            with subprocess.Popen(
                command, cwd=ROOT, env=build_child_environment(), stdout=subprocess.PIPE, text=True
            ) as process:
                process.stdout.readline()
                time.sleep(pause_s)
                os.kill(process.pid, signal.SIGKILL)
                acknowledged = int([done + 1, *process.stdout.read().split()][-1])
            found = read()
            # The line of the moment may be there, too, and is whole
            assert len(found) // 2 - 1 in (acknowledged, acknowledged + 1)
            assert found == [value for k in range(len(found) // 2) for value in (k, k + 0.1)]
            done = len(found) // 2 - 1
    assert done >= 1


def test_the_file_of_an_earlier_version_is_taken_over_with_its_link(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    with at_home(tmp_path / "home"):
        path = get_observations_path(DATASET)
        former, link = path.with_suffix(".parquet"), folder / ".observations.parquet"
        former.parent.mkdir(parents=True)
        build([1.0, 2.0]).write_parquet(former)
        link.symlink_to(former)
        link_observations(DATASET, folder)
        assert [entry.name for entry in folder.iterdir()] == [LINK]
        assert read_observations(folder / LINK)["load"].to_list() == [1.0, 2.0]
        append([3.0])
        assert read() == [1.0, 2.0, 3.0]
        assert not former.exists()
        assert set(path.parent.iterdir()) <= set(list_observation_files(DATASET))
