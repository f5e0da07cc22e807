"""The inputs of ../shared/cases: each is read right, asked about with both readings, or refused
by name; the right values are those of the NAME.md next to each file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import wizard_runs as runs

from tasks.core.errors import SourceError

pytestmark = pytest.mark.shared
CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


def read(name, root, **answers):
    """(the proposal, the rows that ingest makes of the unedited entry)."""
    path = find_case(name)
    proposal = runs.proposed(path, path.suffix[1:], **answers)
    return proposal, runs.ingested(runs.made_current(root, proposal))


def find_case(name):
    return next(p for suffix in ("csv", "parquet") if (p := CASES / f"{name}.{suffix}").exists())


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)


def count_steps(first, last, every):
    return len(pl.datetime_range(first, last, every, eager=True))


# first and last step, its length, and the number of series; every step is there
READ = {
    "csv_blank_lines_at_end": (utc(2023, 1, 2), utc(2023, 10, 28), "1d", 1),
    "csv_currency_unclear": (utc(2023, 1, 2), utc(2023, 10, 28), "1d", 1),
    "csv_header_of_numbers": (utc(2023, 1, 2), utc(2023, 10, 28), "1d", 3),
    "csv_thousands_point_mixed": (utc(2023, 1, 2), utc(2023, 10, 28), "1d", 1),
    "csv_units_thousands_unclear": (utc(2023, 1, 2), utc(2023, 10, 28), "1d", 1),
    "name_categorical_ids": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 2),
    "name_column_rule_quarantine": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 2),
    "name_column_series_id_traceback": (utc(2023, 1, 2), utc(2023, 8, 9), "1d", 1),
    "name_column_step_traceback": (utc(2023, 1, 2), utc(2023, 8, 9), "1d", 1),
    "name_country_na_traceback": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 3),
    "name_ids_beyond_2p53": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 3),
    "name_leading_zeros": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 3),
    "name_mlflow_poison": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 10),
    "name_target_file_lost": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 2),
    "name_target_is_gap_traceback": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 2),
    "number_float32_level_1e8": (utc(2023, 1, 2), utc(2023, 10, 28), "1d", 1),
    "series_routers_staggered": (utc(2021, 7, 20), utc(2021, 7, 22, 18, 30), "10m", 2),
    "series_two_sensors_staggered": (utc(2024, 1, 1), utc(2024, 1, 4, 11, 10), "10m", 2),
    "time_ampm": (utc(2024, 1, 1), utc(2024, 1, 25, 23), "1h", 1),
    "time_daily_local_midnight_offset": (utc(2023, 1, 2), utc(2024, 2, 5), "1d", 1),
    "time_date_and_hour_columns": (utc(2023, 1, 1), utc(2023, 7, 19, 23), "1h", 1),
    "time_epoch_ns": (utc(2024, 1, 1), utc(2024, 1, 25, 23), "1h", 1),
    "time_excel_serial_hours": (utc(2024, 1, 1), utc(2024, 1, 25, 23), "1h", 1),
    "time_hour24_iso": (utc(2024, 1, 1), utc(2024, 1, 25, 23), "1h", 1),
    "time_interval_entsoe": (utc(2024, 1, 1), utc(2024, 1, 25, 23), "1h", 1),
    "time_iso_basic": (utc(2024, 1, 1), utc(2024, 1, 25, 23), "1h", 1),
    "time_iso_week": (utc(2019, 1, 7), utc(2023, 12, 25), "1w", 1),
    "time_mon_yy_traceback": (utc(2010, 1, 1), utc(2023, 12, 1), "1mo", 1),
    "time_month_first_day_slash_dmy": (utc(2010, 1, 1), utc(2023, 12, 1), "1mo", 1),
    "time_month_first_day_slash_mdy": (utc(2010, 1, 1), utc(2023, 12, 1), "1mo", 1),
    "time_newest_first_unread": (utc(2023, 1, 2), utc(2023, 10, 28), "1d", 1),
    "time_postgres_offset_plus00": (utc(2024, 1, 1), utc(2024, 1, 25, 23), "1h", 1),
    "time_two_digit_year_dmy": (utc(2023, 1, 2), utc(2024, 2, 5), "1d", 1),
    "time_year_only": (utc(1900, 1, 1), utc(2023, 1, 1), "1y", 1),
    "time_yyyymm": (utc(2010, 1, 1), utc(2023, 12, 1), "1mo", 1),
    "time_yyyymmddhh_read_as_epoch": (utc(2024, 1, 1), utc(2024, 1, 25, 23), "1h", 1),
    "value_bool_covariate_left_out": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 1),
    "value_counts_never_negative": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 3),
    "value_inf_traceback": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 1),
    "value_nan_float": (utc(2023, 1, 2), utc(2023, 7, 20), "1d", 1),
}
# words of the refusal
REFUSED = {
    "csv_header_twice_padded_traceback": ["'sales'", "2 times"],
    "time_one_bad_date_dmy": ["row 252", "'31.09.2023'"],
    "time_total_row_dmy": ["row 302", "'date'", "'Total'"],
}
# both readings of the question
ASKED = {
    "csv_sentinel_minus_999": ["-999 8 times", "--missing=-999", "--missing none"],
    "time_daily_local_midnight_utc": ["day 2023-01-01 (UTC)", "2023-01-02 (a zone", "--time-zone"],
}
OWN_TEST = {
    "series_ended_left_out",
    "series_future_covariate_rows",
    "time_dst_autumn_newest_first",
    "time_dst_autumn_oldest_first",
}


def test_every_case_is_judged_here():
    names = {p.stem for p in CASES.iterdir() if p.suffix != ".md"}
    assert names == {*READ, *REFUSED, *ASKED, *OWN_TEST}


@pytest.mark.parametrize("name", READ)
def test_a_case_is_read_right(name, tmp_path):
    first, last, every, n_series = READ[name]
    proposal, rows = read(name, tmp_path)
    assert proposal.unanswered == ()
    assert (rows["event_time"].min(), rows["event_time"].max()) == (first, last)
    assert proposal.entry["about"]["every"] == every
    lengths = rows.group_by("series_id").len()["len"]
    assert lengths.to_list() == [count_steps(first, last, every)] * n_series
    assert not rows.select(pl.struct("series_id", "event_time").is_duplicated().any()).item()
    runs.assert_every_stage_accepts(tmp_path, rows)


@pytest.mark.parametrize("name", REFUSED)
def test_a_case_is_refused_by_name(name, tmp_path):
    with pytest.raises(SourceError) as error:
        read(name, tmp_path)
    for word in REFUSED[name]:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ASKED)
def test_a_case_is_asked_about_with_both_readings(name, tmp_path):
    proposal = runs.proposed(find_case(name))
    for word in ASKED[name]:
        assert word in " ".join(proposal.unanswered)
    with pytest.raises(SourceError, match="more than one way"):
        runs.ingested(runs.made_current(tmp_path, proposal))
    taken = runs.proposed(find_case(name), yes=True)
    assert taken.unanswered == ()
    assert taken.entry["ingest"]["source"]["assumed"]


MEANS = {
    "csv_thousands_point_mixed": ("sales", 999.5),
    "csv_units_thousands_unclear": ("sales", 49_976),
    "csv_currency_unclear": ("sales", 49.976),
    "csv_header_of_numbers": ("value", 50),
    "value_nan_float": ("sales", 50),
}


@pytest.mark.parametrize("name", MEANS)
def test_values_have_their_size(name, tmp_path):
    column, mean = MEANS[name]
    assert read(name, tmp_path)[1][column].mean() == pytest.approx(mean, rel=0.02)


def test_digits_are_kept(tmp_path):
    assert read("number_float32_level_1e8", tmp_path)[1]["kwh"][-1] == 100000034.60


def test_ids_are_text_as_written(tmp_path):
    for name, ids in {
        "name_leading_zeros": ["0042", "007", "7"],
        "name_ids_beyond_2p53": ["9007199254740992", "9007199254740993", "9007199254740994"],
        "name_country_na_traceback": ["DE", "FR", "NA"],
        "series_routers_staggered": ["1", "2"],
        "series_two_sensors_staggered": ["attic", "cellar"],
    }.items():
        (tmp_path / name).mkdir()
        assert read(name, tmp_path / name)[1]["series_id"].unique().sort().to_list() == ids


def test_levels_of_staggered_series_are_apart(tmp_path):
    means = dict(
        read("series_routers_staggered", tmp_path)[1].group_by("series_id").agg(pl.mean("values")).rows()
    )
    assert means["1"] == pytest.approx(40, rel=0.05)
    assert means["2"] == pytest.approx(90, rel=0.05)


def test_a_local_day_is_known_at_its_end(tmp_path):
    _, rows = read("time_daily_local_midnight_offset", tmp_path)
    assert rows["known_at"][0] == utc(2023, 1, 2, 23)
    (tmp_path / "utc").mkdir()
    _, zoned = read("time_daily_local_midnight_utc", tmp_path / "utc", time_zone="Europe/Berlin")
    assert zoned.select("event_time", "known_at").equals(rows.select("event_time", "known_at"))
    assert set(zoned["event_time"].dt.weekday()) == set(range(1, 8))


@pytest.mark.parametrize("order", ["newest_first", "oldest_first"])
def test_the_repeated_hour_keeps_its_order(order, tmp_path):
    proposal, rows = read(f"time_dst_autumn_{order}", tmp_path, time_zone="Europe/Berlin")
    values = dict(rows.select("event_time", "kwh").rows())
    assert values[utc(2024, 10, 27, 0)] == 54.096
    assert values[utc(2024, 10, 27, 1)] == 52.966
    assert rows.height == 600
    assert not any("missing" in fact or "repeat" in fact for fact in proposal.facts)


def test_steps_to_come_are_known_ahead(tmp_path):
    proposal, rows = read("series_future_covariate_rows", tmp_path)
    about = proposal.entry["about"]
    assert about["covariates"] == {"known_ahead": ["promo"]}
    assert {"kind": "ahead", "column": "promo"} in proposal.entry["features"]["list"]
    known = rows.filter(pl.col("sales").is_not_null())
    assert known["event_time"].max() == utc(2023, 8, 15)
    assert rows["known_at"].max() == utc(2023, 8, 16)
    ahead = rows.filter(pl.col("event_time") > utc(2023, 8, 15))
    assert ahead.height == 14
    assert ahead["sales"].null_count() == 14
    step = rows.filter(pl.col("event_time") == utc(2023, 6, 1)).sort("known_at")
    assert step["known_at"].to_list() == [
        utc(2023, 6, 2) - timedelta(days=about["horizon_steps"]),
        utc(2023, 6, 2),
    ]
    assert step["sales"].to_list()[0] is None
    assert step["sales"].to_list()[1] is not None


def test_a_series_that_ended_is_received(tmp_path):
    _, rows = read("series_ended_left_out", tmp_path)
    assert rows["series_id"].n_unique() == 10
    assert {"dead", "NaN-tail"} <= set(rows["series_id"])
