"""Ticks to bars: an aggregate of each closed window of a series. Pure.

tasks.feed.bars decides which ticks are read and where bars are kept. The ticks of a window are in
the order of event time, and those of one microsecond in the order of their log (_source, then
_offset). So `first` and `last`, and the last bit of a sum, do not depend on the order and the
batches in which ticks came. A field that is null in a tick counts for nothing.

Windows by event time, watermarks and late data: Akidau et al. 2015, doi:10.14778/2824032.2824076.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl

from tasks.core.calendar import format_step_multiple
from tasks.core.frames import UTC
from tasks.feed.params import AggregateParams, BarColumn

TICK = {
    "series_id": pl.String(),
    "event_time": UTC,
    "_source": pl.String(),
    "_offset": pl.Int64(),
    "_timestamp": UTC,
}
N_TICKS = "_n_ticks"
_WINDOW = ["series_id", "bar"]
_BY: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "first": pl.Expr.first,
    "last": pl.Expr.last,
    "min": pl.Expr.min,
    "max": pl.Expr.max,
    "mean": lambda present: present.implode().list.mean(),
    # Of each window's list: added in the order of its ticks, whatever the other windows
    "sum": lambda present: present.implode().list.sum(),
    "count": pl.Expr.len,
}


def build_bars(ticks: pl.DataFrame, spec: AggregateParams, end: datetime) -> pl.DataFrame:
    """The windows that are closed at *end*, one row each, sorted by series and time.

    A window is closed when its end is not after *end*.
    ticks: TICK and the fields that *spec* reads, any order; those at or after *end* are left out.
    Returns series_id; event_time (tumbling and sliding: start of the window's last step, session:
    its first tick); known_at (session: when it was over and all its ticks were produced; else null,
    and ingest computes it); the columns, float64; _n_ticks; _timestamp (newest production among the
    ticks).
    """
    before = ticks.filter(pl.col("event_time") < end)
    is_session = spec.gap_s is not None
    joined = _join_sessions(before, spec, end) if is_session else _join_windows(before, spec, end)
    columns = {name: _build_aggregation(column) for name, column in spec.columns.items()}
    produced = pl.col("_timestamp").max()
    known = pl.max_horizontal(pl.col("closes").first(), produced) if is_session else pl.lit(None, UTC)
    bars = (
        joined.sort("event_time", "_source", "_offset")
        .group_by(_WINDOW)
        .agg(known_at=known, **columns, **{N_TICKS: pl.len().cast(pl.Int64), "_timestamp": produced})
    )
    return bars.sort(_WINDOW).rename({"bar": "event_time"})


def compute_reach_before(spec: AggregateParams, event_time: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """(first bar that a tick at *event_time* is in, first tick which that bar reads).

    Of tumbling and sliding windows.
    """
    bar = event_time.dt.truncate(spec.every)
    return bar, (
        bar.dt.offset_by(f"-{format_step_multiple(spec.every, spec.period_steps - 1)}")
        if spec.period_steps > 1
        else bar
    )


def _join_windows(ticks: pl.DataFrame, spec: AggregateParams, end: datetime) -> pl.DataFrame:
    """Each tick once for each closed window that it is in.

    bar: the start of the window's last step.
    """
    first = ticks.with_columns(bar=pl.col("event_time").dt.truncate(spec.every))
    later = [
        first.with_columns(pl.col("bar").dt.offset_by(format_step_multiple(spec.every, k)))
        for k in range(1, spec.period_steps)
    ]
    return pl.concat([first, *later]).filter(pl.col("bar").dt.offset_by(spec.every) <= end)


def _join_sessions(ticks: pl.DataFrame, spec: AggregateParams, end: datetime) -> pl.DataFrame:
    """Each tick of a closed session. bar: the session's first tick. closes: its end."""
    gap = timedelta(seconds=spec.gap_s or 0.0)
    begins = (pl.col("event_time").diff() >= gap).fill_null(value=True).over("series_id")
    joined = (
        ticks.sort("event_time")
        .with_columns(bar=pl.when(begins).then("event_time"))
        .with_columns(pl.col("bar").forward_fill().over("series_id"))
    )
    return joined.with_columns(closes=pl.col("event_time").max().over(_WINDOW) + gap).filter(
        pl.col("closes") <= end
    )


def _build_aggregation(column: BarColumn) -> pl.Expr:
    if column.of is None:
        return pl.len().cast(pl.Float64)
    return _BY[column.by](pl.col(column.of).cast(pl.Float64).drop_nulls()).cast(pl.Float64)
