"""What a request costs: ours under `bentoml serve`, and bare FastAPI with the same release.

Both in one run, taking turns. Processor time is of all processes of a server.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import psutil
import pytest
from servers import DATASET, crown, publish, serving_bento
from small_release import build_small_release, small_rows

from tasks.edges.processes import find_free_port
from tasks.edges.settings import ROOT, build_child_environment

pytestmark = pytest.mark.bench

N_REQUESTS, N_TURNS = 400, 5
# The release's forecast of each request by its own function, and nothing else: no check of the
# request beyond its type, no record
_BARE = """
import sys; from pathlib import Path
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tasks.release import load_release, predict_cutoffs
release = load_release(Path(sys.argv[1]))
rows = release.rows; as_of = rows["known_at"].max()
app = FastAPI()
class Body(BaseModel):
    series_id: str
@app.post("/api/v1/predict")
async def predict(body: Body):
    made = predict_cutoffs(release, rows, [as_of])
    part = made.filter(made["series_id"] == body.series_id)
    return {"steps": part.select("step", "y_hat", "q_0.1", "q_0.5", "q_0.9").to_dicts()}
@app.post("/static")
async def static(body: Body):
    return {"steps": [1, 2, 3]}
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""


@contextmanager
def serving_bare(release):
    port = find_free_port("127.0.0.1")
    command = [sys.executable, "-c", _BARE, str(release), str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=build_child_environment())
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for _ in range(200):
                try:
                    client.post("/static", json={"series_id": "north"})
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            yield client, process
    finally:
        process.terminate()
        process.wait(30)


def measure(client, process, path, n=N_REQUESTS):
    """Processor milliseconds of the server for each of *n* requests, one after another."""
    before = compute_cpu_s(process)
    for i in range(n):
        client.post(path, json={"series_id": ("north", "south")[i % 2]}).raise_for_status()
    return 1000 * (compute_cpu_s(process) - before) / n


def compute_cpu_s(process):
    parent = psutil.Process(process.pid)
    times = [child.cpu_times() for child in (parent, *parent.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def test_processor_time_of_a_request(tmp_path):
    release, home = tmp_path / "release", tmp_path / "home"
    home.mkdir()
    build_small_release(release, dataset=DATASET)
    costs = {"ours, recorded": [], "bare FastAPI, the same forecast": [], "bare FastAPI, static": []}
    with serving_bento(home, TIDEMILL_RELEASE=str(release)) as ours, serving_bare(release) as bare:
        for _ in range(N_TURNS):
            costs["ours, recorded"].append(measure(ours.client, ours.process, "/api/v1/predict"))
            costs["bare FastAPI, the same forecast"].append(measure(*bare, "/api/v1/predict", 40))
            costs["bare FastAPI, static"].append(measure(*bare, "/static"))
    print("\nprocessor time of a request, median of five turns:")
    for name, values in costs.items():
        print(f"  {name}: {np.median(values):.2f} ms")


def test_latency_while_rows_are_published(tmp_path):
    """One client for 30 s, new rows each second, and a release promoted twice."""
    home, releases = tmp_path / "home", [tmp_path / "first", tmp_path / "second"]
    home.mkdir()
    for release, model in zip(releases, ("first", "second"), strict=True):
        build_small_release(release, model=model, dataset=DATASET)
    crown(home, releases[0])
    rows = [small_rows(seed=seed) for seed in (8, 9)]
    seconds = []
    with serving_bento(home) as server, ThreadPoolExecutor(1) as pool:
        began, published = time.monotonic(), 0
        while (now := time.monotonic()) - began < 30:
            if now - began > published:
                pool.submit(publish, home, rows[published % 2])
                if published in {10, 20}:
                    pool.submit(crown, home, releases[published // 10 % 2])
                published += 1
            start = time.perf_counter()
            server.predict(series_id="north").raise_for_status()
            seconds.append(time.perf_counter() - start)
    median, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
    print(
        f"\none client, rows published each second, two promotions: {len(seconds)} requests, p50"
        f" {median:.1f} ms, p99 {p99:.1f} ms ({p99 / median:.1f} times), slowest {1000 * max(seconds):.0f} ms"
    )


def test_rate_of_a_batch_of_ten_thousand_series(tmp_path):
    """Series a second: one request for each (one client, and 16), and all in one batch; recorded.

    Meanwhile another client asks whether the service lives: what the event loop was blocked for.
    """
    release, home, names = tmp_path / "release", tmp_path / "home", [f"meter {k:05}" for k in range(10_000)]
    home.mkdir()
    rows = small_rows(n_steps=60, series_ids=names)
    build_small_release(release, rows, gate_steps=10, n_history=3, dataset=DATASET)
    with serving_bento(home, TIDEMILL_RELEASE=str(release)) as server, ThreadPoolExecutor(17) as pool:

        def post(name):
            server.predict(series_id=name).raise_for_status()

        def compute_rate(n, answer):
            began = time.perf_counter()
            answer()
            return n / (time.perf_counter() - began)

        def post_batch():
            body = {"items": [{"series_id": name} for name in names]}
            server.client.post("/api/v1/predict/batch", json=body).raise_for_status()

        print(f"\nfirst batch after new rows: {compute_rate(len(names), post_batch):,.0f} series a second")
        rates = {"one client": [], "16 clients": [], "batch": []}
        blocked_s = []
        for _ in range(3):
            rates["one client"].append(compute_rate(400, lambda: [post(name) for name in names[:400]]))
            rates["16 clients"].append(compute_rate(800, lambda: list(pool.map(post, names[:800]))))
            rates["batch"].append(compute_rate(len(names), post_batch))
            batch = pool.submit(post_batch)
            while not batch.done():
                began = time.perf_counter()
                server.client.get("/api/v1/health/live").raise_for_status()
                blocked_s.append(time.perf_counter() - began)
            batch.result()
    for name, values in rates.items():
        ratio = np.median(rates["batch"]) / np.median(values)
        print(f"  {name}: {np.median(values):,.0f} series a second (the batch: {ratio:.1f} times)")
    quantiles = 1000 * np.quantile(blocked_s, [0.5, 0.99, 1.0])
    print("  live meanwhile: p50 {:.1f} ms, p99 {:.1f} ms, slowest {:.1f} ms".format(*quantiles))
