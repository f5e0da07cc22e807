"""No stream is silently off: one that nothing watches is in the report with its reason."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from drift_runs import watch_drift
from small_release import SMALL_ABOUT, START, cutoff_at, small_rows

from tasks.core.about import About
from tasks.core.errors import FrameError
from tasks.core.frames import SERIES
from tasks.monitor.params import MonitorParams
from tasks.monitor.streams import list_unwatched

PARAMS, SEEN, ALL = MonitorParams(min_rows=20), 399, 500
NORTH = pl.col("series_id") == "north"


def since(day):
    return NORTH & (pl.col("event_time") >= START + timedelta(days=day))


def watch(rows, expected=(), about=None, seen_until=None):
    return watch_drift(rows, seen_until or cutoff_at(SEEN), PARAMS, about, expected)


def reasons(figures):
    return {row.stream: row.reason for row in figures.unwatched}


def with_load(condition, value):
    return small_rows(ALL).with_columns(load=pl.when(condition).then(value).otherwise("load"))


def test_whole_streams_are_watched_and_each_has_its_limit():
    figures = watch(small_rows(ALL))
    assert (figures.n_streams, figures.n_unwatched, figures.unwatched) == (3, 0, ())
    assert (figures.block_steps, figures.season_steps, figures.n_blocks) == (7, 7, 14)
    assert 0 <= figures.n_expected < figures.n_by_luck + 1
    assert all(row.limit >= 5 for row in figures.streams)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (with_load(since(0), None), "no value in the reference of 400 steps"),
        (with_load(since(0), float("nan")), "no value in the reference of 400 steps"),
        (with_load(since(0), float("inf")), "no value in the reference of 400 steps"),
        (with_load(since(60) & ~since(400), None), "9 blocks of 7 steps are known in the reference"),
        (with_load(since(450), None), "no value since 2021-03-25T00:00:00+00:00"),
        (with_load(since(450), 100.0), "always 100 in the last 35 steps"),
    ],
)
def test_a_stream_that_cannot_be_watched_is_named(rows, reason):
    figures = watch(rows)
    assert list(reasons(figures)) == ["north:load"]
    assert reason in reasons(figures)["north:load"]
    assert (figures.n_streams, figures.n_unwatched) == (2, 1)


def test_a_constant_is_watched():
    figures = watch(with_load(NORTH, 100.0))
    assert (figures.n_streams, figures.n_unwatched, figures.n_alarmed) == (3, 0, 0)
    figures = watch(with_load(NORTH, pl.when(since(450)).then(101.0).otherwise(100.0)))
    assert [row.stream for row in figures.streams if row.alarm_at] == ["north:load"]


def test_a_column_that_is_gone_and_one_of_text_are_named():
    rows = small_rows(ALL).with_columns(other=pl.lit(None, dtype=pl.Float64))
    found = reasons(watch(rows, expected=["series_id", "load", "temperature"]))
    assert found["*:temperature"] == "the rows have no column 'temperature', which the champion knows"
    (of_lists,) = list_unwatched(pl.Schema({"series_id": pl.String, "state": pl.List(pl.Float64)}), [])
    assert of_lists.reason == "it holds neither numbers nor categories"
    assert found["north:other"] == "no value in the reference of 400 steps"


def test_nothing_since_the_reference_is_said():
    assert (
        "3 steps since the reference, less than a block of 7"
        in (reasons(watch(small_rows(SEEN + 4)))["north:load"])
    )


def test_a_reference_that_is_too_short_is_said():
    assert (
        "9 blocks of 1 steps are known in the reference of 10 steps"
        in (reasons(watch(small_rows(ALL), seen_until=cutoff_at(9)))["north:load"])
    )


def test_no_rows_are_an_error():
    with pytest.raises(FrameError, match="There are no rows"):
        watch(small_rows(ALL).clear())


def test_steps_to_come_of_a_covariate_are_no_silence():
    """Forecast temperatures reach 50 days ahead; the load is not missing there."""
    ahead = small_rows(ALL + 50).with_columns(
        temperature=pl.col("load") / 10,
        load=pl.when(pl.col("event_time") < START + timedelta(days=ALL)).then("load"),
        known_at=pl.min_horizontal("known_at", pl.lit(cutoff_at(ALL - 1))),
    )
    figures = watch(SERIES.conform(ahead))
    assert (figures.n_unwatched, figures.n_streams, figures.n_blocks) == (0, 5, 14)


def test_a_week_of_hours_with_a_short_reference_is_watched_by_days():
    about = About.model_validate({**SMALL_ABOUT, "every": "1h", "season_steps": 168})
    start = datetime(2024, 1, 1, tzinfo=UTC)
    hours = pl.int_range(1200, eager=True)
    rows = small_rows(1200).with_columns(event_time=start + pl.concat([hours, hours]) * timedelta(hours=1))
    rows = SERIES.conform(rows.with_columns(known_at=pl.col("event_time") + timedelta(hours=1)))
    figures = watch(rows, about=about, seen_until=start + timedelta(hours=700))
    assert (figures.n_streams, figures.block_steps, figures.season_steps) == (3, 24, 168)
    assert figures.note is None
