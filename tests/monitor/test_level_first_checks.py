"""Loss, coverage and concept: whatever is bad in the reference or since, each finds its change or
is named as not watched, with the reason."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from small_release import small_about

from tasks.core.calendar import build_calendar
from tasks.monitor.concept import select_inputs
from tasks.monitor.service_level import build_watched_outcomes, watch_levels

START, DAY, N_GATE, N_CHANGED, N_ALL, LAG = (
    datetime(2024, 1, 1, tzinfo=UTC),
    timedelta(days=1),
    250,
    350,
    500,
    5,
)
ABOUT = small_about(quantiles=[0.1, 0.5, 0.9])
TIMES = pl.Series("event_time", [START + t * DAY for t in range(N_ALL)], dtype=pl.Datetime("us", "UTC"))
AT = {"reference": 100, "since": 300}
ONE = {"a NaN": math.nan, "an infinity": math.inf, "a spike": 1e12, "a negative spike": -1e12, "a zero": 0.0}
FIGURES = {"loss": "high", "concept": "high", "coverage": "low"}


def build_outcomes(factor):
    """Errors are *factor* times as large from N_CHANGED on, and the input says how large."""
    rng = np.random.default_rng(4)
    x = np.exp(0.4 * rng.normal(size=N_ALL))
    scale = np.concatenate([x[:LAG], x[:-LAG]]) * np.where(np.arange(N_ALL) < N_CHANGED, 1.0, factor)
    frames = []
    for step in range(1, 6):
        y = scale * rng.normal(size=N_ALL)
        low, high = np.quantile(y[:N_CHANGED], [0.1, 0.9])
        columns = {"y": y, "loss": y**2, "q_0.1": low, "q_0.5": 0.0, "q_0.9": high}
        frames.append(pl.DataFrame({"series_id": "s", "step": step, "event_time": TIMES, **columns}))
    streams = pl.DataFrame({"event_time": TIMES, "s:x": x, "s:constant": 1.0})
    return pl.concat(frames).with_columns(is_seen=pl.lit(value=False)), streams


def watch(outcomes, streams, about=ABOUT):
    is_reference = build_calendar(about).nominal_known_at() <= START + N_GATE * DAY
    watched = build_watched_outcomes(outcomes, about, is_reference, TIMES)
    inputs = select_inputs(streams, watched.times, LAG).drop("event_time").to_numpy()
    levels = watch_levels(watched, about, 0.5, 0.05 / 30, inputs)
    return {level.figure: level for level in levels}


def put(frame, column, day, value):
    return frame.with_columns(
        pl.when(pl.col("event_time") == START + day * DAY).then(value).otherwise(column).alias(column)
    )


@pytest.mark.parametrize("when", AT)
@pytest.mark.parametrize("fault", ONE)
@pytest.mark.parametrize("column", ["loss", "y", "s:x", "s:constant"])
def test_one_bad_value_hides_no_change_and_is_none(column, fault, when):
    for factor in (1.0, 2.0):
        outcomes, streams = build_outcomes(factor)
        if column in streams.columns:
            streams = put(streams, column, AT[when], ONE[fault])
        else:
            outcomes = put(outcomes, column, AT[when], ONE[fault])
        levels = watch(outcomes, streams)
        assert {level.unwatched for level in levels.values()} == {None}
        is_open = {figure: level.direction for figure, level in levels.items()}
        assert is_open == (FIGURES if factor > 1 else dict.fromkeys(FIGURES)), factor
        if factor > 1:
            assert all(level.alarm_at < START + (N_CHANGED + 100) * DAY for level in levels.values())


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (pl.lit(value=False), "0 steps of the gate have an outcome"),
        (pl.col("event_time") >= START + N_GATE * DAY, "0 steps of the gate have an outcome"),
        (pl.col("event_time") < START + N_GATE * DAY, "0 steps since the promotion have an outcome"),
        (pl.col("event_time") < START + 400 * DAY, "no outcome since 2025-02-03"),
    ],
)
@pytest.mark.parametrize("is_dropped", [True, False])
def test_outcomes_that_are_absent_or_unknown_are_named(condition, reason, is_dropped):
    outcomes, streams = build_outcomes(1.0)
    if is_dropped:
        outcomes = outcomes.filter(condition)
    else:
        outcomes = outcomes.with_columns(pl.when(condition).then(pl.col("y", "loss")))
    levels = watch(outcomes, streams)
    assert set(levels) >= {"loss", "coverage"}
    for level in levels.values():
        assert reason in level.unwatched
        assert level.direction is None


@pytest.mark.parametrize("is_dropped", [True, False])
@pytest.mark.parametrize("first", [0, N_GATE])
def test_intervals_that_are_absent_are_named_or_count_as_not_covered(is_dropped, first):
    outcomes, streams = build_outcomes(1.0)
    is_since = pl.col("event_time") >= START + first * DAY
    names = ["q_0.1", "q_0.9"]
    if is_dropped and first == 0:
        outcomes = outcomes.drop(names)
    else:
        outcomes = outcomes.with_columns(pl.when(~is_since).then(pl.col(names)))
    coverage = watch(outcomes, streams)["coverage"]
    if first == 0:
        assert coverage.unwatched == "the champion's forecasts have no such interval"
    else:
        assert coverage.direction == "low"


def test_an_alarm_that_is_open_stays_when_outcomes_stop():
    outcomes, streams = build_outcomes(2.0)
    for level in watch(outcomes.filter(pl.col("event_time") < START + 450 * DAY), streams).values():
        assert level.direction == FIGURES[level.figure]
        assert "no outcome since 2025-03-25" in level.unwatched


def test_a_constant_loss_is_watched():
    outcomes, streams = build_outcomes(1.0)
    outcomes = outcomes.with_columns(
        loss=pl.when(pl.col("event_time") < TIMES[N_CHANGED]).then(3.0).otherwise(3.1)
    )
    levels = watch(outcomes, streams)
    assert (levels["loss"].direction, levels["concept"].direction) == ("high", "high")


def test_inputs_that_are_gone_leave_the_loss_itself():
    outcomes, streams = build_outcomes(2.0)
    for gone in (
        streams.drop("s:x"),
        streams.select("event_time"),
        streams.with_columns(pl.lit(math.nan).alias("s:x")),
    ):
        levels = watch(outcomes, gone)
        assert levels["loss"].direction == "high"
        assert levels["concept"].direction == "high"
