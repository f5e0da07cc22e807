"""Peak memory of the monitor and of a refresh, as processes, by the number of rows."""

import io
import subprocess
import tarfile
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from bench_refresh import REFRESH, measure
from homes import at_home, small_root, write_clean
from refresh_runs import build_root, write_meters
from reports import gate_decision

from tasks.core.frames import SERIES
from tasks.edges.registry import apply_promotion
from tasks.edges.settings import ROOT

pytestmark = pytest.mark.bench
BEFORE = "a6b730d"  # the last commit whose monitor holds all rows
FIRST = datetime(1900, 1, 1, tzinfo=UTC)  # 273 years of days
N_SERIES, N_TAIL, N_GATE, N_SINCE = 100, 700, 300, 150
_MONITOR = """
import sys; from pathlib import Path; from tasks.monitor.__main__ import main
main(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def code_before(tmp_path_factory):
    folder = tmp_path_factory.mktemp("before")
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def build_long_rows(n_steps):
    rng, days = np.random.default_rng(1), np.arange(n_steps)
    times = pl.datetime_range(
        FIRST, FIRST + timedelta(days=n_steps - 1), "1d", time_unit="us", time_zone="UTC", eager=True
    )
    return SERIES.conform(
        pl.concat(
            pl.DataFrame(
                {
                    "series_id": f"s{i:03}",
                    "event_time": times,
                    "known_at": times + timedelta(days=1),
                    "load": 100 * np.exp(0.3 * np.sin(2 * np.pi * days / 7) + 0.1 * rng.normal(size=n_steps)),
                }
            )
            for i in range(N_SERIES)
        )
    )


@pytest.mark.parametrize("n_steps", [1_000, 10_000, 100_000])
def test_memory_of_the_monitor(tmp_path, code_before, n_steps):
    """The champion is promoted 150 steps before the end, whatever came before."""
    rows = build_long_rows(n_steps)
    tail = rows.filter(pl.col("event_time") >= rows["event_time"].max() - timedelta(days=N_TAIL - 1))
    with at_home(tmp_path / "home"):
        root = small_root(tmp_path / "root", tail, challenger={"gate_steps": N_GATE})
        as_of = rows["known_at"].max() - timedelta(days=N_SINCE)
        apply_promotion("small", root / "models/release", gate_decision(as_of=as_of))
        write_clean(root, rows)
        del rows, tail
        for name, code in (("before", code_before), ("now", ROOT)):
            (root / "data/reports/monitor/report.json").unlink(missing_ok=True)
            seconds, peak = measure(_MONITOR, root, code)
            print(f"\nmonitor, {n_steps * N_SERIES:,} rows, {name}: {peak:.0f} MB, {seconds:.1f} s")


@pytest.mark.parametrize("n_steps", [1_000, 10_000, 100_000])
def test_memory_of_a_refresh(tmp_path, n_steps):
    """The last of its rows are appended to a CSV file of all others."""
    rows = build_long_rows(n_steps).sort("event_time", "series_id")
    with at_home(tmp_path / "home"):
        root = build_root(tmp_path / "root")
        write_meters(root, rows.head(-N_SERIES))
        whole = measure(REFRESH, root)
        write_meters(root, rows)
        del rows
        for name, (seconds, peak) in (("all", whole), ("its end", measure(REFRESH, root))):
            print(
                f"\nrefresh that reads {name} of {n_steps * N_SERIES:,} rows: {peak:.0f} MB, {seconds:.1f} s"
            )
