"""What is answered is what `tasks.release` says, for stored rows and for rows that the request
brings."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import TypeAdapter
from servers import DATASET
from small_release import START, cutoff_at

from deployments.forecaster import shapes
from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import ForecastRequest
from deployments.forecaster.response import build_response
from tasks.core.frames import SERIES
from tasks.edges.served import read_served
from tasks.explain.params import ExplainParams
from tasks.features import build_features
from tasks.release import load_release, predict_cutoffs

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def release(releases):
    return load_release(releases / "first")


def as_frame(body: dict) -> pl.DataFrame:
    rows = [
        {
            "series_id": series["series_id"],
            "cutoff": datetime.fromisoformat(series["cutoff"]),
            "step": step["step"],
            "event_time": datetime.fromisoformat(step["event_time"]),
            "y_hat": step["y_hat"],
            **{f"q_{q}": value for q, value in step["quantiles"].items()},
        }
        for series in body["series"]
        for step in series["steps"]
    ]
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(
        pl.col("step").cast(pl.Int32), pl.col("^q_.*$").cast(pl.Float64)
    )


def same_numbers(body: dict, expected: pl.DataFrame) -> None:
    answered = as_frame(body).sort("series_id", "step")
    times = [pl.col(c).cast(pl.Datetime("us", "UTC")) for c in ("cutoff", "event_time")]
    assert_frame_equal(
        answered.with_columns(times),
        expected.select(answered.columns).sort("series_id", "step"),
        abs_tol=TOLERANCE,
        rel_tol=0,
    )


def as_history(rows: pl.DataFrame) -> list[dict]:
    return [
        {"event_time": t.isoformat(), "load": load}
        for t, load in rows.select("event_time", "load").iter_rows()
    ]


@given(
    day=st.integers(20, 399),
    late=st.timedeltas(timedelta(0), timedelta(hours=23)),
    which=st.sampled_from([["north"], ["south", "north"]]),
)
@tries(max_examples=12, deadline=None)
def test_answers_are_the_forecasts_of_the_release_at_any_time(server, release, all_rows, day, late, which):
    at = cutoff_at(day) + late
    reply = server.predict(series_id=which, as_of=at.isoformat())
    assert reply.status_code == 200, reply.text
    body = reply.json()
    same_numbers(body, predict_cutoffs(release, all_rows, [at]).filter(pl.col("series_id").is_in(which)))
    assert [s["series_id"] for s in body["series"]] == which
    assert {s["cutoff"] for s in body["series"]} == {f"{cutoff_at(day):%FT%TZ}"}


def test_without_as_of_the_newest_known_rows_speak(server, release, all_rows):
    body = server.predict(series_id="south").json()
    newest = all_rows["known_at"].max()
    same_numbers(body, predict_cutoffs(release, all_rows, [newest]).filter(pl.col("series_id") == "south"))
    assert body["series"][0]["as_of"] == f"{newest:%FT%TZ}"


def test_an_answer_says_who_spoke_from_what_and_in_which_unit(server, release):
    body = server.predict(series_id="north").json()
    assert TypeAdapter(shapes.Prediction).validate_python(body)["unit"] == release.about.target.unit
    assert UUID(body["prediction_id"]).version == 7
    assert abs(datetime.now(UTC) - datetime.fromisoformat(body["made_at"])) < timedelta(minutes=5)
    assert body["model"] == {
        "name": "ensemble",
        "version": release.manifest.digest[:12],
        "digest": release.manifest.digest,
        "seen_until": f"{release.seen_until:%FT%TZ}",
    }
    assert body["rows_version"] == release.manifest.files["rows.parquet"]
    assert (body["data_version"], body["target"], body["dataset"]) == (
        release.manifest.data_version,
        "load",
        DATASET,
    )
    assert [list(s["quantiles"]) for s in body["series"][0]["steps"]] == [["0.1", "0.5", "0.9"]] * 5


def test_a_history_of_the_same_rows_gets_the_same_numbers(server, release, all_rows):
    """The tail from where quantiles began to learn, plus what the features look back on, is all
    that an answer reads."""
    own = all_rows.filter(pl.col("series_id") == "north").tail(60 + release.schema.lookback_steps + 2)
    body = server.predict(series_id="north", history=as_history(own)).json()
    same_numbers(
        body,
        predict_cutoffs(release, all_rows, [all_rows["known_at"].max()]).filter(
            pl.col("series_id") == "north"
        ),
    )


def test_a_history_under_a_name_of_its_own_is_forecast_in_any_order(server, release, all_rows):
    own = all_rows.filter(pl.col("series_id") == "north").tail(40)
    body = server.predict(series_id="mine", history=as_history(own.reverse())).json()
    renamed = SERIES.conform(own.with_columns(series_id=pl.lit("mine")))
    same_numbers(body, predict_cutoffs(release, renamed, [renamed["known_at"].max()]))


def test_a_history_can_be_asked_as_of_a_time_inside_it(server, release, all_rows):
    own = all_rows.filter(pl.col("series_id") == "north").tail(60)
    at = own["known_at"][-6]
    body = server.predict(series_id="mine", history=as_history(own), as_of=at.isoformat()).json()
    renamed = own.with_columns(series_id=pl.lit("mine"))
    same_numbers(body, predict_cutoffs(release, renamed, [at]))
    assert body["series"][0]["as_of"] == f"{at:%FT%TZ}"


def test_features_of_a_served_tail_are_those_of_the_feature_stage(release, all_rows):
    """The stage computes on everything that was validated, the service on what it holds: the
    last rows agree."""
    batch = build_features(all_rows, release.about, release.features, release.calendar)
    tail = build_features(
        all_rows.group_by("series_id").tail(release.schema.lookback_steps + 1),
        release.about,
        release.features,
        release.calendar,
    )
    last = [
        frame.group_by("series_id").tail(1).sort("series_id").select(release.schema.names).to_numpy()
        for frame in (batch, tail)
    ]
    np.testing.assert_allclose(last[0].astype(np.float64), last[1].astype(np.float64), rtol=0, atol=1e-9)


def test_missing_values_in_a_history_are_null(server):
    history = [
        {"event_time": f"2021-01-{day:02d}T00:00Z", "load": None if day == 18 else 100.0 + day}
        for day in range(1, 21)
    ]
    assert server.predict(series_id="mine", history=history).status_code == 200


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"series_id": "north", "as_of": "2020-06-01T00:00:00Z"}, "In sample"),
        ({"series_id": "north"}, "The newest row was known at 2021-02-04T00:00:00Z"),
        (
            {"series_id": "mine", "history": [{"event_time": "2021-02-03T00:00Z", "load": 90.0}]},
            "what is missing counts as unknown",
        ),
        ({"series_id": "north", "as_of": "2020-01-03T00:00:00Z"}, "quantiles are null"),
    ],
    ids=["in sample", "old rows", "short history", "no errors known"],
)
def test_an_answer_warns(server, ask, said):
    warnings = server.predict(**ask).json()["warnings"]
    assert any(said in warning for warning in warnings), warnings


def test_an_answer_as_of_a_covered_time_has_no_warning(server):
    assert server.predict(series_id="north", as_of="2021-01-20T00:00:00Z").json()["warnings"] == []


def test_each_answer_stands_in_the_store_as_it_was_given(server, at_home):
    body = server.predict(series_id=["north", "south"], as_of="2021-01-25T12:00:00+01:00").json()
    at_home(server.home)
    stored = read_served(DATASET).filter(pl.col("prediction_id") == body["prediction_id"])
    same_numbers(body, stored)
    assert stored["digest"].unique().to_list() == [body["model"]["digest"]]
    assert stored["made_at"].unique().to_list() == [datetime.fromisoformat(body["made_at"])]
    assert stored["model"].unique().to_list() == ["ensemble"]


def test_answers_from_own_histories_stay_out_of_what_monitoring_reads(server, at_home):
    body = server.predict(
        series_id="north", history=[{"event_time": f"{START:%F}T00:00Z", "load": 1.0}]
    ).json()
    at_home(server.home)
    assert body["prediction_id"] not in set(read_served(DATASET)["prediction_id"])
    assert body["prediction_id"] in set(read_served(DATASET, own_history=True)["prediction_id"])


def test_models_shows_the_champion_with_its_members(server, release):
    body = server.client.get("/api/v1/models").json()
    champion = TypeAdapter(shapes.Models).validate_python(body)["champion"]
    assert champion["members"] == pytest.approx(release.weights)
    assert (champion["digest"], champion["horizon_steps"], champion["series"]) == (
        release.manifest.digest,
        5,
        ["north", "south"],
    )


def test_an_explanation_of_more_work_than_one_request_gets_is_refused(release, monkeypatch):
    monkeypatch.setattr("tasks.explain.forecast.ExplainParams", lambda: ExplainParams(max_evaluations=4_000))
    choice = ReleaseChoice(release.folder, "1", "setting")
    loaded = LoadedRelease(release, release.manifest, choice, release.rows, (), "")
    request = ForecastRequest(series_id="north", explain=True)
    assert build_response(loaded, request, datetime.now(UTC)).n_series == 1
    both = ForecastRequest(series_id=["north", "south"], explain=True)
    with pytest.raises(ProblemError) as caught:
        build_response(loaded, both, datetime.now(UTC))
    assert (caught.value.status, caught.value.body["thing"]) == (422, "explain")
    assert "at most 4,000 numbers" in caught.value.body["rule"]
