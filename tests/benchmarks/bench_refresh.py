"""Fresh rows: the cost of a refresh and of the stages, and how old a record is when it is used."""

import re
import subprocess
import sys
import threading
import time
from datetime import timedelta
from functools import partial

import numpy as np
import polars as pl
import pytest
from confluent_kafka import Producer
from homes import at_home
from kafka_support import make_topic
from refresh_runs import (
    DATASET,
    LOOP,
    build_feed_root,
    build_root,
    send_rows,
    start_program,
    write_links_of,
    write_meters,
)
from servers import crown, serving
from small_release import START, build_small_release, small_rows

from tasks.edges.refreshed import get_refresh_folder
from tasks.edges.settings import ROOT, build_child_environment

pytestmark = pytest.mark.bench

N_SERIES, N_STEPS = 100, 10_000
_STAGES = """
import sys; from pathlib import Path
from tasks.ingest.__main__ import main as ingest; from tasks.validate.__main__ import main as validate
ingest(Path(sys.argv[1])); validate(Path(sys.argv[1]))
"""
REFRESH = """
import sys; from pathlib import Path; from tasks.refresh.stage import refresh_rows
refresh_rows(Path(sys.argv[1]))
"""


def measure(program, root, code=ROOT):
    """(seconds, peak memory in MB) of a process that runs the *code* of a checkout."""
    command = [sys.executable, "-c", _MEASURED + program, str(root)]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=code, env=build_child_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began, int(re.search(r"VmHWM:\s+(\d+) kB", done.stderr)[1]) / 1000


# Not ru_maxrss, which begins with what the parent has
_MEASURED = """
import atexit, sys; from pathlib import Path
atexit.register(lambda: print(Path("/proc/self/status").read_text(), file=sys.stderr))
"""


def test_a_refresh_of_100_new_rows_on_a_million(tmp_path):
    rng = np.random.default_rng(1)
    days = pl.datetime_range(START, START + timedelta(days=N_STEPS - 1), "1d", eager=True)
    rows = pl.concat(
        pl.DataFrame(
            {"series_id": f"s{i:03}", "event_time": days, "load": 100 + rng.normal(size=N_STEPS).round(3)}
        )
        for i in range(N_SERIES)
    ).sort("event_time", "series_id")
    with at_home(tmp_path / "home"):
        root = build_root(tmp_path / "root")
        seconds = {"stages": [], "all of it": [], "its end": []}
        memory = {"stages": [], "all of it": [], "its end": []}
        write_meters(root, rows.filter(pl.col("event_time") < days[N_STEPS - 5]))
        measure(REFRESH, root)
        for n in range(4):
            write_meters(root, rows.filter(pl.col("event_time") < days[N_STEPS - 4 + n]))
            write_links_of(root)
            for name, program in (("its end", REFRESH), ("all of it", REFRESH), ("stages", _STAGES)):
                if name == "all of it":
                    (get_refresh_folder(DATASET) / "report.json").unlink()
                took, peak = measure(program, root)
                seconds[name].append(took)
                memory[name].append(peak)
    med = {name: float(np.median(values)) for name, values in seconds.items()}
    peak = {name: float(np.median(values)) for name, values in memory.items()}
    print(
        f"\n100 new rows on {rows.height:,}: ingest + validate {med['stages']:.2f} s, {peak['stages']:.0f} MB"
    )
    for name in ("all of it", "its end"):
        print(
            f"  refresh that reads {name}: {med[name]:.2f} s, {peak[name]:.0f} MB;"
            f" {med['stages'] / med[name]:.1f} times"
        )


def test_from_a_produced_record_to_the_forecast_that_uses_it(tmp_path, kafka_cluster):
    """1,000 records a second of 100 series, for 20 seconds."""
    series = tuple(f"s{i:03}" for i in range(N_SERIES))
    n_seen, n_days = 400, 200
    rows = small_rows(n_seen + n_days, series_ids=series)
    topic = make_topic(kafka_cluster.address, n_partitions=4)
    root = build_feed_root(tmp_path / "root", topic)
    release = tmp_path / "release"
    build_small_release(
        release, rows=rows.filter(pl.col("event_time") < START + timedelta(days=n_seen)), gate_steps=120
    )
    by_day = rows.partition_by("event_time", maintain_order=True)
    producer = Producer({"bootstrap.servers": kafka_cluster.address, "linger.ms": 5})

    send = partial(send_rows, producer, topic)
    for day in by_day[:n_seen]:
        send(day)
    with at_home(tmp_path / "home", TIDEMILL_KAFKA=kafka_cluster.address) as home:
        crown(home, release)
        loops = [start_program(program, root, tmp_path / "log") for program in (LOOP, _LANDING)]
        try:
            with serving(home, TIDEMILL_RELEASE=str(release)) as server:
                delays = follow(server, by_day[n_seen:], send, f"{START + timedelta(days=n_seen):%F}")
        finally:
            for loop in loops:
                loop.terminate()
                loop.wait(30)
    print(
        f"\nproduced -> used by /predict, {len(series)} series, 1,000 records/s, {len(delays)} steps:"
        f" median {np.median(delays):.2f} s, p95 {np.quantile(delays, 0.95):.2f} s, max {max(delays):.2f} s"
    )


_LANDING = """
import sys; from pathlib import Path; from tasks.feed.service import run_feed
run_feed(stop=lambda: False, until_caught_up=False, report=lambda _: None, root=Path(sys.argv[1]))
"""


def follow(server, days, send, ready_as_of):
    """Seconds from the sending of each day to the first answer that knows it."""

    def read_as_of():
        answer = server.predict(series_id="s000")
        return answer.json()["series"][0]["as_of"][:10] if answer.status_code == 200 else ""

    deadline = time.monotonic() + 120
    while read_as_of() != ready_as_of:
        assert time.monotonic() < deadline, "the history never arrived"
        time.sleep(0.1)
    sent: dict[str, float] = {}

    def produce():
        began = time.monotonic()
        for i, day in enumerate(days):
            time.sleep(max(0.0, began + i * 0.1 - time.monotonic()))
            sent[f"{day['event_time'][0] + timedelta(days=1):%F}"] = time.monotonic()
            send(day)

    producing = threading.Thread(target=produce)
    producing.start()
    seen: dict[str, float] = {}
    last = f"{days[-1]['event_time'][0] + timedelta(days=1):%F}"
    while last not in seen and time.monotonic() < deadline + 60:
        now = read_as_of()
        for name in sent:
            if name <= now:
                seen.setdefault(name, time.monotonic())
        time.sleep(0.05)
    producing.join()
    return [seen[name] - sent[name] for name in seen]
