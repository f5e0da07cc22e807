"""The published rows as the monitor reads them: by time or by groups of series, never all."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.frames import SERIES, get_newest_known_at, select_as_of
from tasks.features import add_target

GROUP_CELLS = 400_000  # values of a group of series in memory; a matter of cost alone


class RowsSpan(NamedTuple):
    """What the rows reach over.

    first, last: event_time of the steps that have come; steps of covariates known ahead are later.
    last_row: event_time of the last row.
    newest_known_at: the data's own now.
    series_ids: sorted, those with a step that has come.
    n_rows: number of rows.
    """

    first: datetime
    last: datetime
    last_row: datetime
    newest_known_at: datetime
    series_ids: tuple[str, ...]
    n_rows: int


def find_ends(rows: pl.LazyFrame) -> tuple[datetime, datetime]:
    """The first and the last event_time of *rows*. Raises FrameError when there are none."""
    ends = _compute_ends(rows)
    return ends["first"].item(), ends["last"].item()


def compute_span(rows: pl.LazyFrame, about: About, calendar: Calendar) -> RowsSpan:
    """The span of *rows* (SERIES, all vintages). Raises FrameError when there are none."""
    ends = _compute_ends(rows)
    as_of = get_newest_known_at(ends)
    has_come = calendar.nominal_known_at() <= as_of
    ahead = select_as_of(_collect(rows.filter(~has_come)), as_of)
    early = ahead.filter(add_target(ahead, about)["y"].is_not_null())["event_time"].max()
    last = _collect(rows.filter(has_come).select(pl.col("event_time").max())).item()
    last = max(time for time in (last, early) if isinstance(time, datetime))
    ids = _collect(rows.filter(pl.col("event_time") <= last).select(pl.col("series_id").unique()))
    return RowsSpan(
        ends["first"].item(),
        last,
        ends["last"].item(),
        as_of,
        tuple(ids["series_id"].sort()),
        ends["n"].item(),
    )


def iterate_groups(
    rows: pl.LazyFrame, span: RowsSpan, n_steps: int
) -> Iterator[tuple[tuple[str, ...], pl.DataFrame]]:
    """Ids of neighbouring series, and all rows of these.

    n_steps: of the grid.
    Raises FrameError when the rows break their schema.
    """
    ids = span.series_ids
    n_columns = len(rows.collect_schema()) + 1
    size = max(1, GROUP_CELLS // (max(n_steps, span.n_rows // len(ids)) * n_columns))
    for first in range(0, len(ids), size):
        group = ids[first : first + size]
        is_inside = pl.col("series_id").is_between(pl.lit(group[0]), pl.lit(group[-1]))
        yield group, SERIES.check(_collect(rows.filter(is_inside)))


def read_time_range(rows: pl.LazyFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """The rows whose event_time is from *start* to *end*, both included."""
    return SERIES.check(_collect(rows.filter(pl.col("event_time").is_between(start, end))))


def _collect(rows: pl.LazyFrame) -> pl.DataFrame:
    return rows.collect(engine="streaming")


def _compute_ends(rows: pl.LazyFrame) -> pl.DataFrame:
    ends = _collect(
        rows.select(
            pl.col("known_at").max(),
            pl.len().alias("n"),
            first=pl.col("event_time").min(),
            last=pl.col("event_time").max(),
        )
    )
    get_newest_known_at(ends)
    return ends
