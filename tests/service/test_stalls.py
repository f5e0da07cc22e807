"""What one client makes slow delays no other: large bodies, long histories, a store that is
locked."""

import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta

import httpx
import numpy as np
import pytest
from servers import DATASET, JSON, at, serving
from small_release import START

from deployments.forecaster.own_history import LEARNED_STEPS
from deployments.forecaster.request import MAX_OPENED
from deployments.forecaster.worker import N_LARGE_WAITING
from tasks.edges.served import read_served
from tasks.edges.served_store import get_served_path

N_HEAVY = N_LARGE_WAITING + 1


def history(n_rows):
    rows = [{"event_time": f"{START + timedelta(days=k):%FT%RZ}", "load": 100 + k % 7} for k in range(n_rows)]
    return json.dumps({"series_id": "mine", "history": rows}, separators=(",", ":")).encode()


@pytest.fixture(scope="module")
def heavy():
    return history(LEARNED_STEPS)


@pytest.fixture(scope="module")
def busy(releases, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("busy"), TIDEMILL_RELEASE=str(releases / "first")) as running:
        assert running.predict(series_id="north").status_code == 200
        yield running


def post(running, body):
    address = f"{running.client.base_url}/api/v1/predict"
    return httpx.post(address, content=body, headers=JSON, timeout=120)


@contextmanager
def asked_meanwhile(running, method, path, **options):
    """Seconds of each answer that another client gets while the block runs."""
    taken, stop = [], threading.Event()

    def keep_asking():
        with httpx.Client(base_url=running.client.base_url, timeout=120) as client:
            while not stop.is_set():
                started = time.perf_counter()
                assert client.request(method, path, **options).status_code == 200
                taken.append(time.perf_counter() - started)

    asker = threading.Thread(target=keep_asking)
    asker.start()
    yield taken
    stop.set()
    asker.join()


def test_other_clients_wait_for_a_small_part_of_what_large_requests_take(busy, heavy):
    """On the loop they waited as long as a large request takes, and longer: a quarter and a half
    are far from both."""
    with (
        asked_meanwhile(busy, "GET", "/api/v1/health/live") as live,
        asked_meanwhile(busy, "POST", "/api/v1/predict", json={"series_id": "north"}) as predicted,
        ThreadPoolExecutor(N_HEAVY) as pool,
    ):
        started = time.perf_counter()
        replies = list(pool.map(lambda _: post(busy, heavy), range(N_HEAVY)))
        one_s = (time.perf_counter() - started) / N_HEAVY
    assert {reply.status_code for reply in replies} == {200}
    assert np.quantile(live, 0.9) < one_s / 4, (np.quantile(live, [0.5, 0.9, 1.0]), one_s)
    assert np.median(predicted) < one_s / 2, (np.quantile(predicted, [0.5, 0.9, 1.0]), one_s)


def test_more_large_requests_than_there_is_room_for_are_refused_with_a_reason_and_others_are_not(busy, heavy):
    with (
        asked_meanwhile(busy, "POST", "/api/v1/predict", json={"series_id": "north"}),
        ThreadPoolExecutor(4 * N_HEAVY) as pool,
    ):
        replies = list(pool.map(lambda _: post(busy, heavy), range(4 * N_HEAVY)))
    assert {reply.status_code for reply in replies} == {200, 429}
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert "one by one" in refused.json()["rule"]
    assert post(busy, heavy).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (
            b'{"series_id": "mine", "history": [' + b",".join([b"{}"] * 300_000) + b"]}",
            400,
            f"at most {MAX_OPENED:,} objects",
        ),
        (history(LEARNED_STEPS + 1_000), 422, "Send the newest 10,0"),
        (json.dumps({"series_id": "mine", "history": [{}] * 20_000}).encode(), 422, "Send the newest 10,0"),
        (
            json.dumps(
                {"series_id": "mine", "history": [{"event_time": "", **{f"c{k}": "" for k in range(60_000)}}]}
            ).encode(),
            422,
            "unknown column",
        ),
        (
            json.dumps({"series_id": "north", **{f"key {k}": 0 for k in range(60_000)}}).encode(),
            422,
            "'key 0'",
        ),
    ],
    ids=["empty rows", "more rows than count", "empty rows within the cap", "a wide row", "unknown keys"],
)
def test_a_body_that_is_large_for_nothing_is_refused_at_its_first_fault(busy, body, status, said):
    reply = post(busy, body)
    assert reply.status_code == status
    assert said.replace("'", "") in reply.json()["detail"]


def test_a_store_that_another_process_holds_refuses_answers_and_stops_nothing_else(busy):
    with (
        at(busy.home),
        closing(sqlite3.connect(get_served_path(DATASET))) as holder,
        ThreadPoolExecutor(20) as pool,
    ):
        n_before = read_served(DATASET)["prediction_id"].n_unique()
        holder.execute("BEGIN IMMEDIATE")
        with (
            asked_meanwhile(busy, "GET", "/api/v1/health/live") as live,
            asked_meanwhile(busy, "GET", "/api/v1/metrics") as scraped,
        ):
            replies = list(pool.map(lambda _: post(busy, b'{"series_id": "north"}'), range(20)))
            ready = busy.client.get("/api/v1/health/ready")
        holder.rollback()
        assert {reply.status_code for reply in replies} == {503}
        assert min(len(live), len(scraped)) > 100, "the loop went on"
        assert (ready.status_code, "store of served forecasts" in ready.json()["faults"][0].lower()) == (
            503,
            True,
        )
        busy.wait_for(lambda said: said["ready"])
        assert busy.predict(series_id="north").status_code == 200
        assert read_served(DATASET)["prediction_id"].n_unique() == n_before + 1, (
            "what was refused is not recorded"
        )
