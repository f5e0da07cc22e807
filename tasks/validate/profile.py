"""What the clean rows look like: figures of each series and column, and the steps that are missing."""

from typing import Any

import polars as pl

from tasks.core.calendar import Calendar
from tasks.core.frames import SERIES, UTC

GAPS: dict[str, pl.DataType] = {"series_id": pl.String(), "start": UTC, "end": UTC, "n_steps": pl.Int64()}


def profile(rows: pl.DataFrame) -> dict[str, Any]:
    """For each series and value column: n rows, n_null, min, max, mean, sd (of the sample), and the first and last event_time, ISO."""
    columns = [c for c in rows.columns if c not in SERIES.key]
    time = pl.col("event_time")
    kinds = {"n": pl.len(), "first": time.min().dt.to_string("iso:strict"), "last": time.max().dt.to_string("iso:strict")}
    per_column = {"n_null": pl.Expr.null_count, "min": pl.Expr.min, "max": pl.Expr.max, "mean": pl.Expr.mean, "sd": pl.Expr.std}
    figures = [make(pl.col(c)).alias(f"{i}:{name}") for i, c in enumerate(columns) for name, make in per_column.items()]
    table = rows.group_by("series_id").agg(*(e.alias(k) for k, e in kinds.items()), *figures).sort("series_id")
    return {
        row["series_id"]: {c: {k: row[k] for k in kinds} | {name: row[f"{i}:{name}"] for name in per_column} for i, c in enumerate(columns)}
        for row in table.iter_rows(named=True)
    }


def find_gaps(rows: pl.DataFrame, calendar: Calendar) -> pl.DataFrame:
    """Runs of steps without a row between the first and the last row of each series: series_id, start, end (both missing), n_steps."""
    if rows.is_empty():
        return pl.DataFrame(schema=GAPS)
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    grid = calendar.grid(first, last)
    steps = rows.select("series_id", "event_time").unique(maintain_order=True)
    steps = steps.with_columns(grid.search_sorted(steps["event_time"]).cast(pl.Int64).alias("at"))
    before = pl.col("at").shift().over("series_id")
    holes = steps.with_columns(n_steps=pl.col("at") - before - 1).filter(pl.col("n_steps") > 0)
    start, end = grid.gather(holes["at"] - holes["n_steps"]), grid.gather(holes["at"] - 1)
    return pl.DataFrame([holes["series_id"], start.alias("start"), end.alias("end"), holes["n_steps"]]).select(
        pl.col(c).cast(t) for c, t in GAPS.items()
    )
