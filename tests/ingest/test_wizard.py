"""The wizard on small files made here: what it recognises, what it asks, what it refuses and
with which words."""

import gzip
import json
import math
import random
from datetime import timedelta

import polars as pl
import pytest
import wizard_runs as runs
from wizard_files import START, csv, hourly, times

from tasks.core.errors import ParamsError, SourceError
from tasks.ingest.wizard.decide.validate import build_column_rule
from tasks.ingest.wizard.inspect.bars import find_bars_by_invariants
from tasks.ingest.wizard.inspect.inspect_files import inspect_files
from tasks.ingest.wizard.inspect.inspected import OwnerAnswers
from tasks.ingest.wizard.write import check_name


def seen(path, kind="csv", **said):
    return inspect_files(OwnerAnswers(str(path), kind, **said))


def test_a_long_file_is_split_by_the_column_that_makes_times_unique(tmp_path):
    two = times(300) * 2
    path = csv(
        tmp_path / "a.csv",
        ["when", "shop", "sold"],
        two,
        ["north"] * 300 + ["south"] * 300,
        hourly(300) + hourly(300, seed=2),
    )
    found = seen(path)
    assert found.source["series_column"] == "shop"
    assert found.rows["series_id"].unique().sort().to_list() == ["north", "south"]
    root = runs.made_current(tmp_path, runs.proposed(path))
    runs.assert_every_stage_accepts(root, runs.ingested(root))


def test_a_number_can_name_the_series(tmp_path):
    path = csv(
        tmp_path / "a.csv", ["date", "store_id", "sales"], times(100) * 2, [1] * 100 + [2] * 100, hourly(200)
    )
    assert seen(path).rows["series_id"].unique().sort().to_list() == ["1", "2"]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_separator_is_found(tmp_path, separator):
    found = seen(csv(tmp_path / "a.csv", ["date", "y"], times(60), hourly(60), separator=separator))
    assert found.source["separator"] == separator


@pytest.mark.parametrize("kind", ["parquet", "json", "jsonl", "gz"])
def test_the_same_rows_give_the_same_entry_in_every_format(tmp_path, kind):
    frame = pl.DataFrame({"date": times(200), "y": hourly(200)})
    plain = tmp_path / "feed.csv"
    frame.write_csv(plain)
    path = tmp_path / f"feed.{kind}"
    if kind == "parquet":
        frame.with_columns(pl.col("date").str.to_datetime()).write_parquet(path)
    elif kind == "gz":
        path = tmp_path / "zipped" / "feed.csv.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress(plain.read_bytes()))
    else:
        path.write_text(
            json.dumps(frame.to_dicts()) if kind == "json" else "\n".join(map(json.dumps, frame.to_dicts()))
        )
    first, second = runs.proposed(plain), runs.proposed(path, "csv" if kind == "gz" else kind)
    assert first.entry["about"] == second.entry["about"]
    assert first.entry["features"] == second.entry["features"]
    root = runs.made_current(tmp_path, second)
    runs.assert_every_stage_accepts(root, runs.ingested(root))


@pytest.mark.parametrize(
    "form",
    [
        "%Y/%m/%d %H:%M",
        "%d.%m.%Y %H:%M",
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%d %H:%M:%S+02:00",
        "%d/%m/%Y %H:%M:%S",
    ],
)
def test_times_are_read_as_they_are_written(tmp_path, form):
    path = csv(tmp_path / "a.csv", ["date", "y"], times(400, form=form), hourly(400))
    found = seen(path)
    offset = timedelta(hours=2) if "+02" in form else timedelta()
    assert found.rows["event_time"][0] == START - offset
    root = runs.made_current(tmp_path, runs.proposed(path))
    assert runs.ingested(root)["event_time"].to_list() == found.rows["event_time"].to_list()


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
def test_an_epoch_shows_its_unit_by_its_size(tmp_path, unit, per_second):
    stamps = [int((START + timedelta(hours=i)).timestamp()) * per_second for i in range(60)]
    assert seen(csv(tmp_path / "a.csv", ["at", "y"], stamps, hourly(60))).source["time_format"] == unit


def test_local_times_are_taken_in_the_zone_that_is_said(tmp_path):
    path = csv(tmp_path / "a.csv", ["date", "y"], times(60), hourly(60))
    assert seen(path, time_zone="Europe/Berlin").rows["event_time"][0] == START - timedelta(hours=1)
    assert any("--time-zone" in q for q in seen(path).questions)


def test_days_without_weekends_lie_on_weekdays(tmp_path):
    days = [START + timedelta(days=i) for i in range(300)]
    days = [f"{d:%F}" for d in days if d.weekday() < 5]
    about = runs.proposed(csv(tmp_path / "a.csv", ["date", "y"], days, hourly(len(days), 5))).entry["about"]
    assert (about["every"], about["calendar"]) == ("1d", "weekdays")


def test_days_that_skip_the_holidays_of_new_york_lie_on_its_sessions(tmp_path):
    import exchange_calendars

    days = (
        exchange_calendars.get_calendar("XNYS", start="2021-01-01", end="2022-12-31")
        .sessions.strftime("%Y-%m-%d")
        .tolist()
    )
    path = csv(tmp_path / "a.csv", ["date", "y"], days, hourly(len(days), 5))
    proposal = runs.proposed(path)
    assert proposal.entry["about"]["calendar"] == "exchange:XNYS"
    root = runs.made_current(tmp_path, proposal)
    runs.assert_every_stage_accepts(root, runs.ingested(root))


def test_rows_are_steps_when_nothing_reads_as_time(tmp_path):
    path = csv(tmp_path / "a.csv", ["n", "y"], range(400), hourly(400, season=12))
    proposal = runs.proposed(path)
    assert proposal.entry["about"]["integer_time"]
    assert proposal.entry["about"]["season_steps"] == 12
    root = runs.made_current(tmp_path, proposal)
    runs.assert_every_stage_accepts(root, runs.ingested(root))


def test_a_clock_that_jitters_is_snapped(tmp_path):
    draw = random.Random(3)
    stamps = [f"{START + timedelta(minutes=5 * i, seconds=draw.randrange(40)):%F %T}" for i in range(800)]
    proposal = runs.proposed(csv(tmp_path / "a.csv", ["date", "y"], stamps, hourly(800)))
    assert proposal.entry["about"]["every"] == "5m"
    assert proposal.entry["ingest"]["source"]["snap_times"]
    root = runs.made_current(tmp_path, proposal)
    runs.assert_every_stage_accepts(root, runs.ingested(root))


def test_unsorted_rows_are_no_trouble(tmp_path):
    rows = list(zip(times(200), hourly(200), strict=True))
    random.Random(5).shuffle(rows)
    found = seen(csv(tmp_path / "a.csv", ["date", "y"], *zip(*rows, strict=True)))
    assert found.rows["event_time"].is_sorted()


def test_a_late_column_is_when_the_row_was_known(tmp_path):
    known = times(100, start=START + timedelta(hours=3))
    found = seen(csv(tmp_path / "a.csv", ["valid_at", "published_at", "y"], times(100), known, hourly(100)))
    assert (found.source["time_column"], found.source["known_at_column"]) == ("valid_at", "published_at")


def test_positive_values_whose_spread_grows_get_a_log(tmp_path):
    draw = random.Random(7)
    growing = [
        math.exp(i / 150) * (1 + 0.2 * math.sin(2 * math.pi * i / 24)) * math.exp(draw.gauss(0, 0.1))
        for i in range(600)
    ]
    target = runs.proposed(csv(tmp_path / "a.csv", ["date", "y"], times(600), growing)).entry["about"][
        "target"
    ]
    assert target["transform"] == "log"


def test_bars_without_names_are_recognised_in_any_order():
    draw, price, rows = random.Random(9), 100.0, []
    for _ in range(200):
        opening, closing = price, price * math.exp(draw.gauss(0, 0.01))
        rows.append(
            (
                min(opening, closing) * 0.999,
                draw.uniform(1, 9),
                closing,
                max(opening, closing) * 1.001,
                opening,
            )
        )
        price = closing
    prices, sure = find_bars_by_invariants(
        pl.DataFrame(rows, orient="row", schema=["a", "b", "c", "d", "e"]), ["a", "b", "c", "d", "e"]
    )
    assert prices == {"open": "e", "high": "d", "low": "a", "close": "c"}
    assert sure


def test_names_are_taken_in_the_order_of_a_headerless_file(tmp_path):
    path = csv(tmp_path / "a.csv", [], times(60), hourly(60), hourly(60, seed=2))
    assert seen(path, columns=("when", "load", "wind"), target="load").values == ["load", "wind"]
    with pytest.raises(SourceError, match="names 2"):
        seen(path, columns=("when", "load"))


def test_what_is_said_overrules_what_is_seen(tmp_path):
    path = csv(tmp_path / "a.csv", ["date", "y"], times(600), hourly(600))
    about = runs.proposed(path, every="1h", season=12, horizon=6, unit="MW").entry["about"]
    assert (about["season_steps"], about["horizon_steps"], about["target"]["unit"]) == (12, 6, "MW")


def test_a_contract_leaves_slack_around_what_was_seen():
    rule, why = build_column_rule(pl.Series([10.0, 20.0, None]))
    assert rule == {"min": 0, "max": 30, "strict_min": True, "nullable": True}
    assert "seen 10 to 20" in why
    assert build_column_rule(pl.Series([-5.0, 5.0]))[0] == {"min": -15, "max": 15}
    assert build_column_rule(pl.Series([0.0, 50.0]))[0] == {"min": 0, "max": 500}


# --- what cannot be read
# --------------------------------------------------------------------------------------------------


def _refused(path, words, kind="csv", **said):
    with pytest.raises(SourceError) as error:
        runs.proposed(path, kind, **said)
    for word in (*words, path.name):
        assert word in str(error.value), str(error.value)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "empty.csv"
    path.write_text("")
    _refused(path, ["is empty"])


def test_binary_junk_is_refused_with_its_place(tmp_path):
    path = tmp_path / "junk.csv"
    path.write_bytes(b"date,y\n" + bytes(range(256)))
    _refused(path, ["binary", "position 7"])
    path.write_bytes(b"date,y\n2020-01-01,1\n2020-01-02,\xe9\n")
    _refused(path, ["not Parquet"], "parquet")


def test_a_ragged_row_is_refused_with_its_number(tmp_path):
    path = csv(tmp_path / "ragged.csv", ["date", "y"], times(60), hourly(60))
    path.write_text(path.read_text() + "2023-01-01 00:00:00,1,2\n")
    _refused(path, ["row 62", "3 fields"])


def test_text_in_a_column_of_numbers_is_refused_with_its_row(tmp_path):
    values = [*hourly(50), "broken", *hourly(49)]
    _refused(
        csv(tmp_path / "text.csv", ["date", "y"], times(100), values), ["row 52", "'broken'", "99 of 100"]
    )


def test_decimal_commas_are_read_and_reported(tmp_path):
    values = [f"{v:.2f}".replace(".", ",") for v in hourly(200)]
    proposal = runs.proposed(csv(tmp_path / "comma.csv", ["date", "y"], times(200), values, separator=";"))
    assert proposal.entry["ingest"]["source"]["decimal"] == ","
    assert any("decimal comma" in fact for fact in proposal.facts)
    rows = runs.ingested(runs.made_current(tmp_path, proposal))
    assert rows["y"].to_list() == [round(v, 2) for v in hourly(200)]


def test_a_file_without_numbers_is_refused(tmp_path):
    _refused(
        csv(tmp_path / "words.csv", ["date", "word"], times(60), ["a", "b"] * 30), ["no column of numbers"]
    )


def test_two_columns_of_time_are_asked_about(tmp_path):
    path = csv(
        tmp_path / "two.csv",
        ["start", "end", "y"],
        times(60),
        times(60, start=START + timedelta(hours=1)),
        hourly(60),
    )
    _refused(path, ["'start'", "'end'", "--time"])
    assert seen(path, time="start").source["time_column"] == "start"


def test_times_with_and_without_a_zone_are_refused_with_the_row(tmp_path):
    mixed = [
        *times(30, form="%Y-%m-%dT%H:%M:%S+01:00"),
        *times(30, form="%Y-%m-%dT%H:%M:%S", start=START + timedelta(hours=30)),
    ]
    _refused(csv(tmp_path / "zones.csv", ["date", "y"], mixed, hourly(60)), ["row 32", "without a time zone"])


def test_a_day_that_could_be_a_month_is_asked_about(tmp_path):
    days = [f"{START:%d/%m/%Y} {h:02}:{m:02}" for h in range(24) for m in (0, 30)]
    path = csv(tmp_path / "days.csv", ["date", "y"], days, hourly(48))
    question = " ".join(runs.proposed(path, season=1, horizon=2).unanswered)
    assert "'03/01/2022 00:00' is 2022-01-03 00:00 or 2022-03-01 00:00" in question
    assert question.count("--time-format") == 2


def test_repeated_times_without_a_name_for_the_series_are_refused(tmp_path):
    path = csv(tmp_path / "twice.csv", ["date", "y"], times(60) * 2, hourly(120))
    with pytest.raises(SourceError, match="--series"):
        seen(path)


def test_a_history_that_is_too_short_says_how_much_is_needed(tmp_path):
    path = csv(tmp_path / "short.csv", ["date", "y"], times(40), hourly(40))
    with pytest.raises(SourceError, match="at least 139 steps"):
        runs.proposed(path, season=24, horizon=24)


def test_a_step_longer_than_the_rows_asks_how_to_aggregate(tmp_path):
    values = hourly(2400)
    path = csv(tmp_path / "a.csv", ["date", "y"], times(2400), values)
    proposal = runs.proposed(path, every="1d", season=7)
    assert "--aggregate sum" in proposal.unanswered[0]
    with pytest.raises(SourceError, match="--aggregate sum"):
        runs.ingested(runs.made_current(tmp_path, proposal))
    days = {
        how: runs.ingested(
            runs.made_current(tmp_path, runs.proposed(path, every="1d", season=7, aggregate=how))
        )
        for how in ("mean", "sum", "last")
    }
    first = values[:24]
    assert days["mean"]["y"][0] == pytest.approx(sum(first) / 24)
    assert days["sum"]["y"][0] == pytest.approx(sum(first))
    assert days["last"]["y"][0] == first[-1]
    assert days["sum"].height == 100


def test_a_folder_is_answered_with_a_glob(tmp_path):
    with pytest.raises(SourceError, match=r"\*\.csv"):
        seen(tmp_path)


def test_broken_json_is_refused_with_its_row(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("[[1, 2],\n[3, 4")
    _refused(path, ["row 2"], "json")
    path.write_text('{"a": 1}\n{"a": \n')
    _refused(path, ["row 2"], "jsonl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SourceError, match="No file matches"):
        seen(tmp_path / "nothing*.csv")


def test_files_of_unlike_columns_are_refused(tmp_path):
    csv(tmp_path / "a.csv", ["date", "y"], times(60), hourly(60))
    csv(tmp_path / "b.csv", ["date", "load"], times(60), hourly(60))
    with pytest.raises(SourceError, match="One dataset has one layout"):
        seen(tmp_path / "*.csv")


@pytest.mark.parametrize(
    ("name", "better"), [("My-Feed", "my_feed"), ("1st", "feed_1st"), ("", "feed"), ("a.b", "a_b")]
)
def test_a_name_that_templates_would_stumble_over_is_refused(name, better):
    with pytest.raises(ParamsError, match=better):
        check_name(name)


@pytest.mark.parametrize(("largest", "score"), [(1e4, "smape"), (200.0, "mae")])
def test_many_series_of_unlike_size_are_scored_in_percent(tmp_path, largest, score):
    """In the target's unit the largest alone would decide."""
    series = [(f"s{k:02}", 100.0 * (largest / 100.0) ** (k / 11)) for k in range(12)]
    names, values = (
        [name for name, _ in series for _ in range(120)],
        [size / 100 * v for k, (_, size) in enumerate(series) for v in hourly(120, seed=k)],
    )
    path = csv(tmp_path / "a.csv", ["when", "meter", "kwh"], times(120) * 12, names, values)
    assert runs.proposed(path).entry["about"]["primary_score"] == score
