"""Where the value of a feature comes from: the newest row that goes into it, by its definition."""

from datetime import datetime
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.kinds import get_kind
from tasks.features.columns import build_declared_columns
from tasks.features.params import FeatureParams
from tasks.features.sources import Column, filter_finite
from tasks.features.table import add_target


class ValueSource(NamedTuple):
    """The newest row that goes into a value: its step, and when it was known.

    known_at: None for what follows from the step alone. Both are None where no row goes into it.
    """

    event_time: datetime | None
    known_at: datetime | None


def find_value_sources(
    rows: pl.DataFrame,
    about: About,
    params: FeatureParams,
    calendar: Calendar,
    origin: tuple[str, datetime],
    as_of: datetime,
) -> dict[str, ValueSource]:
    """By column, the newest row behind its value at *origin*, a series and a step.

    rows: SERIES with all vintages. as_of: what was known then counts.
    A row counts only with all values that the column reads. A user's function counts as reading
    the origin's own row.
    """
    series_id, step = origin
    vintages = (
        add_target(rows.filter((pl.col("series_id") == series_id) | (pl.col("event_time") == step)), about)
        .with_columns(z=get_kind(about.target).encode(about.target))
        .filter(pl.col("known_at") <= as_of)
        .sort("known_at")
    )
    # What is known ahead is read as the origin's own cutoff knew it
    by_cutoff = vintages.filter(pl.col("known_at") <= calendar.get_cutoff(step))
    known, ahead = (
        _keep_newest(part.filter(pl.col("series_id") == series_id)) for part in (vintages, by_cutoff)
    )
    at_origin = _keep_newest(vintages.filter(pl.col("event_time") == step))
    first = known.select(pl.col("event_time").min()).item() or step
    if calendar.sessions is not None:
        first = max(first, calendar.sessions[0])
    steps = calendar.grid(first, step).to_list()
    position = len(steps) - 1
    steps += calendar.list_next_steps(step, about.horizon_steps).to_list()

    def find(column: Column) -> ValueSource:
        if column.sees == "row":
            return ValueSource(step, None)
        newest = position - column.newest_steps_back
        oldest = newest if column.sees == "ahead" else max(position - column.lookback_steps, 0)
        if not 0 <= newest < len(steps):
            return ValueSource(None, None)
        read = {"own": known, "ahead": ahead, "others": at_origin}[column.sees]
        if (of_series := column.sources[0].of_series) is not None:
            read = read.filter(pl.col("series_id") == of_series)
        is_read = pl.col("event_time").is_between(steps[oldest], steps[newest])
        needed = {need for source in column.sources for need in source.needs}
        for name in needed:
            is_read &= filter_finite(pl.col("y" if name == about.target.column else name)).is_not_null()
        found = read.filter(is_read).sort("event_time", "known_at").select("event_time", "known_at").tail(1)
        return ValueSource(*found.row(0)) if found.height else ValueSource(None, None)

    return {column.name: find(column) for column in build_declared_columns(about, params)}


def _keep_newest(ascending: pl.DataFrame) -> pl.DataFrame:
    return ascending.unique(["series_id", "event_time"], keep="last", maintain_order=True)
