"""The real files beside the project, with entries written by hand: the counts of their README."""

import gzip
import json
from datetime import UTC, datetime

import polars as pl
import pytest
from ingest_runs import about_of, files_source, run_ingest

pytestmark = pytest.mark.shared
OHLCV = ("open", "high", "low", "close", "volume")


def test_binance_list_of_lists_has_its_bars(shared_data, tmp_path):
    path = shared_data / "binance_1h/BTC_USDT-1h.json"
    source = files_source(
        format="json",
        columns=("time", *OHLCV),
        time_format="ms",
        value_columns=OHLCV,
        series_pattern=r"^([A-Z]+)_",
    )
    got = run_ingest(tmp_path, {path.name: path}, source)
    bars = json.loads(path.read_text())
    assert got.rows.height == len(bars) == 45_024
    assert got.rows["series_id"].unique().to_list() == ["BTC"]
    assert got.rows.select(OHLCV).rows()[:3] == [tuple(bar[1:]) for bar in bars[:3]]
    missing = (
        (got.rows["event_time"][-1] - got.rows["event_time"][0]).total_seconds() / 3600 + 1 - got.rows.height
    )
    assert missing == 127


def test_bitfinex_columns_in_their_own_order_are_all_read(shared_data, tmp_path):
    files = {path.name: path for path in sorted((shared_data / "bitfinex_1m").iterdir())}
    source = files_source(
        header=False,
        columns=("time", "open", "close", "high", "low", "volume"),
        time_format="ms",
        value_columns=OHLCV,
        series_id="BTCUSD",
    )
    got = run_ingest(tmp_path, files, source, about_of("1m"))
    assert got.ledger.totals.model_dump() == {
        "rows_read": 1_091_782,
        "rows_kept": 1_091_782,
        "rows_repeated": 0,
        "rows_capped": 0,
        "rows_off_grid": 0,
        "series": 1,
    }
    assert [entry.file for entry in got.ledger.files] == sorted(files)
    assert (got.rows["high"] >= got.rows["close"]).all()
    assert got.ledger.as_of.isoformat() == "2016-12-31T23:59:00+00:00"


def test_m4_ragged_rows_lose_their_padding_only(shared_data, tmp_path):
    path = shared_data / "m4/Hourly-train.csv"
    got = run_ingest(
        tmp_path,
        {path.name: path},
        files_source("row_per_series", series_column="V1"),
        about_of(integer_time=True),
    ).rows
    values = {
        line.split(",", 1)[0].strip('"'): [c.strip('"') for c in line.split(",")[1:]]
        for line in path.read_text().splitlines()[1:]
    }
    lengths = dict(got.group_by("series_id").agg(pl.len()).iter_rows())
    assert len(lengths) == 414
    assert lengths == {series: sum(c not in {"", "NA"} for c in cells) for series, cells in values.items()}
    assert got.group_by("series_id").agg(pl.col("event_time").max())["event_time"].unique().to_list() == [
        datetime(2000, 1, 1, tzinfo=UTC)
    ]
    assert got.filter(series_id="H1")["value"].to_list() == [float(c) for c in values["H1"] if c]


def test_etth1_wide_gives_seven_series(shared_data, tmp_path):
    columns = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    path = shared_data / "ett/ETTh1.csv"
    got = run_ingest(
        tmp_path, {path.name: path}, files_source("wide", time_column="date", value_columns=columns)
    ).rows
    assert dict(got.group_by("series_id").agg(pl.len()).iter_rows()) == dict.fromkeys(columns, 17_420)
    assert got["value"].null_count() == 0


def test_nab_repeated_minutes_are_kept_apart(shared_data, tmp_path):
    files = {path.name: path for path in sorted((shared_data / "nab/data/realKnownCause").glob("*.csv"))}
    got = run_ingest(
        tmp_path, files, files_source(time_column="timestamp", series_from="file_stem"), about_of("5m")
    )
    stamps = {
        name: [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
        for name, path in files.items()
    }
    for entry in got.ledger.files:
        times = stamps[entry.file]
        assert (entry.rows_read, entry.rows_repeated) == (len(times), len(times) - len(set(times)))
    assert got.ledger.totals.rows_repeated == 23


@pytest.mark.parametrize(
    ("name", "every", "n", "n_null"),
    [
        ("retail_sales", "1mo", 293, 0),
        ("wp_log_R_outliers1", "1d", 2_863, 0),
        ("wp_log_peyton_manning", "1d", 2_905, 0),
        ("yosemite_temps", "5m", 18_721, None),
    ],
)
def test_prophet_examples_are_read_whole(shared_data, tmp_path, name, every, n, n_null):
    path = shared_data / f"prophet/example_{name}.csv"
    got = run_ingest(
        tmp_path, {path.name: path}, files_source(time_column="ds", value_columns=("y",)), about_of(every)
    )
    cells = [line.split(",")[1].strip('"') for line in path.read_text().splitlines()[1:]]
    assert got.rows.height + got.repeated.height == len(cells) == n
    assert got.rows["y"].null_count() == sum(c in {"", "NA", "NaN"} for c in cells)
    assert n_null is None or got.rows["y"].null_count() == n_null
    assert got.ledger.totals.rows_off_grid == 0


def test_packed_and_unpacked_file_are_the_same_rows(shared_data, tmp_path):
    path = shared_data / "prophet/example_retail_sales.csv"
    source = files_source(time_column="ds", value_columns=("y",))
    plain = run_ingest(tmp_path / "1", {"r.csv": path}, source, about_of("1mo"))
    packed = run_ingest(
        tmp_path / "2", {"r.csv.gz": gzip.compress(path.read_bytes())}, source, about_of("1mo")
    )
    assert plain.rows.equals(packed.rows)
