"""From a record in a topic to the forecast that uses it, without a request or a flow."""

import threading
import time
from contextlib import contextmanager
from datetime import timedelta

import polars as pl
import pytest
from confluent_kafka import Producer
from homes import at_home
from kafka_support import make_topic
from refresh_runs import DATASET, build_feed_root, refreshing, send_rows
from servers import crown, serving
from small_release import START, build_small_release, small_rows

from tasks.core.frames import SERIES
from tasks.edges.files import compute_file_hash
from tasks.edges.registry import get_rows_path
from tasks.feed.service import run_feed
from tasks.release import load_release, predict_cutoffs

ROWS = small_rows(420)
N_SEEN = 400


@contextmanager
def landing(root):
    """A landing that goes on, in a thread."""
    stopping = threading.Event()
    thread = threading.Thread(
        target=run_feed,
        kwargs={"stop": stopping.is_set, "until_caught_up": False, "report": lambda _: None, "root": root},
    )
    thread.start()
    yield
    stopping.set()
    thread.join(30)


def wait_for(holds, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def between(first, last):
    day = pl.col("event_time")
    return ROWS.filter((day >= START + timedelta(days=first)) & (day < START + timedelta(days=last)))


@pytest.fixture
def world(tmp_path, kafka_cluster):
    topic = make_topic(kafka_cluster.address, n_partitions=2)
    root, producer = (
        build_feed_root(tmp_path / "root", topic),
        Producer({"bootstrap.servers": kafka_cluster.address}),
    )
    release = tmp_path / "release"
    build_small_release(release, rows=between(0, N_SEEN), gate_steps=120)
    send_rows(producer, topic, between(0, N_SEEN))
    with at_home(tmp_path / "home", TIDEMILL_KAFKA=kafka_cluster.address) as home:
        crown(home, release)
        environment = {"TIDEMILL_RELEASE": str(release)}
        with landing(root), refreshing(root, tmp_path / "log"), serving(home, **environment) as server:
            yield producer, topic, server, release, tmp_path / "log"


def test_a_landed_record_is_in_the_next_forecast_and_the_numbers_are_those_of_the_rows(world):
    producer, topic, server, release, log = world

    def is_as_of(day):
        answer = server.predict(series_id=["north", "south"]).json()
        newest = {series["as_of"][:10] for series in answer["series"]}
        return answer if newest == {f"{START + timedelta(days=day):%F}"} else None

    wait_for(lambda: get_rows_path(DATASET).exists())
    wait_for(lambda: is_as_of(N_SEEN))
    for day in range(N_SEEN, N_SEEN + 5):
        send_rows(producer, topic, between(day, day + 1))
        answer = wait_for(lambda day=day: is_as_of(day + 1), 20)
        assert answer["rows_version"] == compute_file_hash(get_rows_path(DATASET))
        cutoff = START + timedelta(days=day + 1)
        expected = predict_cutoffs(load_release(release), SERIES.conform(between(0, day + 1)), [cutoff])
        got = [step["y_hat"] for series in answer["series"] for step in series["steps"]]
        assert got == pytest.approx(expected.sort("series_id", "step")["y_hat"].to_list(), rel=1e-6)
    assert "+2 rows, 810 now" in log.read_text()
