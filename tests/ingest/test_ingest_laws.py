"""Nothing is lost and nothing doubled on the way from the files to the rows."""

import json
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_runs import START, about_of, files_source, run_ingest
from polars.testing import assert_frame_equal

from tasks.core.frames import REPEATED, SERIES
from tasks.edges.artifacts import read_frame
from tasks.edges.files import compute_file_hash
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.ingest.__main__ import main
from tasks.ingest.params import ArchSource
from tasks.ingest.source import build_source
from tasks.ingest.stage import read_source

ROW = st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.floats(-5, 5, allow_nan=False))
FILES = st.dictionaries(
    st.sampled_from(["1.csv", "2.csv", "3.csv"]), st.lists(ROW, min_size=1, max_size=12), min_size=1
)
SOURCE = files_source(series_column="who")


def as_csv(rows):
    return "time,who,value\n" + "".join(
        f"{START + timedelta(hours=h):%FT%T},{who},{value!r}\n" for who, h, value in rows
    )


def run(files, **caps):
    folder = Path(tempfile.mkdtemp())
    try:
        return run_ingest(folder, {name: as_csv(rows) for name, rows in files.items()}, SOURCE, **caps)
    finally:
        shutil.rmtree(folder)


@settings(deadline=None, max_examples=40)  # a slow machine is no fault
@given(files=FILES)
def test_every_repeated_key_is_kept_apart_with_its_file(files):
    got = run(files)
    first, again = {}, []
    for name in sorted(files):
        for who, hour, value in files[name]:
            key = (who, START + timedelta(hours=hour))
            again += [(*key, name, value)] if key in first else []
            first.setdefault(key, value)
    assert {
        row[:2]: row[2] for row in got.rows.select("series_id", "event_time", "value").iter_rows()
    } == first
    assert sorted(got.repeated.select("series_id", "event_time", "file", "value").rows()) == sorted(again)


@settings(deadline=None, max_examples=40)  # a slow machine is no fault
@given(files=FILES, max_rows=st.none() | st.integers(1, 4), max_series=st.none() | st.integers(1, 3))
def test_ledger_accounts_for_every_row_that_was_read(files, max_rows, max_series):
    got = run(files, max_rows_per_series=max_rows, max_series=max_series)
    for entry in got.ledger.files:
        assert (
            entry.rows_read
            == len(files[entry.file])
            == entry.rows_kept + entry.rows_repeated + entry.rows_capped
        )
    totals = got.ledger.totals
    assert (totals.rows_kept, totals.rows_repeated) == (got.rows.height, got.repeated.height)
    assert totals.rows_read == sum(map(len, files.values()))


@settings(deadline=None, max_examples=40)  # a slow machine is no fault
@given(files=FILES, data=st.data())
def test_order_in_which_files_were_made_does_not_matter(files, data):
    shuffled = data.draw(st.permutations(list(files)))
    one, other = run(files), run({name: files[name] for name in shuffled})
    assert_frame_equal(one.rows, other.rows)
    assert_frame_equal(one.repeated, other.repeated)
    assert one.ledger == other.ledger


@settings(deadline=None, max_examples=40)  # a slow machine is no fault
@given(rows=st.lists(ROW, min_size=1, max_size=30), max_rows=st.integers(1, 4), max_series=st.integers(1, 3))
def test_caps_keep_the_newest_rows_of_the_first_series(rows, max_rows, max_series):
    whole, capped = (
        run({"f.csv": rows}),
        run({"f.csv": rows}, max_rows_per_series=max_rows, max_series=max_series),
    )
    wanted = [
        part.tail(max_rows)
        for _, part in sorted(whole.rows.partition_by("series_id", as_dict=True).items())[:max_series]
    ]  # without vintages a step is a row
    assert_frame_equal(capped.rows, pl.concat(wanted))


def test_caps_are_reported(tmp_path):
    messages = []
    rows = [("a", h, 1.0) for h in range(5)] + [("b", 0, 1.0)]
    (tmp_path / "f.csv").write_text(as_csv(rows))
    (tmp_path / "source.json").write_text('{"kind": "files"}')
    read_source(
        build_source(SOURCE, about_of(), tmp_path),
        about_of(),
        max_rows_per_series=3,
        max_series=1,
        report=messages.append,
    )
    assert messages == [
        "ingest: f.csv: 6 rows of 2 series, 2024-01-01 00:00 to 2024-01-01 04:00 UTC",
        (
            "ingest: 3 rows left out by `max_rows_per_series: 3` and `max_series: 1`; the newest rows and the"
            " first series are kept"
        ),
    ]


def test_a_correction_is_a_vintage_and_no_repetition(tmp_path):
    text = "time,seen,value\n2024-01-01,2024-01-02,1\n2024-01-01,2024-01-05,2\n2024-01-01,2024-01-05,3\n"
    got = run_ingest(tmp_path, {"f.csv": text}, files_source(known_at_column="seen"), about_of("1d"))
    assert (got.rows["value"].to_list(), got.repeated["value"].to_list()) == ([1.0, 2.0], [3.0])


def test_times_off_the_grid_are_counted(tmp_path):
    text = "time,value\n" + "".join(f"2024-01-01T{h:02d}:00:{7 if h == 3 else 0:02d},1\n" for h in range(10))
    assert run_ingest(tmp_path, {"f.csv": text}, files_source()).ledger.files[0].rows_off_grid == 1


def test_embedded_bars_equal_those_that_arch_loads(tmp_path):
    """arch is read from its files, since importing it takes 11 s; the numbers are the same."""
    about = about_of("1d")
    got = read_source(
        build_source(ArchSource(kind="arch"), about, tmp_path), about, report=lambda _: None
    ).rows
    for series in ("sp500", "nasdaq"):
        table = pl.read_csv(
            f"{build_source(ArchSource(kind='arch'), about, tmp_path)._folder()}/{series}/{series}.csv.gz"
        )
        part = got.filter(series_id=series)
        assert part["event_time"].dt.strftime("%-m/%-d/%Y").to_list() == table["Date"].to_list()
        for column in ("Open", "High", "Low", "Close", "Volume"):
            assert part[column.lower()].to_list() == table[column].cast(pl.Float64).to_list()
    assert got.height == 10_062
    assert (got["known_at"] - got["event_time"]).unique().to_list() == [timedelta(days=1)]


@pytest.fixture
def checkout(tmp_path):
    """A checkout's params.yaml with a dataset of files, and its data/source."""
    document = read_document(ROOT).content
    entry = document["datasets"][document["dataset"]]
    entry["about"] |= {"every": "1h", "calendar": "continuous", "target": {"column": "value", "unit": "u"}}
    entry["ingest"] = {"source": json.loads(SOURCE.model_dump_json()) | {"max_series": 2}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    source = tmp_path / "data/source"
    source.mkdir(parents=True)
    (source / "source.json").write_text('{"kind": "files", "files": ["1.csv"]}')
    (source / "1.csv").write_text(as_csv([("b", 0, 1.0), ("a", 1, 2.0), ("b", 0, 3.0), ("c", 0, 4.0)]))
    return tmp_path


def test_stage_on_disk_keeps_schemas_and_repeats_to_the_byte(checkout):
    main(checkout)
    before = {path.name: compute_file_hash(path) for path in (checkout / "data/raw").iterdir()}
    assert read_frame(checkout / "data/raw/rows.parquet", SERIES).height == 2
    assert read_frame(checkout / "data/raw/repeated.parquet", REPEATED)["file"].to_list() == ["1.csv"]
    totals = json.loads((checkout / "data/raw/ledger.json").read_text())["totals"]
    assert totals == {
        "rows_read": 4,
        "rows_kept": 2,
        "rows_repeated": 1,
        "rows_capped": 1,
        "rows_off_grid": 0,
        "series": 2,
    }
    main(checkout)
    assert before == {path.name: compute_file_hash(path) for path in (checkout / "data/raw").iterdir()}
