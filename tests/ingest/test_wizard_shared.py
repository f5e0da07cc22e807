"""The wizard on real files that it has never seen: what it recognises, and that the unedited
entry works."""

import pytest
import wizard_runs as runs

pytestmark = pytest.mark.shared

NAB = (
    "realKnownCause/nyc_taxi",
    "realKnownCause/machine_temperature_system_failure",
    "realKnownCause/rogue_agent_key_hold",
    "realKnownCause/ec2_request_latency_system_failure",
    "realAWSCloudwatch/ec2_disk_write_bytes_1ef3de",
    "artificialNoAnomaly/art_daily_small_noise",
)


def test_etth1_is_wide_and_hourly_with_a_day_as_season(shared_data, tmp_path):
    proposal = runs.proposed(shared_data / "ett/ETTh1.csv")
    about, source = proposal.entry["about"], proposal.entry["ingest"]["source"]
    assert (source["layout"], source["time_column"], len(source["value_columns"])) == ("wide", "date", 7)
    assert (about["every"], about["calendar"], about["season_steps"]) == ("1h", "continuous", 24)
    assert any("--target OT" in q for q in proposal.questions)
    # The loads differ in size from the oil temperature
    assert proposal.entry["features"]["scale"].startswith("z_std_")
    root = runs.made_current(tmp_path, proposal)
    rows = runs.ingested(root)
    assert rows["series_id"].n_unique() == 7
    assert rows.height == 7 * 17_420
    runs.assert_every_stage_accepts(root, rows)


def test_etth1_with_a_target_has_the_other_columns_as_covariates(shared_data, tmp_path):
    proposal = runs.proposed(shared_data / "ett/ETTh1.csv", target="OT")
    about = proposal.entry["about"]
    assert about["target"]["column"] == "OT"
    assert about["covariates"]["past"] == ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL"]
    root = runs.made_current(tmp_path, proposal)
    runs.assert_every_stage_accepts(root, runs.ingested(root))


def test_m4_has_one_row_a_series_and_no_time(shared_data, tmp_path):
    proposal = runs.proposed(shared_data / "m4/Hourly-train.csv")
    about, source = proposal.entry["about"], proposal.entry["ingest"]["source"]
    assert (source["layout"], source["series_column"], source["time_column"]) == (
        "row_per_series",
        "V1",
        None,
    )
    assert about["integer_time"]
    assert (about["season_steps"], about["horizon_steps"], about["target"]["transform"]) == (24, 48, "log")
    root = runs.made_current(tmp_path, proposal)
    rows = runs.ingested(root)
    assert rows.group_by("series_id").len()["len"].unique().sort().to_list() == [700, 960]
    runs.assert_every_stage_accepts(root, rows)


def test_binance_lists_are_bars_of_six_series_named_by_their_files(shared_data, tmp_path):
    proposal = runs.proposed(shared_data / "binance_1h/*.json", "json")
    about, source = proposal.entry["about"], proposal.entry["ingest"]["source"]
    assert source["columns"] == ["time", "open", "high", "low", "close", "volume"]
    assert source["time_format"] == "ms"
    assert (
        about["every"],
        about["target"]["derive"],
        about["target"]["transform"],
        about["primary_score"],
    ) == ("1h", "garman_klass", "log", "qlike")
    assert about["target"]["floor"] > 0
    assert any("longest gap" in line for line in proposal.facts)
    root = runs.made_current(tmp_path, proposal)
    rows = runs.ingested(root)
    assert rows["series_id"].unique().sort().to_list() == [
        f"{s}_USDT" for s in ("ADA", "BNB", "BTC", "ETH", "LTC", "XRP")
    ]
    runs.assert_every_stage_accepts(root, rows)


@pytest.mark.parametrize("columns", [(), ("time", "open", "close", "high", "low", "volume")])
def test_bitfinex_columns_are_found_by_what_a_bar_must_be(shared_data, tmp_path, columns):
    proposal = runs.proposed(shared_data / "bitfinex_1m/*.csv.gz", columns=columns)
    source = proposal.entry["ingest"]["source"]
    assert source["header"] is False
    assert source["columns"] == ["time", "open", "close", "high", "low", "volume"]
    assert (source["series_from"], source["series_id"]) == ("constant", "BTCUSD")
    assert source["max_rows_per_series"] == 50_000
    assert any("Capped" in line for line in proposal.facts)
    assert proposal.entry["about"]["every"] == "1m"
    if not columns:
        assert any("--columns" in q for q in proposal.questions)
        return
    root = runs.made_current(tmp_path, proposal)
    rows = runs.ingested(root)
    assert rows.height == 50_000
    assert (rows["high"] >= rows["low"]).all()
    runs.assert_every_stage_accepts(root, rows)


def test_a_price_can_be_the_target_when_its_owner_says_so(shared_data):
    about = runs.proposed(shared_data / "binance_1h/BTC_USDT-1h.json", "json", target="close").entry["about"]
    assert about["target"]["column"] == "close"
    assert "derive" not in about["target"]
    assert about["primary_score"] == "mae"


@pytest.mark.parametrize("name", NAB)
def test_nab_streams_work_unedited(shared_data, tmp_path, name):
    proposal = runs.proposed(shared_data / f"nab/data/{name}.csv")
    source = proposal.entry["ingest"]["source"]
    assert (source["layout"], source["time_column"], source["value_columns"]) == (
        "long",
        "timestamp",
        ["value"],
    )
    assert proposal.entry["about"]["every"] == ("30m" if "taxi" in name else "5m")
    root = runs.made_current(tmp_path, proposal)
    rows = runs.ingested(root)
    assert rows["series_id"].unique().to_list() == [name.split("/")[1]]
    runs.assert_every_stage_accepts(root, rows)


@pytest.mark.parametrize(
    ("name", "every", "season"),
    [
        ("example_retail_sales", "1mo", 12),
        ("example_yosemite_temps", "5m", 288),
        ("example_wp_log_R_outliers1", "1d", 7),
        ("example_wp_log_peyton_manning", "1d", 7),
    ],
)
def test_prophet_examples_are_recognised_and_work_unedited(shared_data, tmp_path, name, every, season):
    proposal = runs.proposed(shared_data / f"prophet/{name}.csv")
    about = proposal.entry["about"]
    assert (about["every"], about["season_steps"], about["target"]["column"]) == (every, season, "y")
    root = runs.made_current(tmp_path, proposal)
    runs.assert_every_stage_accepts(root, runs.ingested(root))


def test_a_short_monthly_series_gets_no_net_and_hears_that_the_gate_is_small(shared_data):
    proposal = runs.proposed(shared_data / "prophet/example_retail_sales.csv")
    assert "mlp" not in proposal.entry["models"]
    assert proposal.entry["about"]["target"]["transform"] == "log"
    assert any("inconclusive" in line for line in proposal.facts)


def test_holes_in_values_are_allowed_by_the_contract(shared_data):
    contract = runs.proposed(shared_data / "prophet/example_yosemite_temps.csv").entry["validate"]["columns"]
    assert contract["y"]["nullable"]


def test_series_whose_steps_begin_apart_are_moved_onto_one_grid(shared_data, tmp_path):
    proposal = runs.proposed(shared_data / "nab/data/realAWSCloudwatch/ec2_cpu*.csv")
    assert proposal.entry["ingest"]["source"]["snap_times"]
    root = runs.made_current(tmp_path, proposal)
    rows = runs.ingested(root)
    assert (rows["event_time"].dt.minute() % 5 == 0).all()
    runs.assert_every_stage_accepts(root, rows)
