"""The wizard on small files whose cells leave more than one reading: what the evidence decides."""

import random
from datetime import timedelta

import polars as pl
import pytest
import wizard_runs as runs
from wizard_files import START, csv, hourly, times

from tasks.ingest.wizard.inspect.target import find_followed_column


def test_a_clock_written_as_a_whole_number_completes_its_date(tmp_path):
    days = [f"{START + timedelta(days=d):%F}" for d in range(40) for _ in range(48)]
    clocks = [h // 2 * 100 + h % 2 * 30 for _ in range(40) for h in range(48)]
    path = csv(tmp_path / "a.csv", ["date", "time", "y"], days, clocks, hourly(1920))
    rows = runs.ingested(runs.made_current(tmp_path, runs.proposed(path)))
    assert rows["event_time"].to_list() == [START + i * timedelta(minutes=30) for i in range(1920)]


def test_currencies_in_parentheses_are_negative(tmp_path):
    values = [f'"$({v:,.2f})"' if i % 9 == 0 else f'"${v * 100:,.2f}"' for i, v in enumerate(hourly(300))]
    path = csv(tmp_path / "a.csv", ["date", "y"], times(300), values)
    rows = runs.ingested(runs.made_current(tmp_path, runs.proposed(path)))
    truth = [-round(v, 2) if i % 9 == 0 else round(v * 100, 2) for i, v in enumerate(hourly(300))]
    assert rows["y"].to_list() == pytest.approx(truth)


def test_the_target_is_the_column_that_its_forecasts_follow():
    draw = random.Random(3)
    actual = [3 * v for v in hourly(400, noise=5)]
    columns = {"a": actual} | {f"f{k}": [v + draw.gauss(0, 3) for v in actual] for k in range(4)}
    assert find_followed_column(pl.DataFrame(columns).select("f0", "a", "f1", "f2", "f3")) == "a"
    assert find_followed_column(pl.DataFrame({c: hourly(400, seed=k) for k, c in enumerate("abcd")})) is None


def test_a_covariate_called_y_is_not_the_target(tmp_path):
    """The chain calls the target y, so another y would take its place."""
    path = csv(tmp_path / "a.csv", ["date", "sales", "y"], times(300), hourly(300), hourly(300, seed=4))
    proposal = runs.proposed(path)
    assert proposal.entry["about"]["covariates"]["past"] == ["y_value"]
    rows = runs.ingested(runs.made_current(tmp_path, proposal))
    assert rows["sales"].to_list() == hourly(300)


def test_closed_weekdays_are_named(tmp_path):
    days = [START + timedelta(days=d) for d in range(400)]
    open_days = [f"{d:%F}" for d in days if d.weekday() != 6]
    proposal = runs.proposed(csv(tmp_path / "a.csv", ["date", "y"], open_days, hourly(len(open_days))))
    assert any("Sunday" in question for question in proposal.questions)
