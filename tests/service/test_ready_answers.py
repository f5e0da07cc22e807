"""An answer from ready bytes is the one that is computed for the request, and so is its record."""

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime

import polars as pl
import pytest
from homes import at_home
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import DATASET, publish, serving
from small_release import cutoff_at, small_about, small_rows

from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import ForecastRequest
from deployments.forecaster.response import build_computed_response, build_response
from deployments.forecaster.selection import find_selection
from tasks.edges.served import read_served, write_answers
from tasks.edges.served_store import get_served_path
from tasks.release import load_release

ORDERS = (["north"], ["south"], ["south", "north"], ["north", "south"])
PARTS = (
    {},
    {"horizon_steps": 1},
    {"horizon_steps": 5},
    {"levels": [0.8]},
    {"horizon_steps": 3, "levels": [0.8]},
)


@pytest.fixture(scope="module")
def release(releases):
    return load_release(releases / "first")


def load(release, rows):
    choice = ReleaseChoice(release.folder, "1.0.0", "setting")
    return LoadedRelease(release, release.manifest, choice, rows, (), "version of the rows")


def drop_id(content):
    return {key: value for key, value in json.loads(content).items() if key != "prediction_id"}


@settings(deadline=None, max_examples=20)
@given(
    st.integers(2, 60),
    st.integers(0, 12),
    st.sampled_from(ORDERS),
    st.integers(0, 90),
    st.sampled_from(PARTS),
)
def test_a_ready_answer_is_the_computed_one(release, n_back, n_behind, series, age_days, part):
    """Rows that end before and after what the model was fitted on, and one series behind."""
    end = cutoff_at(400 - n_back)
    rows = release.rows.filter(pl.col("known_at") <= end)
    if n_behind:
        last = end - n_behind * (cutoff_at(1) - cutoff_at(0))
        rows = rows.filter((pl.col("series_id") == "north") | (pl.col("known_at") <= last))
    loaded, made_at = load(release, rows), end + age_days * (cutoff_at(1) - cutoff_at(0))
    request = ForecastRequest(series_id=series, **part)

    def build(function):
        try:
            return function(loaded, request, made_at)
        except ProblemError as error:
            return error.body

    ready, computed = build(build_response), build(build_computed_response)
    if isinstance(computed, dict):
        assert ready == computed
        return
    assert drop_id(ready.content) == drop_id(computed.content)
    assert list(json.loads(ready.content)) == list(json.loads(computed.content))
    assert (ready.n_series, ready.is_news) == (computed.n_series, computed.is_news)
    assert sorted(ready.stored.rows) == sorted(computed.stored.rows)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_an_answer_is_that_part_of_the_whole(release, part):
    loaded, now = load(release, release.rows), datetime.now(UTC)
    requests = [ForecastRequest(series_id=["south", "north"], **which) for which in ({}, part)]
    whole, answer = [json.loads(build_response(loaded, request, now).content) for request in requests]
    for series in whole["series"]:
        series["steps"] = series["steps"][: part.get("horizon_steps", 5)]
    assert answer["series"] == whole["series"]  # .1, .5 and .9 are the only quantiles
    stored = build_response(loaded, requests[1], now).stored.rows
    assert len(stored) == 2 * part.get("horizon_steps", 5)


def test_levels_select_the_ends_of_their_intervals_and_the_median():
    about = small_about(quantiles=[0.05, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 0.95])
    step = {"step": 1, "event_time": "", "y_hat": 0.0, "quantiles": {f"{q:g}": q for q in about.quantiles}}
    series = {"series_id": "a", "cutoff": "", "as_of": "", "steps": [step, step]}
    for levels, kept in {
        (0.9,): [0.05, 0.5, 0.95],
        (0.5, 0.8): [0.1, 0.25, 0.5, 0.75, 0.9],
    }.items():
        request = ForecastRequest(series_id="a", levels=list(levels))
        selected = find_selection(about, request, has_intervals=True).select(series)["steps"]
        assert [list(part["quantiles"].values()) for part in selected] == [kept, kept]
    request = ForecastRequest(series_id="a", levels=[0.7])
    with pytest.raises(ProblemError, match=r"no interval of level 0\.7"):
        find_selection(about, request, has_intervals=True)


def test_what_is_recorded_is_what_was_sent(release, tmp_path):
    loaded = load(release, release.rows)
    answers = [build_response(loaded, ForecastRequest(series_id=s), datetime.now(UTC)) for s in ORDERS]
    with at_home(tmp_path):
        write_answers([answer.stored for answer in answers])
        recorded = read_served(DATASET)
    for answer in answers:
        body = json.loads(answer.content)
        rows = recorded.filter(pl.col("prediction_id") == body["prediction_id"])
        for series in body["series"]:
            steps = rows.filter(pl.col("series_id") == series["series_id"]).sort("step")
            assert steps["y_hat"].to_list() == [step["y_hat"] for step in series["steps"]]
            assert steps["q_0.9"].to_list() == [step["quantiles"]["0.9"] for step in series["steps"]]
        assert set(rows["made_at"].dt.replace_time_zone("UTC")) == {datetime.fromisoformat(body["made_at"])}


def test_new_rows_change_the_ready_answer(releases, tmp_path):
    with serving(tmp_path, TIDEMILL_RELEASE=str(releases / "first")) as server:
        before = server.predict(series_id="north").json()["series"][0]
        publish(tmp_path, small_rows(seed=8))
        server.client.get("/api/v1/health/ready")  # waits until they are read, as predict does not
        after = server.predict(series_id="north").json()["series"][0]
    assert before["steps"] != after["steps"]


def test_answers_that_come_together_are_each_recorded_before_they_are_sent(releases, tmp_path):
    """64 clients while another process holds the store for a moment: one transaction for many."""
    with serving(tmp_path, TIDEMILL_RELEASE=str(releases / "first")) as server:
        server.predict(series_id="north")
        with at_home(tmp_path):
            path = get_served_path(DATASET)
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            release_store = threading.Timer(0.5, other.execute, ["COMMIT"])
            release_store.start()
            with ThreadPoolExecutor(64) as pool:
                replies = list(pool.map(lambda _: server.predict(series_id="south"), range(64)))
            release_store.join()
        assert {reply.status_code for reply in replies} == {200}
        with at_home(tmp_path):
            recorded = set(read_served(DATASET)["prediction_id"])
        assert {reply.json()["prediction_id"] for reply in replies} <= recorded
