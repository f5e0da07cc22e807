"""What the chain may see of the feed: rows below certain marks, up to a moment at which a window of
event time has closed.

A window closes when the newest row of every series that still speaks lies past its end.
`window.json` says up to where rows are meant, by marks: the same rows come out however the table
was merged or vacuumed since. It changes when a window closes, or when a late row changes a window
that was closed; DVC sees a changed dependency then, and the chain runs.
"""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from tasks.core.reports.feed import FeedWindow
from tasks.edges import files as disk
from tasks.edges.artifacts import write_report
from tasks.edges.delta import VersionedTable
from tasks.feed.bars import BarsTable
from tasks.feed.sort import ROW

NAME = "window.json"
MAX_CHANGED = 100  # bars that window.json names as changed; n_changed counts all


def build_window(
    table: VersionedTable, every: str, silent_s: float, before: FeedWindow | None
) -> FeedWindow | None:
    """The window that the table closes now; *before*, when nothing has changed in it; None when
    none has closed yet.

    every: length of a window (`1h`, `1d`), counted from 1970. silent_s: a series whose newest row
    was produced that long before the table's newest holds no window open.
    """
    if (newest := _select_active_series(table, silent_s)) is None:
        return None
    watermark, end = _compute_window_end(newest, every)
    shown = table.count_rows_below("event_time", end, {"place": ROW})
    if not shown:
        return None
    if before is not None and before.end == end and before.n_rows == shown:
        return before
    return FeedWindow(
        dataset=table.folder.parent.name,
        version=table.version,
        marks=table.list_offsets(),
        end=end,
        watermark=watermark,
        n_rows=shown,
        n_series=newest.height,
    )


def build_bars_window(
    bars: BarsTable, ticks: VersionedTable, every: str, silent_s: float, before: FeedWindow | None
) -> FeedWindow | None:
    """The same of a feed of ticks; what closes now goes into *bars* first.

    None while there are no bars.
    changed: bars that late ticks have changed since *before*, [series_id, event_time], the newest
    MAX_CHANGED of n_changed.
    """
    if (newest := _select_active_series(ticks, silent_s)) is None:
        return None
    watermark, end = _compute_window_end(newest, every)
    bars.close(ticks, end)
    n_rows = sum(bars.table.count_rows_by("month").values())
    if not n_rows or bars.end is None:
        return None
    name, was = bars.table.folder.name, 0
    if before is not None and before.bars == name and before.closings is not None:
        if (before.closings, before.n_rows, before.end) == (bars.n_closings, n_rows, bars.end):
            return before
        was = before.closings
    changed = bars.find_changed_after(was)
    return FeedWindow(
        dataset=ticks.folder.parent.name,
        version=ticks.version,
        marks=dict(sorted(bars.marks.items())),
        end=bars.end,
        watermark=watermark,
        n_rows=n_rows,
        n_series=newest.height,
        bars=name,
        closings=bars.n_closings,
        n_changed=changed.height,
        changed=tuple(changed.sort("event_time", "series_id").tail(MAX_CHANGED).iter_rows()),
    )


def _compute_window_end(newest: pl.DataFrame, every: str) -> tuple[datetime, datetime]:
    """(the watermark, up to where windows of *every* are closed then)."""
    watermark, end = newest.select(
        w=pl.col("event_time").min(), end=pl.col("event_time").min().dt.truncate(every)
    ).row(0)
    return watermark, end


def _select_active_series(table: VersionedTable, silent_s: float) -> pl.DataFrame | None:
    """Newest event_time of each series that speaks; None for a table without rows.

    A row's own time of event silences nobody, however far ahead.
    """
    last = table.find_greatest("_timestamp", {"place": ROW})
    if last is None:
        return None
    speaks = last - timedelta(seconds=silent_s)
    by_series = ["series_id", "event_time", "_timestamp"]
    recent = table.scan({"place": ROW}, {"_timestamp": speaks}, by_series).filter(
        pl.col("_timestamp") >= speaks
    )
    heard = recent.group_by("series_id").agg(pl.col("event_time").max()).collect()
    # An older record may tell of a later time
    rows = table.scan({"place": ROW}, {"event_time": heard["event_time"].min()}, by_series[:2])
    return (
        rows.join(heard.lazy().select("series_id"), on="series_id", how="semi")
        .group_by("series_id")
        .agg(pl.col("event_time").max())
        .collect()
    )


def write_window(folder: Path, window: FeedWindow) -> None:
    """Put *window* into *folder* as window.json, by rename."""
    disk.run_durability_hook("window closed")
    write_report(folder / NAME, window)
    disk.run_durability_hook("window written")
