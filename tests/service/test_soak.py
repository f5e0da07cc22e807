"""Clients of every kind for minutes, while rows and releases change: every answer is right or a
stated refusal, each good one is recorded once, and memory, files and threads stay as they were."""

import random
import threading
import time

import httpx
import psutil
import pytest
from servers import DATASET, JSON, at, crown, publish, serving_bento
from small_release import small_rows

from tasks.edges.audit_check import verify_audit
from tasks.edges.served import read_served

N_CLIENTS = 6
HISTORY = [
    {"event_time": f"2020-{1 + k // 28:02}-{1 + k % 28:02}T00:00:00Z", "load": 100 + k % 7}
    for k in range(140)
]
REQUESTS = [
    ("POST", "/api/v1/predict", {"series_id": "north"}, {200}),
    ("POST", "/api/v1/predict", {"series_id": ["north", "south"], "horizon_steps": 2}, {200}),
    ("POST", "/api/v1/predict", {"series_id": "mine", "history": HISTORY}, {200, 429}),
    ("POST", "/api/v1/predict", {"series_id": "nowhere"}, {404}),
    ("POST", "/api/v1/predict", {"series_id": 7}, {422}),
    ("POST", "/api/v1/predict/batch", {"items": [{"series_id": "south"}] * 20}, {200, 429}),
    ("GET", "/api/v1/models", None, {200}),
    ("GET", "/api/v1/health/ready", None, {200}),
    ("GET", "/api/v1/metrics", None, {200}),
]


def ask_until(address, ends_s, seed, found):
    """Ask at random; *found* gets the ids of all answers, and what should not have come."""
    rng = random.Random(seed)
    with httpx.Client(base_url=address, headers=JSON, timeout=60) as client:
        while time.monotonic() < ends_s:
            method, path, body, allowed = rng.choice(REQUESTS)
            reply = client.request(method, path, json=body)
            if reply.status_code not in allowed:
                found["wrong"].append((method, path, reply.status_code, reply.text[:200]))
            elif reply.status_code == 200 and method == "POST":
                content = reply.json()
                items = content.get("items", [content])
                found["ids"] += [item["prediction_id"] for item in items]


def measure(process):
    """MB, open files and threads of the workers below *process*."""
    workers = psutil.Process(process.pid).children(recursive=True)
    return (
        sum(worker.memory_info().rss for worker in workers) / 2**20,
        sum(worker.num_fds() for worker in workers),
        sum(worker.num_threads() for worker in workers),
    )


def soak(home, releases, seconds):
    """Ask for *seconds*, while rows are published each second and releases each quarter."""
    crown(home, releases / "first")
    found, rows = {"ids": [], "wrong": []}, [small_rows(seed=seed) for seed in (8, 9)]
    with serving_bento(home) as server:
        began = time.monotonic()
        address = str(server.client.base_url)
        clients = [
            threading.Thread(target=ask_until, args=(address, began + seconds, seed, found))
            for seed in range(N_CLIENTS)
        ]
        for client in clients:
            client.start()
        measured, quarter = [], 0
        while (passed := time.monotonic() - began) < seconds:
            publish(home, rows[int(passed) % 2])
            if int(4 * passed / seconds) > quarter:
                quarter += 1
                crown(home, releases / ("first", "second")[quarter % 2])
                measured.append(measure(server.process))
            time.sleep(1)
        for client in clients:
            client.join()
        measured.append(measure(server.process))
    assert not found["wrong"]
    with at(home):
        recorded = read_served(DATASET, own_history=True)["prediction_id"].unique().to_list()
        assert sorted(found["ids"]) == sorted(recorded)
        assert verify_audit(DATASET).fault is None
    print(f"{len(recorded)} answers; MB, files and threads after each quarter: {measured}")
    return measured


def test_clients_of_every_kind_for_some_seconds(releases, tmp_path):
    soak(tmp_path, releases, 8)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_ten_minutes_leave_memory_files_and_threads_as_they_were(releases, tmp_path):
    first, *_, last = soak(tmp_path, releases, 600)
    assert last[0] <= 1.1 * first[0]
    assert last[1] <= first[1] + 10
    assert last[2] <= first[2] + 2
