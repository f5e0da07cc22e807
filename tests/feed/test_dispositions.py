"""What a record becomes depends on its series' records before it, not on batches or restarts;
what is late or open never reaches features."""

import itertools
import json
from datetime import timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import NOON, bar, land, land_all, params_of, records_of, rows_of
from polars.testing import assert_frame_equal

COLUMNS = [
    "_source",
    "_offset",
    "disposition",
    "month",
    "series_id",
    "event_time",
    "_rule",
    "price",
    "volume",
]


@st.composite
def streams(draw):
    """Records of three series, hours apart, with repeats, corrections, poison, tombstones, and a
    field that comes later."""
    values = []
    for _ in range(draw(st.integers(1, 25))):
        made = bar(
            draw(st.sampled_from("abc")),
            minutes=draw(st.integers(0, 40)) * 30,
            price=draw(st.integers(1, 2)),
            volume=draw(st.sampled_from([None, 1])),
        )
        kind = draw(st.integers(0, 12))
        extra = {"extra": draw(st.sampled_from([1, "x", None]))} if kind in (10, 11) else {}
        values.append(b"x" if kind == 0 else None if kind == 1 else json.dumps({**made, **extra}).encode())
    return values


@settings(deadline=None, max_examples=25)
@given(values=streams(), data=st.data())
def test_places_depend_neither_on_batches_nor_on_restarts(values, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t")
    records = records_of(values)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(values)), max_size=4)) | {0, len(values)})
    batches = [records[begin:end] for begin, end in itertools.pairwise(cuts)]
    whole = rows_of(land(folder / "whole", [records]))
    split = rows_of(land(folder / "split", batches))
    for batch in batches:
        restarted = land(folder / "restarted", [batch])
    shown = [c for c in [*COLUMNS, "extra"] if c in whole.columns]
    assert_frame_equal(whole.select(shown), split.select(shown))
    assert_frame_equal(whole.select(shown), rows_of(restarted).select(shown))


def test_a_silent_series_and_its_ids_are_remembered_over_a_restart(tmp_path):
    """`b` spoke last a month before `a`; what it sends again is nothing new, and what is older
    than its newest is late."""
    month = 30 * 24 * 60
    first = [bar("b", minutes=month, price=1), bar("b", minutes=month - 10, price=2), bar("a")]
    again = [bar("b", minutes=month - 10, price=2), bar("b", minutes=2 * month)]
    records = records_of([json.dumps(one).encode() for one in [*first, *again]])
    land(tmp_path, [records[:3]])
    rows = rows_of(land(tmp_path, [records[3:]]))
    assert rows.select("_offset", "disposition").rows() == [(0, "row"), (1, "row"), (2, "row"), (4, "late")]


def test_late_within_lateness_is_a_row_of_its_own_month_and_beyond_it_is_kept_as_late(tmp_path):
    params = params_of(lateness_s=40 * 86_400)
    values = [bar(), bar(minutes=30 * 24 * 60), bar(minutes=60 * 24 * 60)]
    rows = rows_of(land(tmp_path, [records_of([json.dumps(one).encode() for one in values])], params))
    assert rows.select("disposition", "month", "price").rows() == [
        ("row", "2024-01", 1.0),
        ("row", "2023-12", 1.0),
        ("late", "2023-11", 1.0),
    ]


def test_an_open_bar_is_no_row_by_its_field_or_by_the_time_it_was_produced(tmp_path):
    values = [
        json.dumps({**bar(minutes=m), "closed": closed}).encode()
        for m, closed in ((20, False), (20, True), (5, True))
    ]
    by_field = rows_of(land(tmp_path / "field", [records_of(values)], params_of(closed_field="closed")))
    assert by_field["disposition"].to_list() == ["unclosed", "row", "row"]
    assert "closed" not in by_field.columns
    values = [json.dumps(bar(minutes=m)).encode() for m in (20, 5)]
    by_time = rows_of(land(tmp_path / "time", [records_of(values)], every="15m"))
    assert by_time["disposition"].to_list() == ["row", "unclosed"]


def test_a_bar_sent_again_with_its_closing_flag_is_a_duplicate_after_a_restart_too(tmp_path):
    params = params_of(closed_field="closed")
    value = json.dumps({**bar(), "closed": True}).encode()
    land(tmp_path, [records_of([value])], params)
    assert rows_of(land(tmp_path, [records_of([value, value])[1:]], params))["disposition"].to_list() == [
        "row"
    ]


def test_a_row_sent_again_after_a_field_came_is_still_the_same_row(tmp_path):
    old, new = bar(minutes=30, volume=1), {**bar(volume=1), "extra": 7}
    batches = [records_of([json.dumps(v).encode() for v in (old, new, old)])[k : k + 1] for k in range(3)]
    assert rows_of(land(tmp_path, batches))["disposition"].to_list() == ["row", "row"]


def test_tombstones_keys_and_headers_are_carried(tmp_path):
    records = records_of(
        [None, json.dumps(bar()).encode()],
        key=b"k\xff",
        headers='[["trace", "7"]]',
        at=NOON + timedelta(seconds=1),
    )
    rows = rows_of(land_all(tmp_path, records))
    assert rows.select("disposition", "_key", "_headers").rows() == [
        ("tombstone", b"k\xff", '[["trace", "7"]]'),
        ("row", b"k\xff", '[["trace", "7"]]'),
    ]
    assert rows.filter(pl.col("disposition") == "tombstone").select("series_id", "price", "_raw").row(0) == (
        None,
        None,
        None,
    )
