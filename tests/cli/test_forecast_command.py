"""`tidemill forecast` says which series it cannot forecast and why; 3 when that is all of them."""

import json
from datetime import timedelta

import polars as pl
import pytest
from servers import DATASET, crown, publish
from small_release import START, build_small_release, small_rows
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.cli.exit_codes import ExitCode
from tasks.edges.settings import read_settings

ENDED = START + timedelta(days=300)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A champion; of its series, south has no value after day 300."""
    folder = tmp_path_factory.mktemp("absent")
    build_small_release(folder / "release", dataset=DATASET)
    crown(folder / "home", folder / "release")
    is_ended = (pl.col("series_id") == "south") & (pl.col("event_time") > ENDED)
    publish(folder / "home", small_rows().filter(~is_ended))
    return folder / "home"


@pytest.fixture
def forecast(home, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", str(home))
    read_settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["forecast", *arguments])
    monkeypatch.undo()
    read_settings.cache_clear()


def test_an_absent_series_is_named_with_its_reason_beside_the_others(forecast):
    done = forecast("--json")
    content = json.loads(done.stdout)
    assert done.exit_code == ExitCode.OK
    assert [series["series_id"] for series in content["series"]] == ["north"]
    ((absent),) = content["absent"]
    assert absent["series_id"] == "south"
    assert f"its last value is of {ENDED:%F}" in absent["reason"]
    text = forecast()
    assert text.exit_code == ExitCode.OK
    assert f"south: {absent['reason']}" in " ".join(text.output.split())


def test_nothing_to_forecast_ends_with_3_and_the_reason(forecast):
    done = forecast("--series", "south", "--json")
    assert done.exit_code == ExitCode.NO_FORECAST
    content = json.loads(done.stdout)
    assert (content["series"], [row["series_id"] for row in content["absent"]]) == ([], ["south"])
    text = forecast("--series", "south")
    assert text.exit_code == ExitCode.NO_FORECAST
    assert "south: its last value is of" in text.output


def test_before_the_first_row_no_series_is_known(forecast):
    done = forecast("--as-of", "2019-06-01", "--json")
    assert done.exit_code == ExitCode.NO_FORECAST
    absent = json.loads(done.stdout)["absent"]
    assert [row["series_id"] for row in absent] == ["north", "south"]
    assert all("no value of load known by 2019-06-01" in row["reason"] for row in absent)


def test_a_series_that_there_is_not_is_an_error_with_the_nearest_names(forecast):
    done = forecast("--series", "nrth")
    assert done.exit_code == ExitCode.ERROR
    assert "There is no series 'nrth'. There are: north." in done.stderr


def test_once_south_was_there_it_is_forecast(forecast):
    done = forecast("--as-of", f"{ENDED:%F}", "--json")
    assert [row["series_id"] for row in json.loads(done.stdout)["series"]] == ["north", "south"]
