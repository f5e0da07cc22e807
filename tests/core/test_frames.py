"""Schemas refuse what they do not promise; what was known at a moment is picked in one place."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tasks.core.errors import FrameError
from tasks.core.frames import (
    FEATURES,
    FORECAST,
    HISTORY,
    QUARANTINE,
    REPEATED,
    SERIES,
    SERVED,
    FrameSchema,
    format_quantile_columns,
    select_as_of,
)
from tasks.core.frames import UTC as UTC_DTYPE

START = datetime(2024, 1, 1, tzinfo=UTC)
SCHEMAS = [SERIES, REPEATED, QUARANTINE, FEATURES, FORECAST, HISTORY, SERVED]
VINTAGES = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 6)), unique=True, max_size=20
)


def hours(n):
    return START + timedelta(hours=n)


def series_of(rows):
    columns = list(zip(*rows, strict=True)) if rows else [[], [], []]
    frame = pl.DataFrame(
        {"series_id": columns[0], "event_time": map(hours, columns[1]), "known_at": map(hours, columns[2])},
        strict=False,
    )
    frame = frame.with_columns(
        pl.col("series_id").cast(pl.String), pl.col("event_time", "known_at").cast(UTC_DTYPE)
    )
    return SERIES.conform(frame.with_columns(value=pl.int_range(pl.len()).cast(pl.Float64)))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.name)
def test_empty_frame_of_its_columns_passes(schema):
    empty = pl.DataFrame(schema=dict(schema.columns))
    assert schema.check(schema.conform(empty)).is_empty()


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.name)
def test_each_column_is_missed_by_name(schema):
    empty = pl.DataFrame(schema=dict(schema.columns))
    for column in schema.columns:
        with pytest.raises(FrameError, match=rf"{schema.name}: column\(s\) \['{column}'\] are missing"):
            schema.check(empty.drop(column))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.name)
def test_each_column_of_another_type_is_named(schema):
    empty = pl.DataFrame(schema=dict(schema.columns))
    for column in schema.columns:
        with pytest.raises(FrameError, match=f"column '{column}' is Binary"):
            schema.check(empty.with_columns(pl.lit(None).cast(pl.Binary).alias(column)))


def test_further_columns_have_the_schema_type_or_are_refused():
    rows = series_of([("a", 0, 1)])
    for other in (pl.lit(1.0), pl.lit("x"), pl.lit("x").cast(pl.Categorical)):
        assert SERIES.check(rows.with_columns(other=other)).height == rows.height
    for other in (pl.lit(1), pl.lit(value=True), pl.lit(1.0).cast(pl.Float32)):
        with pytest.raises(FrameError, match=r"'other' .* is not part of the schema"):
            SERIES.check(rows.with_columns(other=other))
    with pytest.raises(FrameError, match=r"'other' .* is not part of the schema"):
        FrameSchema("closed", {"series_id": pl.String}, ("series_id",)).check(
            rows.select("series_id", other=pl.lit(1.0))
        )


def test_rows_out_of_order_and_repeated_keys_are_refused():
    rows = series_of([("a", 0, 1), ("a", 1, 2), ("b", 0, 1)])
    with pytest.raises(FrameError, match="not sorted by"):
        SERIES.check(rows.reverse())
    with pytest.raises(FrameError, match=r"the key \['series_id', 'event_time', 'known_at'\] repeats"):
        SERIES.conform(pl.concat([rows, rows]))
    assert SERIES.conform(rows.reverse()).equals(rows)
    twice = pl.concat([rows, rows]).with_columns(rule=pl.lit("r"), reason=pl.lit("why"))
    assert QUARANTINE.conform(twice).height == 6  # a row may fail again


def test_local_times_and_milliseconds_become_utc_microseconds():
    rows = series_of([("a", 0, 1)])
    berlin = rows.with_columns(
        pl.col("event_time").dt.convert_time_zone("Europe/Berlin").dt.cast_time_unit("ms")
    )
    assert SERIES.conform(berlin).equals(rows)


@settings(deadline=None)
@given(rows=VINTAGES, at=st.integers(-1, 7))
def test_as_of_picks_the_latest_vintage_known_by_then(rows, at):
    frame = series_of(rows)
    wanted = {}
    for series, event, known in sorted(rows):
        if known <= at:
            wanted[series, hours(event)] = hours(known)
    got = select_as_of(frame, hours(at))
    assert {
        row[:2]: row[2] for row in got.select("series_id", "event_time", "known_at").iter_rows()
    } == wanted
    assert got.height == len(wanted)
    assert SERIES.check(got).equals(got)


@settings(deadline=None)
@given(rows=VINTAGES, at=st.integers(-1, 7), later=st.integers(0, 5))
def test_as_of_does_not_see_what_was_known_later(rows, at, later):
    """Rows known after the moment change nothing, and looking earlier at a later look is looking
    earlier."""
    frame = series_of(rows)
    assert_frame_equal(
        select_as_of(frame, hours(at)), select_as_of(frame.filter(pl.col("known_at") <= hours(at)), hours(at))
    )
    assert_frame_equal(
        select_as_of(frame.sample(fraction=1, shuffle=True, seed=later), hours(at)),
        select_as_of(frame, hours(at)),
    )


def test_quantile_columns_are_named_by_their_quantile():
    assert format_quantile_columns([0.1, 0.5, 0.975]) == ["q_0.1", "q_0.5", "q_0.975"]
