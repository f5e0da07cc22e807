"""A file that has grown is read at its end, and the rows are those of all of it."""

import json
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from homes import at_home
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refresh_runs import DATASET, build_root, run_full_pass, write_meters
from small_release import SMALL_ABOUT, START, small_rows

from tasks.core.errors import TidemillError
from tasks.core.frames import SERIES
from tasks.edges.artifacts import merge_into_frame, write_frame
from tasks.edges.refreshed import get_refresh_folder
from tasks.edges.registry import get_rows_path
from tasks.feed.service import run_feed
from tasks.refresh.stage import refresh_rows

N_DAYS = 40


def line(day, meter="north", load="101.5"):
    return f"{meter},{START + timedelta(days=day):%Y-%m-%d},{load}\n"


# What a file may grow by; after some of it the file cannot be read at all
ENDS = {
    "a row": line(50),
    "a new series": line(50, "east"),
    "many rows": "".join(line(50 + i, meter) for i in range(9) for meter in ("north", "south")),
    "an older row": line(-3),
    "a row that came before": line(7),
    "the same row twice": line(51) * 2,
    "a row that breaks the contract": line(52, load="-1"),
    "an empty value": line(53, load=""),
    "half an hour off": f"north,{START + timedelta(days=54):%Y-%m-%d} 00:30,5\n",
    "a time with a zone": f"north,{START + timedelta(days=55):%Y-%m-%dT%H:%M}:00Z,5\n",
    "no number": line(56, load="much"),
    "no time": "north,soon,5\n",
    "too few fields": "north,2021-01-01\n",
    "too many fields": "north,2021-01-01,5,6\n",
    "no line end": line(57).rstrip(),
    "half a row": line(58)[:-4],
    "a blank line": "\n",
    "its header again": "meter,day,load\n",
    "a quoted text": line(59, '"north"'),
    "a quoted line end": line(60, '"no\nrth"'),
    "an open quote": line(61, '"north'),
    "another line end": line(62).replace("\n", "\r\n"),
    "spaces": line(63, " north ", " 9 "),
    "more rows than before, of another phase": "".join(
        f"north,{START + timedelta(days=64 + i):%Y-%m-%d} 00:30,5\n" for i in range(100)
    ),
}
READ_AT_ITS_END = {"a row", "a new series", "many rows", "an older row", "another line end", "spaces"}


def outcome(act):
    """(published bytes, None), or (None, message)."""
    try:
        act()
    except TidemillError as error:
        return type(error), str(error).split(" All of them are in ")[0]
    return get_rows_path(DATASET).read_bytes(), None


def by_full_pass(root):
    found = outcome(lambda: run_full_pass(root))
    return found if found[1] else ((root / "data/clean/rows.parquet").read_bytes(), None)


def grow(root, end, name="meters.csv"):
    with (root / name).open("a", newline="") as file:
        file.write(end)


@settings(deadline=None, max_examples=8)
@given(st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=4), st.booleans())
@example(["half a row", "a row", "many rows"], False)
@example(["an open quote", "an open quote", "a row"], False)
@example(["a quoted line end", "a row"], False)
@example(["a row that breaks the contract", "many rows", "a row"], True)
@example(["a time with a zone", "a row"], False)
@example(["more rows than before, of another phase"], False)
def test_whatever_a_file_grows_by_the_rows_are_those_of_the_full_stages(tmp_path_factory, ends, two_files):
    folder = tmp_path_factory.mktemp("appended")
    with at_home(folder / "home"):
        root = build_root(folder / "root")
        write_meters(root, small_rows(N_DAYS))
        if two_files:
            write_meters(root, small_rows(N_DAYS, series_ids=("west",)), "meters_west.csv")
        refresh_rows(root, report=lambda _: None)
        for end in ends:
            grow(root, ENDS[end])
            assert outcome(lambda: refresh_rows(root, report=lambda _: None)) == by_full_pass(root)


@pytest.mark.parametrize("end", sorted(READ_AT_ITS_END))
def test_the_end_alone_is_read(tmp_path, end):
    with at_home(tmp_path / "home"):
        root = build_root(tmp_path / "root")
        write_meters(root, small_rows(N_DAYS))
        write_meters(root, small_rows(N_DAYS, series_ids=("west",)), "meters_west.csv")
        refresh_rows(root, report=lambda _: None)
        said = []
        grow(root, ENDS[end])
        done = refresh_rows(root, report=said.append)
        n = ENDS[end].count("\n")
        assert said == [f"refresh: meters.csv: {n:,} rows at its end"]
        assert (done.n_new, done.is_changed) == (n, True)
        # and from there on
        grow(root, line(70, "west"), "meters_west.csv")
        assert refresh_rows(root, report=said.append).n_new == 1
        assert said[1:] == ["refresh: meters_west.csv: 1 rows at its end"]


@pytest.mark.parametrize("n_old", [1, 65_536, 65_537, 200_000])
def test_rows_that_are_merged_into_a_file_give_the_bytes_of_all_of_them(tmp_path, n_old):
    """Before, between and after the others, however many fill a group of rows."""
    rng = np.random.default_rng(n_old)
    n_new, cells = 3_000, rng.permutation(n_old + 3_000)
    rows = pl.DataFrame(
        {"series_id": pl.Series(cells % 7).cast(pl.String), "load": rng.normal(size=cells.size)}
    )
    times = START + pl.Series(cells * 60_000_000).cast(pl.Duration("us"))
    rows = SERIES.conform(rows.with_columns(event_time=times, known_at=times + timedelta(hours=1)))
    is_new = pl.Series(rng.permutation(rows.height) < n_new)
    write_frame(tmp_path / "all", rows, SERIES)
    write_frame(tmp_path / "merged", rows.filter(~is_new), SERIES)
    merge_into_frame(tmp_path / "merged", rows.filter(is_new), SERIES)
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "all").read_bytes()


def test_a_step_before_all_others_may_move_a_calendar_of_months(tmp_path):
    """Of quarters that start with the first row, a month earlier is another grid."""
    quarters = [date(2000 + i // 4, 1 + i % 4 * 3, 1) for i in range(60)]
    with at_home(tmp_path / "home"):
        about = {**SMALL_ABOUT, "every": "3mo"}
        root = build_root(tmp_path / "root", about=about)
        text = "".join(f"north,{day},5\n" for day in quarters)
        (root / "meters.csv").write_text(f"meter,day,load\n{text}")
        refresh_rows(root, report=lambda _: None)
        for day in ("2015-01-01", "1999-10-01", "1999-09-01"):
            grow(root, f"north,{day},5\n")
            assert outcome(lambda: refresh_rows(root, report=lambda _: None)) == by_full_pass(root)


def test_a_file_that_changed_before_its_end_is_read_again(tmp_path):
    with at_home(tmp_path / "home"):
        root = build_root(tmp_path / "root")
        write_meters(root, small_rows(N_DAYS))
        refresh_rows(root, report=lambda _: None)
        text = (root / "meters.csv").read_text().replace("south", "uphill", 1)
        (root / "meters.csv").write_text(text + line(50))
        said = []
        refresh_rows(root, report=said.append)
        assert said[0].startswith("ingest: meters.csv:")
        assert get_rows_path(DATASET).read_bytes() == run_full_pass(root)


def land(root, lines):
    """Append records to the file that the feed reads, and land them."""
    with (root / "records.jsonl").open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in lines))
    run_feed(stop=lambda: False, until_caught_up=True, report=lambda _: None, root=root)


def record(day, load=100.0, meter="north", **more):
    return {
        "series_id": meter,
        "event_time": f"{START + timedelta(days=day):%Y-%m-%dT00:00:00Z}",
        "load": load,
        **more,
    }


LANDED = {
    "next days": [record(41), record(41, 90.0, "south"), record(42)],
    "a new series": [record(41, 7.0, "east")],
    "an older day": [record(-5)],
    "a correction known at the same time": [record(3, 55.0)],
    "a correction": [record(3, 55.0, known_at="2026-01-05T00:00:00Z")],
    "rows that break the contract": [record(43, -1.0), record(44)],
    "poison": [{"series_id": "north"}, record(45)],
    "a column more": [record(46, wind=3.0)],
    "nothing new": [],
}

# of those that are read without the rest; the landing keeps what breaks the contract
N_ROWS = {"next days": 3, "a new series": 1, "an older day": 1, "rows that break the contract": 1}


@settings(deadline=None, max_examples=6)
@given(st.lists(st.sampled_from(sorted(LANDED)), min_size=1, max_size=4))
@example(["next days", "a correction", "next days", "a column more"])
@example(["a correction known at the same time", "rows that break the contract", "next days"])
def test_whatever_a_feed_lands_the_rows_are_those_of_all_of_it(tmp_path_factory, landed):
    folder = tmp_path_factory.mktemp("appended")
    root = folder / "root"
    feed = {
        "source": {"kind": "files", "path": str(root / "records.jsonl"), "speed": "max"},
        "fields": {"load": {}},
        "window": "1d",
        "lateness_s": 1e8,
    }
    with at_home(folder / "home"):
        build_root(root, feed=feed, ingest={"source": {"kind": "feed", "known_at": "nominal"}})
        land(root, [record(day, 100.0 + day, meter) for day in range(40) for meter in ("north", "south")])
        refresh_rows(root, report=lambda _: None)
        for name in landed:
            land(root, LANDED[name])
            said = []
            refresh_rows(root, report=said.append)
            if name in {"next days", "rows that break the contract"} and landed.count(name) == 1:
                assert said == [f"refresh: small: {len(LANDED[name])} rows at its end"]
            found = get_rows_path(DATASET).read_bytes()
            report = get_refresh_folder(DATASET) / "report.json"
            kept = report.rename(report.with_name("kept.json"))
            refresh_rows(root, report=lambda _: None)
            assert get_rows_path(DATASET).read_bytes() == found
            kept.rename(report)
