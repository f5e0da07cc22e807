"""An item of a batch gets what a request of its own gets, and is recorded as that."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from homes import at_home
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from servers import DATASET
from small_release import cutoff_at

from deployments.forecaster import shapes
from deployments.forecaster.batch import build_batch_response
from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import MAX_ITEMS, MAX_TIMES, parse_request
from deployments.forecaster.response import build_response, is_quick
from tasks.edges.served import read_served, write_answers
from tasks.release import load_release

PATH = "/api/v1/predict/batch"
TIMES = [f"{cutoff_at(day):%FT%TZ}" for day in (-2, 10, 360, 395, 900)] + ["soon", "2021-01-01T00:00:00"]
ITEMS = st.fixed_dictionaries(
    {"series_id": st.sampled_from(["north", "south", "ended", "norht"])},
    optional={
        "as_of": st.sampled_from(TIMES),
        "horizon_steps": st.integers(0, 6),
        "levels": st.sampled_from([[0.8], [0.5], []]),
        "asof": st.just("x"),
    },
)


@pytest.fixture(scope="module")
def loaded(releases):
    """With a third series, whose rows ended long ago."""
    release = load_release(releases / "first")
    ended = release.rows.filter((pl.col("series_id") == "north") & (pl.col("known_at") < cutoff_at(200)))
    rows = pl.concat([release.rows, ended.with_columns(series_id=pl.lit("ended"))])
    choice = ReleaseChoice(release.folder, "1.0.0", "setting")
    return LoadedRelease(release, release.manifest, choice, rows.sort("series_id", "event_time"), (), "v")


def answer_alone(loaded, item, made_at):
    try:
        request = parse_request(json.dumps(item).encode())
        is_quick(loaded, request)  # as the route does, which reads the time first
        return build_response(loaded, request, made_at)
    except ProblemError as error:
        return error.body


@settings(deadline=None, max_examples=60)
@given(st.lists(ITEMS | st.just(7), min_size=1, max_size=8))
def test_an_item_gets_what_a_request_of_its_own_gets(loaded, items):
    made_at = cutoff_at(500)
    response = build_batch_response(loaded, json.dumps({"items": items}).encode(), made_at)
    body, stored = json.loads(response.content), {answer.prediction_id: answer for answer in response.stored}
    TypeAdapter(shapes.BatchPrediction).validate_python(body)
    assert len(body["items"]) == len(items)
    for item, answer in zip(items, body["items"], strict=True):
        alone = answer_alone(loaded, item, made_at)
        if isinstance(alone, dict):
            # the rule lists the keys, and an item has no history
            keys = ("status", "title", "thing") if item == 7 else ("status", "thing", "fact", "next")
            assert {key: answer[key] for key in keys} == {key: alone[key] for key in keys}
            continue
        whole = json.loads(alone.content)
        assert [answer["series"]] == whole["series"]
        assert answer["warnings"] == whole["warnings"]
        assert {
            key: body[key] for key in ("made_at", "model", "unit", "rows_version")
        }.items() <= whole.items()
        assert list(stored.pop(answer["prediction_id"]).rows) == list(alone.stored.rows)
    assert not stored
    assert body["n_failed"] == sum("title" in answer for answer in body["items"])
    assert response.n_news + response.n_what_if == len(items) - body["n_failed"]


def test_items_are_explained_as_requests_of_their_own_and_fail_one_by_one(loaded, monkeypatch):
    monkeypatch.setattr("deployments.forecaster.batch.MAX_EXPLAINED", 3)
    items = [
        {"series_id": "north", "explain": True, "horizon_steps": 2},
        {"series_id": "south"},
        {"series_id": "norht", "explain": True},
        {"series_id": "south", "explain": True, "as_of": TIMES[2]},
        {"series_id": "north", "explain": "yes"},
        {"series_id": "south", "explain": True},
        {"series_id": "north", "explain": True},
    ]
    made_at = cutoff_at(500)
    body = json.loads(build_batch_response(loaded, json.dumps({"items": items}).encode(), made_at).content)
    TypeAdapter(shapes.BatchPrediction).validate_python(body)
    answers = body["items"]
    assert [answer["status"] for answer in answers] == [200, 200, 404, 200, 422, 200, 422]
    assert [answer.get("thing") for answer in answers[4:]] == ["explain", None, "explain"]
    assert "explanation" not in answers[1]
    for k in (0, 3, 5):
        alone = json.loads(answer_alone(loaded, items[k], made_at).content)
        assert [answers[k]["explanation"]] == alone["explanations"]
        for step, sent in zip(answers[k]["explanation"]["steps"], answers[k]["series"]["steps"], strict=True):
            parts = [step["base"], *step["features"].values(), *step["members"].values()]
            assert sum(parts) + step["calibration"] + step["bounds"] == pytest.approx(sent["y_hat"], rel=1e-4)


@pytest.mark.parametrize(
    ("body", "thing"),
    [
        (b"{", "body"),
        (b"[]", "items"),
        (b'{"items": []}', "items"),
        (b'{"items": 1}', "items"),
        (b'{"items": [{"series_id": "north"}], "as_of": null}', "items"),
        (json.dumps({"items": [0] * (MAX_ITEMS + 1)}).encode(), "items"),
        (
            json.dumps(
                {
                    "items": [
                        {"series_id": "north", "as_of": f"2021-01-0{k}T00:00:00Z"}
                        for k in range(1, MAX_TIMES + 2)
                    ]
                }
            ).encode(),
            "items",
        ),
    ],
    ids=["no JSON", "a list", "none", "no list", "another key", "too many", "too many times"],
)
def test_a_body_that_is_no_batch_is_refused_whole(loaded, body, thing):
    with pytest.raises(ProblemError) as caught:
        build_batch_response(loaded, body, datetime.now(UTC))
    assert caught.value.body["thing"] == thing


def test_a_batch_is_recorded_before_it_is_sent_each_item_under_its_id(server):
    asked = {
        "items": [{"series_id": "south"}, {"series_id": "nobody"}, {"series_id": "north", "horizon_steps": 2}]
    }
    reply = server.client.post(PATH, json=asked)
    assert reply.status_code == 200, reply.text
    items = reply.json()["items"]
    assert [item["status"] for item in items] == [200, 404, 200]
    assert items[1]["next"].startswith("Take one of these")
    with at_home(server.home):
        stored = read_served(DATASET)
    for item, n_steps in ((items[0], 5), (items[2], 2)):
        rows = stored.filter(pl.col("prediction_id") == item["prediction_id"]).sort("step")
        assert rows["y_hat"].to_list() == [step["y_hat"] for step in item["series"]["steps"]]
        assert rows.height == n_steps


def test_ten_thousand_items_are_answered_and_others_meanwhile(server):
    items = [{"series_id": ("north", "south")[k % 2]} for k in range(MAX_ITEMS)]
    with ThreadPoolExecutor(1) as pool:
        batch, taken, started = (
            pool.submit(server.client.post, PATH, json={"items": items}),
            [],
            time.perf_counter(),
        )
        while not batch.done():
            began = time.perf_counter()
            assert server.client.get("/api/v1/health/live").status_code == 200
            taken.append(time.perf_counter() - began)
    batch_s, body = time.perf_counter() - started, batch.result().json()
    assert len({item["prediction_id"] for item in body["items"]}) == MAX_ITEMS
    assert [item["series"]["series_id"] for item in body["items"]] == [item["series_id"] for item in items]
    # tests/benchmarks/bench_serve.py has milliseconds; they need a quiet machine
    assert np.quantile(taken, 0.9) < batch_s / 20, (np.quantile(taken, [0.5, 0.9, 1]), batch_s)


def test_unknown_series_of_a_batch_cost_no_search_for_each(loaded):
    began = time.perf_counter()
    items = [{"series_id": f"unknown {k}"} for k in range(5_000)]
    build_batch_response(loaded, json.dumps({"items": items}).encode(), datetime.now(UTC))
    assert timedelta(seconds=time.perf_counter() - began) < timedelta(seconds=5)


def test_items_are_recorded_all_or_none(loaded, tmp_path):
    items = [{"series_id": "north"}, {"series_id": "south"}]
    response = build_batch_response(loaded, json.dumps({"items": items}).encode(), datetime.now(UTC))
    with at_home(tmp_path):
        write_answers(response.stored[1:])
        with pytest.raises(Exception, match="UNIQUE"):
            write_answers(response.stored)
        assert read_served(DATASET)["prediction_id"].unique().to_list() == [response.stored[1].prediction_id]
