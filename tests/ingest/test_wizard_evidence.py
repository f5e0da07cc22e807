"""The wizard on small files whose cells leave more than one reading: what the evidence decides."""

import random
import re
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
import wizard_runs as runs
from wizard_files import START, csv, hourly, times

from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.ingest.wizard.inspect.grid import find_calendar
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


def dates_without(closed, n_days=400, missing=0.0):
    days = [START + timedelta(days=d) for d in range(n_days)]
    drawn = np.random.default_rng(1).random(n_days) >= missing
    return [d for d, is_there in zip(days, drawn, strict=True) if d.weekday() not in closed and is_there]


@pytest.mark.parametrize(
    ("closed", "calendar", "named"),
    [
        ({6}, "weekdays:mon,tue,wed,thu,fri,sat", r"any of \d\d Sundays:"),
        ({0}, "weekdays:tue,wed,thu,fri,sat,sun", r"any of \d\d Mondays:"),
        ({1, 6}, "weekdays:mon,wed,thu,fri,sat", r"any of \d\d Tuesdays and \d\d Sundays:"),
    ],
)
def test_closed_weekdays_are_no_steps_and_are_named(tmp_path, closed, calendar, named):
    days = dates_without(closed)
    y = [10 * d.weekday() + v for d, v in zip(days, hourly(len(days)), strict=True)]
    proposal = runs.proposed(csv(tmp_path / "a.csv", ["date", "y"], [f"{d:%F}" for d in days], y))
    about = proposal.entry["about"]
    assert about["calendar"] == calendar
    assert about["season_steps"] == about["horizon_steps"] == 7 - len(closed)
    assert any(re.search(named, question) for question in proposal.questions)
    rows = runs.ingested(runs.made_current(tmp_path, proposal))
    made = build_calendar(About.model_validate(about))
    assert made.is_on_grid(rows["event_time"]).all()
    assert made.grid(rows["event_time"][0], rows["event_time"][-1]).to_list() == rows["event_time"].to_list()
    ahead = made.list_next_steps(rows["event_time"][-1], 20)
    assert not {d.weekday() for d in ahead} & closed
    assert len(ahead) == 20


@pytest.mark.parametrize(("n_days", "missing"), [(50, 0.0), (80, 0.8)])
def test_a_weekday_that_may_be_missing_by_chance_is_a_step(n_days, missing):
    days = pl.Series(dates_without({6}, n_days, missing)).cast(pl.Datetime("us", "UTC"))
    rows = pl.DataFrame({"series_id": "a", "event_time": days})
    assert find_calendar(rows, "1d")[0] == "continuous"


@pytest.mark.parametrize(
    ("header", "zone"),
    [("MTU (CET)", "CET"), ("MTU (CET/CEST)", "CET/CEST"), ("t [Europe/Oslo]", "Europe/Oslo")],
)
def test_a_zone_in_the_name_of_the_times_is_asked_about(tmp_path, header, zone):
    hours = times(600)
    asked = runs.proposed(csv(tmp_path / "a.csv", [header, "load"], hours, hourly(600))).questions
    assert any(f"its name says {zone}; UTC is assumed. Give --time-zone" in question for question in asked)
    plain = runs.proposed(csv(tmp_path / "b.csv", ["t (h)", "load"], hours, hourly(600))).questions
    assert not any("its name says" in question for question in plain)
