"""The ledger of gaps: steps of the calendar that are missing between the rows of a series."""

import polars as pl

from tasks.core.calendar import Calendar
from tasks.core.frames import UTC, FrameSchema

GAPS = FrameSchema(
    "gaps",
    {"series_id": pl.String(), "start": UTC, "end": UTC, "n_steps": pl.Int64()},
    ("series_id", "start"),
)


def find_gaps(rows: pl.DataFrame, calendar: Calendar) -> pl.DataFrame:
    """Runs of steps without a row between the first and the last row of each series, as GAPS.

    rows: event_time rises within each series.
    Returns series_id, start, end (both missing) and n_steps.
    """
    if rows.is_empty():
        return pl.DataFrame(schema=dict(GAPS.columns))
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    grid = calendar.grid(first, last)
    steps = rows.select("series_id", "event_time").unique(maintain_order=True)
    steps = steps.with_columns(grid.search_sorted(steps["event_time"]).cast(pl.Int64).alias("at"))
    before = pl.col("at").shift().over("series_id")
    holes = steps.with_columns(n_steps=pl.col("at") - before - 1).filter(pl.col("n_steps") > 0)
    start, end = grid.gather(holes["at"] - holes["n_steps"]), grid.gather(holes["at"] - 1)
    return pl.DataFrame(
        [holes["series_id"], start.alias("start"), end.alias("end"), holes["n_steps"]]
    ).select(pl.col(c).cast(t) for c, t in GAPS.columns.items())
