"""What the chain may see of the feed: rows below certain offsets, up to the end of a closed window.

A window of event time closes when the newest row of every series that still sends is past its end.
`window.json` says by offsets which rows are meant, so the same rows are read however the table was
merged or vacuumed since. It changes when a window closes, or when a late row changes a window that
was closed. DVC sees a changed dependency then, and the chain runs.
"""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from tasks.core.reports.feed import FeedWindow
from tasks.edges import files as disk
from tasks.edges.artifacts import write_report
from tasks.edges.delta import VersionedTable
from tasks.feed.bars import BarsTable
from tasks.feed.dispositions import ROW

NAME = "window.json"
MAX_CHANGED = 100  # bars that window.json names as changed; n_changed counts all


def build_window(
    table: VersionedTable, every: str, silent_s: float, before: FeedWindow | None
) -> FeedWindow | None:
    """The window that the table closes now.

    every: length of a window (`1h`, `1d`), counted from 1970.
    silent_s: a series whose newest row was produced that long before the table's newest holds no
    window open.
    Returns *before* when nothing has changed in it, None when no window has closed yet.
    """
    if (newest := _select_active_series(table, silent_s)) is None:
        return None
    watermark, end = _compute_window_end(newest, every)
    n_rows = table.count_rows_below("event_time", end, {"disposition": ROW})
    if not n_rows:
        return None
    if before is not None and before.end == end and before.n_rows == n_rows:
        return before
    return FeedWindow(
        dataset=table.folder.parent.name,
        version=table.version,
        marks=table.list_offsets(),
        end=end,
        watermark=watermark,
        n_rows=n_rows,
        n_series=newest.height,
    )


def build_open_window(table: VersionedTable) -> FeedWindow | None:
    """All rows that have landed, the newest steps of series that are ahead among them.

    None while there is none.
    """
    rows = table.scan({"disposition": ROW}, columns=["series_id", "event_time"])
    first, last, n_rows, n_series = (
        rows.select(
            pl.col("event_time").min().alias("first"),
            pl.col("event_time").max().alias("last"),
            pl.len(),
            pl.col("series_id").n_unique(),
        )
        .collect()
        .row(0)
    )
    if not n_rows:
        return None
    return FeedWindow(
        dataset=table.folder.parent.name,
        version=table.version,
        marks=table.list_offsets(),
        end=last + timedelta(microseconds=1),
        watermark=first,
        n_rows=n_rows,
        n_series=n_series,
    )


def build_bars_window(
    bars: BarsTable, ticks: VersionedTable, every: str, silent_s: float, before: FeedWindow | None
) -> FeedWindow | None:
    """The same of a feed of ticks; what closes now goes into *bars* first.

    Returns in addition `changed`: the bars that late ticks have changed since *before*, as
    [series_id, event_time], the newest MAX_CHANGED of n_changed. None while there are no bars.
    """
    if (newest := _select_active_series(ticks, silent_s)) is None:
        return None
    watermark, end = _compute_window_end(newest, every)
    bars.close(ticks, end)
    n_rows = sum(bars.table.count_rows_by("month").values())
    if not n_rows or bars.end is None:
        return None
    name, n_closings_before = bars.table.folder.name, 0
    if before is not None and before.bars == name and before.closings is not None:
        n_closings_before = before.closings
        if (n_closings_before, before.n_rows, before.end) == (bars.n_closings, n_rows, bars.end):
            return before
    changed = bars.find_changed_after(n_closings_before)
    return FeedWindow(
        dataset=ticks.folder.parent.name,
        version=ticks.version,
        marks=dict(sorted(bars.offsets.items())),
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
    """Newest event_time of each series that still sends; None for a table without rows.

    Which series send is decided by times of production: no event time, however far ahead, makes
    another series silent.
    """
    only = {"disposition": ROW}
    last = table.find_greatest("_timestamp", only)
    if last is None:
        return None
    active_since = last - timedelta(seconds=silent_s)
    columns = ["series_id", "event_time", "_timestamp"]
    recent = table.scan(only, {"_timestamp": active_since}, columns).filter(
        pl.col("_timestamp") >= active_since
    )
    active = recent.group_by("series_id").agg(pl.col("event_time").max()).collect()
    # An older record may have a later event time
    rows = table.scan(only, {"event_time": active["event_time"].min()}, columns[:2])
    return (
        rows.join(active.lazy().select("series_id"), on="series_id", how="semi")
        .group_by("series_id")
        .agg(pl.col("event_time").max())
        .collect()
    )


def write_window(folder: Path, window: FeedWindow) -> None:
    """Put *window* into *folder* as window.json, by rename."""
    disk.run_durability_hook("window closed")
    write_report(folder / NAME, window)
    disk.run_durability_hook("window written")
