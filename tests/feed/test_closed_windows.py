"""A window closes by what has arrived; what one series says of its own time silences no other."""

import json
from datetime import timedelta

import polars as pl
from landed import NOON, bar, land, record, rows_of

from tasks.core.records import RECORDS
from tasks.feed.window import window_of


def _sent(*bars):
    """A batch of (offset, bar, minutes after noon at which it was produced)."""
    rows = [record(json.dumps(one).encode(), offset, at=NOON + timedelta(minutes=minutes)) for offset, one, minutes in bars]
    return pl.DataFrame(rows, schema=dict(RECORDS))


def test_a_series_far_ahead_in_event_time_silences_no_other(tmp_path):
    rogue = bar("rogue", minutes=-20 * 60)  # 20 hours ahead of its production
    table = land(tmp_path / "d" / "table", [_sent((0, bar("a", minutes=125), 0), (1, bar("a", minutes=5), 1), (2, rogue, 2))])
    window = window_of(table, "1h", 3600, None)
    assert (window["end"], window["n_series"]) == ((NOON - timedelta(hours=1)).isoformat(), 2)


def test_a_series_that_is_silent_by_arrival_holds_no_window_open(tmp_path):
    table = land(tmp_path / "d" / "table", [_sent((0, bar("quiet", minutes=300), 0), (1, bar("a", minutes=-121), 130))])
    assert window_of(table, "1h", 3600, None)["end"] == (NOON + timedelta(hours=2)).isoformat()
    assert window_of(table, "1h", 3 * 3600, None) is None  # heard of, it holds all of them open: nothing lies before its only row


def test_a_window_changes_by_a_late_row_and_not_by_tidying(tmp_path):
    folder = tmp_path / "d" / "table"
    first = _sent((0, bar("a", minutes=125), 0), (1, bar("a", minutes=65), 1))
    table = land(folder, [first, _sent((2, bar("a", minutes=5), 2))])
    before = window_of(table, "1h", 3600, None)
    table.tidy()
    table.refresh()
    assert window_of(table, "1h", 3600, before) == before
    table = land(folder, [_sent((3, bar("a", minutes=64), 3))])
    after = window_of(table, "1h", 3600, before)
    shown = rows_of(table).filter(pl.col("event_time") < NOON - timedelta(hours=1))
    assert (after["end"], after["n_rows"], shown.height) == (before["end"], before["n_rows"] + 1, before["n_rows"] + 1)
