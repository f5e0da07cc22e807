"""From a record in a topic to the forecast that uses it, with nobody asking for anything."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta

import polars as pl
import pytest
from confluent_kafka import Producer
from homes import at_home
from kafka_support import make_topic
from refresh_runs import DATASET, build_root
from servers import crown, serving
from small_release import START, build_small_release, small_rows

from tasks.core.frames import SERIES
from tasks.edges.files import compute_file_hash
from tasks.edges.registry import get_rows_path
from tasks.edges.settings import ROOT, build_child_environment
from tasks.feed.service import run_feed
from tasks.release import load_release, predict_cutoffs

ROWS = small_rows(420)
N_SEEN = 400
_LOOP = """
import sys; from pathlib import Path; from tasks.refresh.run_loop import main
main(Path(sys.argv[1]))
"""


def send(address, topic, rows):
    producer = Producer({"bootstrap.servers": address})
    for series, when, load in rows.select("series_id", "event_time", "load").iter_rows():
        record = {"series_id": series, "event_time": when.isoformat(), "load": load}
        producer.produce(topic, json.dumps(record).encode(), key=series)
    assert producer.flush(20) == 0


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


@contextmanager
def refreshing(root, home, log):
    """The loop that `tidemill up` starts, on *root*."""
    with log.open("w") as out:
        environment = build_child_environment(TIDEMILL_HOME=str(home))
        command = [sys.executable, "-c", _LOOP, str(root)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
    yield
    process.terminate()
    assert process.wait(30) == 0


def wait_for(holds, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.05)
    return found


def between(first, last):
    day = pl.col("event_time")
    return ROWS.filter((day >= START + timedelta(days=first)) & (day < START + timedelta(days=last)))


@pytest.fixture
def world(tmp_path, kafka_cluster):
    topic = make_topic(kafka_cluster.address, n_partitions=2)
    feed = {
        "source": {"kind": "kafka", "topic": topic, "group": topic},
        "fields": {"load": {}},
        "window": "1d",
    }
    root = build_root(
        tmp_path / "root",
        feed=feed,
        ingest={"source": {"kind": "feed", "known_at": "nominal"}},
    )
    release = tmp_path / "release"
    build_small_release(release, rows=between(0, N_SEEN), gate_steps=120)
    send(kafka_cluster.address, topic, between(0, N_SEEN))
    with at_home(tmp_path / "home", TIDEMILL_KAFKA=kafka_cluster.address) as home:
        crown(home, release)
        environment = {"TIDEMILL_RELEASE": str(release)}
        with landing(root), refreshing(root, home, tmp_path / "log"), serving(home, **environment) as server:
            yield kafka_cluster.address, topic, server, release, tmp_path / "log"


def test_a_landed_record_is_in_the_next_forecast_and_the_numbers_are_those_of_the_rows(world):
    address, topic, server, release, log = world

    def is_as_of(day):
        answer = server.predict(series_id=["north", "south"]).json()
        newest = {series["as_of"][:10] for series in answer["series"]}
        return answer if newest == {f"{START + timedelta(days=day):%F}"} else None

    wait_for(lambda: get_rows_path(DATASET).exists())
    wait_for(lambda: is_as_of(N_SEEN))
    for day in range(N_SEEN, N_SEEN + 5):
        send(address, topic, between(day, day + 1))
        answer = wait_for(lambda day=day: is_as_of(day + 1), 20)
        assert answer["rows_version"] == compute_file_hash(get_rows_path(DATASET))
        cutoff = START + timedelta(days=day + 1)
        expected = predict_cutoffs(load_release(release), SERIES.conform(between(0, day + 1)), [cutoff])
        got = [step["y_hat"] for series in answer["series"] for step in series["steps"]]
        assert got == pytest.approx(expected.sort("series_id", "step")["y_hat"].to_list(), rel=1e-6)
    assert "+2 rows, 810 now" in log.read_text()
