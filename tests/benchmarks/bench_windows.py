"""Ticks to bars of a minute, batch by batch, beside polars' own windows over the whole frame:
10^6 ticks, 100 series, both sides in one run."""

import statistics
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from landed import params_of

from tasks.core.calendar import Calendar
from tasks.edges.delta import commit_rows
from tasks.feed.aggregate import build_bars
from tasks.feed.bars import BarsTable
from tasks.feed.land import open_table

pytestmark = pytest.mark.bench
N, N_SERIES, BATCH, RUNS = 1_000_000, 100, 50_000, 5
START = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS = {
    "open": {"by": "first", "of": "price"},
    "high": {"by": "max", "of": "price"},
    "low": {"by": "min", "of": "price"},
    "close": {"by": "last", "of": "price"},
    "volume": {"by": "sum", "of": "size"},
    "n": {"by": "count"},
}
ORACLE = {
    "open": pl.col("price").first(),
    "high": pl.col("price").max(),
    "low": pl.col("price").min(),
    "close": pl.col("price").last(),
    "volume": pl.col("size").sum(),
    "n": pl.len().cast(pl.Float64),
}
PARAMS = params_of(
    fields={"price": {}, "size": {}}, dedupe=False, sync=True, aggregate={"every": "1m", "columns": COLUMNS}
)


def ticks():
    """10,000 s in the order of arrival: a tenth of the ticks come up to 30 s after their time."""
    rng = np.random.default_rng(1)
    times = np.sort(rng.choice(10_000_000_000, N, replace=False))
    order = np.argsort(times + rng.integers(0, 30_000_000, N) * (rng.random(N) < 0.1), kind="stable")
    at = pl.Series(times[order] + int(START.timestamp() * 1e6)).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        {
            "series_id": pl.Series(rng.integers(0, N_SERIES, N)).cast(pl.String),
            "event_time": at,
            "_timestamp": at,
            "_source": "kafka:c/t/0",
            "_offset": np.arange(N),
            "price": rng.integers(1, 10_000, N) / 8,
            "size": rng.integers(1, 100, N) / 4,
            "disposition": "row",
            "month": "2024-01",
        }
    )


def whole(frame):
    """Polars as it stands: the frame must be sorted by series and time first.

    Returns (bars, seconds with the sorting, seconds without).
    """
    begun = time.perf_counter()
    ordered = frame.sort("series_id", "event_time")
    sorted_at = time.perf_counter()
    bars = ordered.group_by_dynamic("event_time", every="1m", group_by="series_id").agg(**ORACLE)
    now = time.perf_counter()
    return bars, now - begun, now - sorted_at


def in_batches(frame):
    """The aggregates alone: ticks of open windows are held, those of closed ones become bars.

    Returns (bars, seconds).
    """
    begun, held, made = time.perf_counter(), frame.clear(), []
    for batch in frame.iter_slices(BATCH):
        held = pl.concat([held, batch])
        # What is late by 30 s is there
        end = (batch["event_time"].max() - timedelta(seconds=31)).replace(second=0, microsecond=0)
        made.append(build_bars(held, PARAMS.aggregate, end))
        held = held.filter(pl.col("event_time") >= end)
    made.append(build_bars(held, PARAMS.aggregate, datetime(2025, 1, 1, tzinfo=UTC)))
    return pl.concat(made), time.perf_counter() - begun


def through_tables(frame, folder):
    """The feed's way: each batch lands in its table (not timed), then its window closes: ticks
    are read, bars compared, appended and synced."""
    table, bars, seconds = (
        open_table(folder / "table", PARAMS),
        BarsTable(folder, PARAMS, PARAMS.aggregate),
        0.0,
    )
    for k, batch in enumerate(frame.iter_slices(BATCH)):
        commit_rows(table, batch, {"kafka:c/t/0": k * BATCH} if k else {}, {"kafka:c/t/0": (k + 1) * BATCH})
        last = (
            datetime(2025, 1, 1, tzinfo=UTC)
            if (k + 1) * BATCH == N
            else batch["event_time"].max().replace(second=0, microsecond=0)
        )
        begun = time.perf_counter()
        bars.close(table, last)
        seconds += time.perf_counter() - begun
    begun = time.perf_counter()
    n_gaps = bars.find_gaps(Calendar("continuous", "1m", 0.0)).height
    return bars.select_newest(), seconds, time.perf_counter() - begun, n_gaps


def test_ticks_to_bars(tmp_path):
    frame = ticks()
    figures = {
        name: []
        for name in (
            "polars, sorted before",
            "polars, with its sort",
            "aggregates in batches",
            "through both tables",
            "ledger of gaps",
        )
    }
    for run in range(RUNS):
        oracle, with_sort, without = whole(frame)
        batched, alone = in_batches(frame)
        closed, tables, ledger, _ = through_tables(frame, tmp_path / str(run))
        for name, seconds in zip(figures, (without, with_sort, alone, tables, ledger), strict=True):
            figures[name].append(seconds)
        keys = ["series_id", "event_time"]
        assert batched.sort(keys).select(oracle.columns).equals(oracle.sort(keys))
        assert closed.select(oracle.columns).equals(oracle.sort(keys))
    medians = {name: statistics.median(of) for name, of in figures.items()}
    print(
        f"\n{N:,} ticks of {N_SERIES} series, {oracle.height:,} bars, batches of {BATCH:,}; medians of {RUNS}"
    )
    for name, of in figures.items():
        print(f"{name:<22} {medians[name] * 1000:7.0f} ms ({min(of) * 1000:.0f} to {max(of) * 1000:.0f})")
    for ours in ("aggregates in batches", "through both tables"):
        for theirs in ("polars, sorted before", "polars, with its sort"):
            print(f"{ours}: {medians[theirs] / medians[ours]:.2f} of the speed of {theirs}")
