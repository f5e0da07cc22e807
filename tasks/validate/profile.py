"""What the clean rows look like: figures of each series and column."""

from typing import Any

import polars as pl

from tasks.core.frames import SERIES


def build_profile(rows: pl.DataFrame) -> dict[str, Any]:
    """For each series and value column: n rows, n_null, min, max, mean, sd (of the sample), and
    the first and last event_time, ISO.
    """
    columns = [c for c in rows.columns if c not in SERIES.key]
    time = pl.col("event_time")
    kinds = {
        "n": pl.len(),
        "first": time.min().dt.to_string("iso:strict"),
        "last": time.max().dt.to_string("iso:strict"),
    }
    per_column = {
        "n_null": pl.Expr.null_count,
        "min": pl.Expr.min,
        "max": pl.Expr.max,
        "mean": pl.Expr.mean,
        "sd": pl.Expr.std,
    }
    figures = [
        make(pl.col(c)).alias(f"{i}:{name}")
        for i, c in enumerate(columns)
        for name, make in per_column.items()
    ]
    table = (
        rows.group_by("series_id").agg(*(e.alias(k) for k, e in kinds.items()), *figures).sort("series_id")
    )
    return {
        row["series_id"]: {
            c: {k: row[k] for k in kinds} | {name: row[f"{i}:{name}"] for name in per_column}
            for i, c in enumerate(columns)
        }
        for row in table.iter_rows(named=True)
    }
