"""A home on a disk that is really full: what is not recorded is not answered, and nothing else
stops."""

import psutil
import pytest
from disks import small_disk
from servers import DATASET, at, serving_bento

from tasks.edges.processes import wait_for
from tasks.edges.served import RESERVE_BYTES, read_served


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "home") as disk:
        yield disk


@pytest.fixture
def running(disk, releases):
    with serving_bento(disk.folder, TIDEMILL_RELEASE=str(releases / "first")) as running:
        yield running


def statuses(running):
    paths = ("/api/v1/health/ready", "/readyz", "/api/v1/health/live", "/api/v1/metrics")
    return [
        running.predict(series_id="north").status_code,
        *(running.client.get(path).status_code for path in paths),
    ]


def test_a_full_disk_refuses_answers_and_readiness_alone_and_room_brings_them_back(running, disk):
    workers = {child.pid for child in psutil.Process(running.process.pid).children(recursive=True)}
    answered = [running.predict(series_id="north").json()["prediction_id"]]
    disk.fill(running.process.pid)

    def ask():
        """The store's log may have room for some more."""
        reply = running.predict(series_id="north")
        answered.extend([reply.json()["prediction_id"]] if reply.status_code == 200 else [])
        return reply.status_code == 503

    assert wait_for(ask, 60)
    for _ in range(20):
        assert statuses(running) == [503, 503, 503, 200, 200]
    assert running.predict(series_id="north").json()["rule"] == "Nothing is served that is not recorded."
    assert f"{DATASET}.db" in running.client.get("/api/v1/health/ready").json()["faults"][0]
    assert (
        'tidemill_requests_total{route="/api/v1/predict",status="503"}'
        in running.client.get("/api/v1/metrics").text
    )

    disk.free(running.process.pid)
    assert statuses(running) == [200, 200, 200, 200, 200]
    assert {child.pid for child in psutil.Process(running.process.pid).children(recursive=True)} == workers, (
        "none ended"
    )
    with at(disk.folder):
        stored = set(read_served(DATASET)["prediction_id"])
    assert set(answered) <= stored
    assert len(stored) == len(answered) + 1


def test_without_room_for_a_large_answer_it_is_not_ready_and_still_answers(running, disk):
    if disk.is_mounted:  # a limit on files leaves the room on the disk as it is
        (disk.folder / "large").write_bytes(bytes(64 * 2**20 - RESERVE_BYTES))
        assert statuses(running) == [200, 503, 503, 200, 200]
        assert "MB are free" in running.client.get("/api/v1/health/ready").json()["faults"][0]
        (disk.folder / "large").unlink()
    assert statuses(running) == [200, 200, 200, 200, 200]
