"""Bars of ticks: whatever the order of arrival and the batches, they are those of the whole
frame."""

import os
import signal
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import params_of
from polars.testing import assert_frame_equal

from tasks.core import frames
from tasks.edges import files as disk
from tasks.edges.delta import commit_rows, compact_table, restore_table
from tasks.feed.aggregate import N_TICKS, TICK, build_bars
from tasks.feed.bars import BarsTable
from tasks.feed.land import open_table

START = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS = {
    "open": {"by": "first", "of": "price"},
    "high": {"by": "max", "of": "price"},
    "low": {"by": "min", "of": "price"},
    "close": {"by": "last", "of": "price"},
    "volume": {"by": "sum", "of": "size"},
    "average": {"by": "mean", "of": "price"},
    "n": {"by": "count"},
}
PRICE = pl.col("price").drop_nulls()
ORACLE = {
    "open": PRICE.first(),
    "high": PRICE.max(),
    "low": PRICE.min(),
    "close": PRICE.last(),
    "volume": pl.col("size").sum(),
    "average": PRICE.mean(),
    "n": pl.len().cast(pl.Float64),
}
KINDS = {"tumbling": {"every": "1m"}, "sliding": {"every": "1m", "period_steps": 3}, "session": {"gap_s": 90}}
FIELDS = {"price": {"nullable": True}, "size": {}}


def feed(kind="tumbling", **more):
    return params_of(
        fields=FIELDS, dedupe=False, aggregate={"kind": kind, **KINDS[kind], "columns": COLUMNS}, **more
    )


def draw_ticks(rng, n, n_series=3, span_s=1200):
    """Ticks of three logs in the order in which they come; some at one microsecond, some without
    a price, some long after their time."""
    seconds = rng.integers(0, span_s * 2, n) / 2
    order = (
        np.argsort(seconds + rng.choice([0.0, 0.0, 200.0], n) * rng.random(n), kind="stable")
        if rng.random() < 0.7
        else rng.permutation(n)
    )
    seconds, series, logs = seconds[order], rng.integers(0, n_series, n), rng.integers(0, 3, n)
    offsets = [int((logs[:i] == logs[i]).sum()) for i in range(n)]
    return pl.DataFrame(
        {
            "series_id": [f"s{k}" for k in series],
            "event_time": [START + timedelta(seconds=s) for s in seconds],
            "_source": [f"log{k}" for k in logs],
            "_offset": offsets,
            "_timestamp": [START + timedelta(seconds=s) for s in np.maximum.accumulate(seconds) + 0.5],
            "price": pl.Series(
                [None if rng.random() < 0.1 else float(p) / 8 for p in rng.integers(1, 1000, n)],
                dtype=pl.Float64,
            ),
            "size": rng.integers(1, 50, n) / 7,
        },
        schema_overrides=TICK,
    )


def whole_frame(kind, ticks, end):
    """The oracle: polars' own windows over the whole frame; of sessions a loop in plain Python."""
    ordered = ticks.filter(pl.col("event_time") < end).sort("series_id", "event_time", "_source", "_offset")
    if kind == "session":
        return _sessions_one_by_one(ordered, end)
    k = KINDS[kind].get("period_steps", 1)
    long_before = ordered.unique("series_id").with_columns(
        pl.lit(START - timedelta(hours=1), frames.UTC).alias("event_time"), _offset=pl.lit(-1, pl.Int64)
    )
    told = pl.concat([long_before, ordered]).sort(
        "series_id", "event_time", maintain_order=True
    )  # else polars leaves out windows that begin before a series' first tick
    windows = told.group_by_dynamic("event_time", every="1m", period=f"{k}m", group_by="series_id").agg(
        **ORACLE, real=(pl.col("_offset") >= 0).any()
    )
    # By its last step
    named = windows.filter("real").drop("real").with_columns(pl.col("event_time").dt.offset_by(f"{k - 1}m"))
    return named.filter(pl.col("event_time").dt.offset_by("1m") <= end).sort("series_id", "event_time")


def _sessions_one_by_one(ordered, end):
    gap, found = timedelta(seconds=KINDS["session"]["gap_s"]), []
    for (series,), rows in ordered.group_by("series_id", maintain_order=True):
        groups = []
        for tick in rows.iter_rows(named=True):
            if groups and tick["event_time"] - groups[-1][-1]["event_time"] < gap:
                groups[-1].append(tick)
            else:
                groups.append([tick])
        for group in groups:
            if group[-1]["event_time"] + gap <= end:
                prices = [tick["price"] for tick in group if tick["price"] is not None]
                told = (prices[0], max(prices), min(prices), prices[-1]) if prices else (None,) * 4
                mean = float(np.mean(prices)) if prices else None
                found.append(
                    (
                        series,
                        group[0]["event_time"],
                        *told,
                        sum(t["size"] for t in group),
                        mean,
                        float(len(group)),
                    )
                )
    return pl.DataFrame(
        found,
        schema={"series_id": pl.String, "event_time": frames.UTC, **dict.fromkeys(COLUMNS, pl.Float64)},
        orient="row",
    )


def landed(folder, ticks, params):
    """Put *ticks* into the table as one commit of a landing would."""
    table = open_table(folder, params)
    ends = dict(ticks.group_by("_source").agg(pl.col("_offset").max() + 1).iter_rows())
    month = pl.col("event_time").dt.strftime("%Y-%m")
    marks = table.list_offsets()
    commit_rows(
        table,
        ticks.with_columns(disposition=pl.lit("row"), month=month),
        {s: marks[s] for s in ends if s in marks},
        ends,
    )
    return table


def shown(bars):
    return bars.select_newest().filter(pl.col(N_TICKS) > 0).select("series_id", "event_time", *COLUMNS)


@st.composite
def arrivals(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 150))
    return draw_ticks(rng, n), sorted({*draw(st.lists(st.integers(1, n), max_size=4)), n}), rng


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(arrival=arrivals())
def test_bars_are_those_of_the_oracle_to_the_bit_in_any_order(kind, arrival):
    ticks, _, rng = arrival
    spec, end = feed(kind).aggregate, START + timedelta(minutes=int(rng.integers(1, 25)))
    made = build_bars(ticks, spec, end)
    assert_frame_equal(
        made.select("series_id", "event_time", *COLUMNS), whole_frame(kind, ticks, end), rel_tol=1e-12
    )
    assert_frame_equal(
        build_bars(ticks.sample(fraction=1, shuffle=True, seed=1), spec, end), made, check_exact=True
    )


def test_a_sliding_bar_closes_when_its_series_has_been_silent_for_longer_than_a_step(tmp_path):
    params = feed("sliding")
    bars = BarsTable(tmp_path, params, params.aggregate)
    ticks = draw_ticks(np.random.default_rng(0), 1).with_columns(
        event_time=pl.lit(START + timedelta(minutes=5)).cast(frames.UTC)
    )
    table = landed(tmp_path / "table", ticks, params)
    for minute in (7, 8, 9):
        bars.close(table, START + timedelta(minutes=minute))
    last_steps = [START + timedelta(minutes=minute) for minute in (5, 6, 7)]
    assert shown(bars)["event_time"].to_list() == last_steps


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(arrival=arrivals())
def test_bars_closed_batch_by_batch_are_those_of_the_whole_frame(kind, arrival, tmp_path_factory):
    ticks, cuts, rng = arrival
    folder, params = tmp_path_factory.mktemp("bars"), feed(kind)
    bars, end = BarsTable(folder, params, params.aggregate), START
    for begin, until in zip([0, *cuts[:-1]], cuts, strict=True):
        table = landed(folder / "table", ticks.slice(begin, until - begin), params)
        if rng.random() < 0.4:
            bars = BarsTable(folder, params, params.aggregate)  # another process goes on
        end = max(
            end,
            ticks.head(until)["event_time"].max().replace(second=0)
            - timedelta(minutes=int(rng.integers(0, 3))),
        )
        bars.close(table, end)
        assert_frame_equal(
            shown(bars),
            build_bars(ticks.head(until), params.aggregate, end).select(shown(bars).columns),
            check_exact=True,
        )
        assert not bars.close(table, end)
    assert_frame_equal(shown(bars), whole_frame(kind, ticks, end), rel_tol=1e-12)


def test_bars_outlive_tidying_replays_and_a_restored_table(tmp_path):
    params = feed()
    ticks = draw_ticks(np.random.default_rng(3), 300)
    bars, end = BarsTable(tmp_path, params, params.aggregate), START + timedelta(minutes=18)
    for k in range(20):
        table = landed(tmp_path / "table", ticks.slice(k * 10, 10), params)
        bars.close(table, end)
    then, before = table.version, shown(bars)
    compact_table(bars.table)
    compact_table(table)
    assert not bars.close(table, end)
    table = landed(tmp_path / "table", ticks.slice(200), params)
    assert bars.close(table, end)
    assert_frame_equal(shown(bars), whole_frame("tumbling", ticks, end), rel_tol=1e-12)
    restore_table(table, then)  # what came later is gone, and is read again
    assert bars.close(table, end)
    assert_frame_equal(shown(bars), before, check_exact=True)


def test_a_member_that_has_read_less_changes_nothing(tmp_path):
    params, ticks = feed(), draw_ticks(np.random.default_rng(4), 100)
    end = START + timedelta(minutes=18)
    behind = landed(tmp_path / "table", ticks.head(50), params)
    ahead = landed(tmp_path / "table", ticks.slice(50), params)
    first, second = (BarsTable(tmp_path, params, params.aggregate) for _ in range(2))
    assert first.close(ahead, end)
    assert not second.close(behind, end)
    assert_frame_equal(shown(second), whole_frame("tumbling", ticks, end), rel_tol=1e-12)


def _close_and_end_at(point, folder, end):
    """In a process of its own: close, and end as by kill -9 at *point*."""
    disk.run_durability_hook = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == point else None
    BarsTable(folder, feed(), feed().aggregate).close(open_table(folder / "table", feed()), end)


@pytest.mark.parametrize("point", ["file written", "files written", "committed", "commit synced"])
def test_a_closing_that_is_killed_anywhere_is_made_once(point, tmp_path):
    params, ticks = feed(), draw_ticks(np.random.default_rng(5), 200)
    table = landed(tmp_path / "table", ticks.head(100), params)
    end = START + timedelta(minutes=18)
    BarsTable(tmp_path, params, params.aggregate).close(table, START + timedelta(minutes=5))
    table = landed(tmp_path / "table", ticks.slice(100), params)
    was_made = point in {"committed", "commit synced"}
    for code in (-signal.SIGKILL, 0 if was_made else -signal.SIGKILL):
        process = get_context("spawn").Process(target=_close_and_end_at, args=(point, tmp_path, end))
        process.start()
        process.join(60)
        assert process.exitcode == code
    again = BarsTable(tmp_path, params, params.aggregate)
    assert again.close(table, end) != was_made
    assert again.n_closings == 2
    assert_frame_equal(shown(again), whole_frame("tumbling", ticks, end), rel_tol=1e-12)
    n_bars, n_changed = again.select_newest().height, again.find_changed_after(1).height
    assert again.table.scan().collect().height == n_bars + n_changed
