"""Nothing is served that is not recorded: in parallel, through a kill, and when the store fails."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import DATASET, serving

from tasks.edges.served import read_served


@pytest.fixture
def lone_server(releases, tmp_path):
    with serving(tmp_path, TIDEMILL_RELEASE=str(releases / "first")) as running:
        yield running


def test_parallel_requests_are_each_recorded_once(lone_server, at_home):
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: lone_server.predict(series_id=["north", "south"]), range(20)))
    assert {r.status_code for r in replies} == {200}
    ids = [r.json()["prediction_id"] for r in replies]
    at_home(lone_server.home)
    stored = read_served(DATASET)
    assert len(set(ids)) == 20
    assert sorted(stored["prediction_id"].unique()) == sorted(ids)
    assert stored.height == 20 * 2 * 5


def test_a_kill_right_after_an_answer_leaves_it_in_the_store(lone_server, at_home):
    answered = lone_server.predict(series_id="north").json()
    os.kill(lone_server.process.pid, signal.SIGKILL)
    at_home(lone_server.home)
    stored = read_served(DATASET)
    assert stored["prediction_id"].unique().to_list() == [answered["prediction_id"]]
    assert stored["y_hat"].to_list() == [s["y_hat"] for s in answered["series"][0]["steps"]]


def test_no_answer_leaves_while_the_store_cannot_be_written(lone_server):
    assert lone_server.client.get("/api/v1/health/ready").status_code == 200
    store = lone_server.home / "served"
    store.rename(store.with_name("elsewhere"))
    store.write_text("a file where the folder should be")
    refused = lone_server.predict(series_id="north")
    assert refused.status_code == 503
    assert "not recorded" in refused.text
    ready = lone_server.client.get("/api/v1/health/ready")
    assert ready.status_code == 503
    assert any(f"{DATASET}.db" in fault for fault in ready.json()["faults"])
    store.unlink()
    assert lone_server.predict(series_id="north").status_code == 200
    assert lone_server.client.get("/api/v1/health/ready").status_code == 200
