"""Statistics of the clean rows, by series and column."""

import polars as pl

from tasks.core.frames import SERIES
from tasks.core.reports.validate import CleanProfile, ColumnProfile


def build_profile(rows: pl.DataFrame) -> CleanProfile:
    """For each series and value column of *rows* (SERIES); texts have no min, max, mean and sd."""
    columns = [c for c in rows.columns if c not in SERIES.key]
    time = pl.col("event_time")
    of_series = {"n": pl.len(), "first": time.min(), "last": time.max()}
    of_column = {
        "n_null": pl.Expr.null_count,
        "min": pl.Expr.min,
        "max": pl.Expr.max,
        "mean": pl.Expr.mean,
        "sd": pl.Expr.std,
    }
    statistics = [
        (
            compute(pl.col(c))
            if name == "n_null" or rows.schema[c].is_numeric()
            else pl.lit(None, pl.Float64)
        ).alias(f"{i}:{name}")
        for i, c in enumerate(columns)
        for name, compute in of_column.items()
    ]
    table = (
        rows.group_by("series_id")
        .agg(*(e.alias(k) for k, e in of_series.items()), *statistics)
        .sort("series_id")
    )
    return CleanProfile(
        {
            row["series_id"]: {
                c: ColumnProfile(
                    **{k: row[k] for k in of_series}, **{name: row[f"{i}:{name}"] for name in of_column}
                )
                for i, c in enumerate(columns)
            }
            for row in table.iter_rows(named=True)
        }
    )
