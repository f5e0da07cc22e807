"""Laws of choosing a table's files by their statistics, and of reading its log, without a table."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import FeedError
from tasks.edges.delta.compact import MERGE_FILES, SMALL_BYTES, select_small_files
from tasks.edges.delta.log import parse_commit_info, parse_sources
from tasks.edges.delta.schema import build_field
from tasks.edges.delta.statistics import (
    compute_statistics,
    find_row_bound,
    format_file_statistics,
    group_files,
    select_files,
    split_at,
)

VALUES = st.lists(st.one_of(st.none(), st.integers(-50, 50)), min_size=1, max_size=8)
FILES = st.lists(st.tuples(VALUES, st.sampled_from("ab"), st.integers(1, 100)), min_size=1, max_size=8)


def frame_of(parts):
    """What `list_files` gives for *parts*: (values of x, value of the partition p, bytes)."""
    rows = []
    for number, (values, partition, n_bytes) in enumerate(parts):
        held = json.loads(compute_statistics(pl.DataFrame({"x": values}, schema={"x": pl.Int64})))
        rows.append(
            {
                "path": f"{9 - number}.parquet",
                "size_bytes": n_bytes,
                "num_records": held["numRecords"],
                "p": partition,
                "min.x": held["minValues"].get("x"),
                "max.x": held["maxValues"].get("x"),
                "null_count.x": held["nullCount"]["x"],
            }
        )
    bounds = {"min.x": pl.Int64, "max.x": pl.Int64}
    return pl.DataFrame(rows, schema_overrides=bounds)


def values_of(parts, files):
    """All values of x in *files*, a part of the frame of *parts*."""
    return [v for path in files["path"] for v in parts[9 - int(path[0])][0]]


@given(FILES, st.integers(-50, 50))
def test_no_file_with_a_wanted_row_is_left_out(parts, least):
    chosen = values_of(parts, select_files(frame_of(parts), {"p": "a"}, {"x": least}))
    wanted = [v for values, partition, _ in parts if partition == "a" for v in values]
    assert all(chosen.count(v) == wanted.count(v) for v in wanted if v is not None and v >= least)
    assert set(chosen) <= set(wanted)


@given(FILES, st.integers(-60, 60))
def test_rows_below_a_bound_are_those_of_whole_files_and_of_files_on_both_sides(parts, bound):
    parts = [([v for v in values if v is not None] or [0], p, n) for values, p, n in parts]
    n_below, across = split_at(frame_of(parts), "x", bound)
    counted = n_below + sum(v < bound for v in values_of(parts, across))
    assert counted == sum(v < bound for values, _, _ in parts for v in values)


@given(FILES, st.integers(1, 40))
def test_files_that_reach_the_bound_hold_the_wanted_number_of_rows(parts, n_rows):
    parts = [([v for v in values if v is not None] or [0], p, n) for values, p, n in parts]
    files = frame_of(parts)
    bound = find_row_bound(files, "x", n_rows)
    reaching = files.filter(pl.col("max.x") >= bound)["num_records"].sum()
    assert reaching >= min(n_rows, files["num_records"].sum())
    assert find_row_bound(files.clear(), "x", n_rows) is None


@given(FILES, st.integers(1, 300))
def test_groups_of_files_hold_each_file_once_in_order_and_within_their_bytes(parts, max_bytes):
    groups = group_files(frame_of(parts), "x", max_bytes)
    least = [v for group in groups for v in group["min.x"] if v is not None]
    assert least == sorted(least)
    assert sorted(p for group in groups for p in group["path"]) == sorted(frame_of(parts)["path"])
    assert all(group["size_bytes"].head(-1).sum() < max_bytes for group in groups)


@given(VALUES)
def test_statistics_of_a_file_are_the_same_from_its_rows_and_from_the_log(values):
    rows = pl.DataFrame({"x": values}, schema={"x": pl.Int64})
    (file,) = frame_of([(values, "a", 1)]).iter_rows(named=True)
    assert json.loads(format_file_statistics(file)) == json.loads(compute_statistics(rows))


def test_statistics_write_times_as_delta_reads_them():
    at = datetime(2024, 1, 1, 12, tzinfo=UTC)
    held = json.loads(compute_statistics(pl.DataFrame({"at": [at], "text": ["a"]})))
    assert held["minValues"] == held["maxValues"] == {"at": "2024-01-01T12:00:00.000000Z"}


@given(st.lists(st.sampled_from([1, SMALL_BYTES - 1, SMALL_BYTES]), max_size=40))
def test_small_files_are_merged_when_they_are_many(sizes):
    small = select_small_files(pl.DataFrame({"size_bytes": sizes}, schema={"size_bytes": pl.Int64}))
    n_small = sum(size < SMALL_BYTES for size in sizes)
    assert small.height == (n_small if n_small >= MERGE_FILES else 0)


def test_an_entry_of_the_log_names_its_sources_and_its_writer():
    entry = b'{"txn":{"appId":"kafka:c/t/0","version":7}}\n{"commitInfo":{"operation":"WRITE"}}\n{"add":{}}\n'
    assert parse_sources(entry) == {"kafka:c/t/0"}
    assert parse_commit_info(entry) == ("WRITE", None)
    assert parse_commit_info(b'{"commitInfo":{"operation":"WRITE","tidemill":"{}"}}') == ("WRITE", "{}")
    assert parse_commit_info(b"") is None


def test_a_type_that_a_table_does_not_hold_is_refused():
    with pytest.raises(FeedError, match="'x' is List"):
        build_field("x", pl.List(pl.Int64))
