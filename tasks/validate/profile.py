"""Statistics of the clean rows, by series and column."""

import polars as pl

from tasks.core.frames import SERIES
from tasks.core.group_means import SummedGroups
from tasks.core.reports.validate import CleanProfile, ColumnProfile


def build_profile(rows: pl.DataFrame) -> CleanProfile:
    """For each series and value column of *rows* (SERIES); texts have no min, max, mean and sd."""
    columns = [c for c in rows.columns if c not in SERIES.key]
    time = pl.col("event_time")
    of_series = {"n": pl.len(), "first": time.min(), "last": time.max()}
    of_column = {"n_null": pl.Expr.null_count, "min": pl.Expr.min, "max": pl.Expr.max}
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
    by_series = SummedGroups(rows, ["series_id"])
    for i, c in enumerate(columns):
        for name, compute_sums in (("mean", by_series.compute_means), ("sd", by_series.compute_sds)):
            is_number = rows.schema[c].is_numeric()
            sums = compute_sums(c) if is_number else pl.Series([None] * table.height, dtype=pl.Float64)
            table = table.with_columns(sums.alias(f"{i}:{name}"))
    return CleanProfile(
        {
            row["series_id"]: {
                c: ColumnProfile(
                    **{k: row[k] for k in of_series},
                    **{name: row[f"{i}:{name}"] for name in (*of_column, "mean", "sd")},
                )
                for i, c in enumerate(columns)
            }
            for row in table.iter_rows(named=True)
        }
    )
