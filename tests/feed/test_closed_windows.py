"""A window closes by what has arrived; what one series says of its own time silences no other."""

import json
from datetime import timedelta

import polars as pl
import pytest
from landed import NOON, bar, land, record, rows_of

from tasks.core.calendar import Calendar
from tasks.core.errors import SourceError
from tasks.core.records import RECORDS
from tasks.core.reports.feed import FeedWindow
from tasks.edges.artifacts import read_report
from tasks.edges.delta import compact_table
from tasks.edges.settings import read_settings
from tasks.feed.window import NAME, build_window, write_window
from tasks.ingest.feed import FeedRows
from tasks.ingest.params import FeedSource
from tasks.ingest.wizard.use import find_window, write_links


@pytest.fixture
def home(tmp_path, monkeypatch):
    """TIDEMILL_HOME of its own."""
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    read_settings.cache_clear()
    yield tmp_path
    read_settings.cache_clear()


def _sent(*bars):
    """A batch of (offset, bar, minutes after noon at which it was produced)."""
    rows = [
        record(json.dumps(one).encode(), offset, at=NOON + timedelta(minutes=minutes))
        for offset, one, minutes in bars
    ]
    return pl.DataFrame(rows, schema=dict(RECORDS))


def test_a_series_far_ahead_in_event_time_silences_no_other(tmp_path):
    rogue = bar("rogue", minutes=-20 * 60)  # 20 hours ahead of its production
    table = land(
        tmp_path / "d" / "table",
        [_sent((0, bar("a", minutes=125), 0), (1, bar("a", minutes=5), 1), (2, rogue, 2))],
    )
    window = build_window(table, "1h", 3600, None)
    assert (window.end, window.n_series) == (NOON - timedelta(hours=1), 2)


def test_a_series_that_is_silent_by_arrival_holds_no_window_open(tmp_path):
    table = land(
        tmp_path / "d" / "table", [_sent((0, bar("quiet", minutes=300), 0), (1, bar("a", minutes=-121), 130))]
    )
    assert build_window(table, "1h", 3600, None).end == NOON + timedelta(hours=2)
    # Heard of, it holds all of them open: nothing lies before its only row
    assert build_window(table, "1h", 3 * 3600, None) is None


def test_a_window_changes_by_a_late_row_and_not_by_tidying(tmp_path):
    folder = tmp_path / "d" / "table"
    first = _sent((0, bar("a", minutes=125), 0), (1, bar("a", minutes=65), 1))
    table = land(folder, [first, _sent((2, bar("a", minutes=5), 2))])
    before = build_window(table, "1h", 3600, None)
    compact_table(table)
    table.refresh()
    assert build_window(table, "1h", 3600, before) == before
    table = land(folder, [_sent((3, bar("a", minutes=64), 3))])
    after = build_window(table, "1h", 3600, before)
    shown = rows_of(table).filter(pl.col("event_time") < NOON - timedelta(hours=1))
    assert (after.end, after.n_rows, shown.height) == (before.end, before.n_rows + 1, before.n_rows + 1)


def _shown(folder):
    (file,) = FeedRows(FeedSource(kind="feed"), Calendar("continuous", "1m", 0.0), folder).read()
    return file.rows.select("series_id", "event_time", "price").rows()


def test_ingest_reads_the_closed_rows_before_and_after_tidying_and_whatever_lands_after(home):
    folder, source = home / "feed" / "d" / "table", home / "source"
    source.mkdir()
    table = land(
        folder,
        [
            _sent((0, bar("a", minutes=125, price=3.0), 0)),
            _sent((1, bar("a", minutes=65, price=4.0), 1), (2, bar("a", minutes=5), 2)),
        ],
    )
    write_window(source, build_window(table, "1h", 3600, None))
    oracle = [("a", NOON - timedelta(minutes=125), 3.0), ("a", NOON - timedelta(minutes=65), 4.0)]
    assert _shown(source) == oracle
    compact_table(table)
    land(folder, [_sent((3, bar("a", minutes=64), 3))])
    assert _shown(source) == oracle


def test_a_table_that_lacks_rows_of_the_window_is_named(home):
    folder = home / "feed" / "d" / "table"
    window = build_window(
        land(folder, [_sent((0, bar("a", minutes=125), 0), (1, bar("a"), 1))]), "1h", 3600, None
    )
    write_window(home, window.model_copy(update={"n_rows": 7}))
    with pytest.raises(SourceError, match=f"has 7 rows, but {folder} has 1 of them"):
        _shown(home)


def test_use_of_a_feed_keeps_its_window_and_takes_no_other(home):
    source = home / "source"
    window = FeedWindow(dataset="d", version=1, marks={}, end=NOON, watermark=NOON, n_rows=1, n_series=1)
    write_links(source, "feed", [], window)
    write_links(source, "feed", [], find_window("d", source))
    assert read_report(source / NAME, FeedWindow) == window
    assert find_window("other", source) is None
