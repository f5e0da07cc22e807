"""No detector is silently off: bad input is named or found, and each detector finds its drift.

A law over all detectors and inputs: 0 rows, a column that is gone, all NaN, a constant, one NaN, an
infinity, one spike in the reference.
"""

import math
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from drift_runs import watch_drift
from small_release import START, cutoff_at, small_rows

from tasks.core.errors import FrameError
from tasks.core.frames import SERIES
from tasks.monitor.params import MonitorParams
from tasks.monitor.signals import DETECTORS

SEEN, DRIFTS, ALL = 699, 800, 1000
PARAMS = MonitorParams(min_rows=20, alarms_per_30_days=0.005)
NORTH, LATER = (
    pl.col("series_id") == "north",
    pl.col("event_time") >= START + timedelta(days=DRIFTS),
)
BAD = {"one NaN": math.nan, "an infinity": math.inf, "one spike": 1e12, "one negative": -1e12}
DRIFT = {
    "level": pl.col("x") + 1.5,
    "spread": 4 * pl.col("x"),
    "missing": pl.when(pl.col("day") % 2 == 0).then(None).otherwise("x"),
    "range": pl.when(pl.col("day") % 3 == 0).then(40.0).otherwise("x"),
    "zeros": pl.when(pl.col("day") % 3 == 0).then(0.0).otherwise("x"),
    "joint": pl.col("x").shuffle(seed=4).over("series_id"),
    "categories": pl.when(pl.col("day") % 3 == 0).then(pl.lit("b")).otherwise("state"),
    "a new category": pl.when(pl.col("day") % 5 == 0).then(pl.lit("c")).otherwise("state"),
}
FOUND = {"joint": ("*:joint", "level"), "categories": ("north:state", "level")}
FOUND |= {"a new category": ("north:state", "range")} | {name: ("north:x", name) for name in DETECTORS}


def build_rows():
    """`x` of two series that move together, `state` of two categories."""
    rng = np.random.default_rng(3)
    rows = small_rows(ALL, noise=0.0).with_columns(day=pl.int_range(pl.len()).over("series_id"))
    shared = rng.normal(size=ALL)
    own = [0.9 * shared + math.sqrt(1 - 0.81) * rng.normal(size=ALL) for _ in range(2)]
    states = rng.choice(["a", "b"], 2 * ALL, p=[0.8, 0.2])
    return rows.with_columns(x=np.concatenate(own), state=states)


def watch(rows, expected=()):
    return watch_drift(SERIES.conform(rows.drop("day")), cutoff_at(SEEN), PARAMS, expected=expected)


def change(rows, column, condition, value):
    return rows.with_columns(pl.when(condition).then(value).otherwise(column).alias(column))


def list_alarms(figures):
    return {(row.stream, row.detector) for row in figures.streams if row.alarm_at is not None}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(kind, fault) for kind in DRIFT for fault in [None, *BAD] if fault is None or "categor" not in kind],
)
def test_each_detector_finds_its_drift_whatever_single_value_was_bad_before(kind, fault):
    """And says by how much, since when, and what to look at."""
    rows, (stream, detector) = build_rows(), FOUND[kind]
    column = "state" if stream == "north:state" else "x"
    if fault is not None:
        rows = change(rows, "x", NORTH & (pl.col("day") == 300), BAD[fault])
    figures = watch(change(rows, column, NORTH & LATER, DRIFT[kind]))
    alarms = {row.stream: row for row in figures.streams if row.alarm_at is not None}
    alarm = alarms[stream]
    assert alarm.detector == detector
    assert abs(alarm.since - START - timedelta(days=DRIFTS)) <= timedelta(days=28)
    assert alarm.since <= alarm.alarm_at
    assert alarm.advice
    assert alarm.points
    if stream == "north:x":
        assert alarm.now != alarm.before
        assert alarm.psi > 0.1 or detector == "missing"


@pytest.mark.parametrize("fault", [None, *BAD])
@pytest.mark.parametrize("day", [300, 905])
def test_a_single_bad_value_is_no_drift(fault, day):
    rows = build_rows()
    if fault is not None:
        rows = change(rows, "x", NORTH & (pl.col("day") == day), BAD[fault])
    assert not list_alarms(watch(rows))


@pytest.mark.parametrize("column", ["x", "state", "load"])
def test_a_column_without_a_value_is_named(column):
    for condition in (NORTH, NORTH & LATER, NORTH & ~LATER):
        figures = watch(change(build_rows(), column, condition, None))
        named = {row.stream for row in figures.unwatched}
        alarmed = {stream for stream, _ in list_alarms(figures)}
        assert f"north:{column}" in named | alarmed


def test_a_column_that_is_gone_is_named_and_no_rows_are_an_error():
    figures = watch(build_rows().drop("x"), expected=["x", "load"])
    assert [row.stream for row in figures.unwatched] == ["*:x"]
    with pytest.raises(FrameError, match="There are no rows"):
        watch(build_rows().clear())


def test_a_constant_is_watched_by_every_detector_that_it_can_have():
    rows = change(build_rows(), "x", NORTH, 3.0)
    assert not list_alarms(watch(rows))
    for value, detector in ((4.0, "level"), (None, "missing"), (0.0, "zeros")):
        later = change(rows, "x", NORTH & LATER & (pl.col("day") % 2 == 0), value)
        found = watch(later)
        assert {d for s, d in list_alarms(found) if s == "north:x"} == {detector}, value


def test_free_text_is_no_category():
    rows = build_rows().with_columns(state=pl.col("day").cast(pl.String))
    assert {r.stream for r in watch(rows).unwatched} == {"north:state", "south:state"}
