"""Forecasts and their outcomes."""

from collections.abc import Mapping
from datetime import datetime

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.kinds import get_kind
from tasks.core.seasonal import build_seasonal_from_rows
from tasks.features import add_target

Row = dict[str, object]


def build_outcomes(
    forecasts: pl.DataFrame,
    rows: pl.DataFrame,
    about: About,
    calendar: Calendar,
    seen_until: Mapping[str, datetime],
) -> pl.DataFrame:
    """One row per forecast step, with y where it is known.

    Sorted by digest, series, cutoff and step.
    forecasts: FORECAST rows with their digest, no step twice.
    rows: SERIES with vintages.
    seen_until: of each digest that is known; `is_seen` marks steps that the release was fitted on,
      since it may answer from rows of that time.
    `is_late`: the first vintage came after its nominal time; `is_corrected`: the newest differs
    from the first. `loss`, `error` and `is_covered` are those of the target's kind.
    """
    truth, kind = _build_truth(rows, about, calendar), get_kind(about.target)
    if (point := kind.list_columns(about)[0]) not in forecasts.columns:  # none, or of another kind
        forecasts = forecasts.with_columns(pl.lit(None, dtype=pl.Float64).alias(point))
    joined = forecasts.sort("digest", "series_id", "cutoff", "step").join(
        truth.drop("known_at"), on=["series_id", "event_time"], how="left", maintain_order="left"
    )
    if seen_until:
        known = pl.DataFrame(
            {"digest": list(seen_until), "seen_until": list(seen_until.values())},
            schema_overrides={"seen_until": pl.Datetime("us", "UTC")},
        )
        joined = joined.join(known, on="digest", how="left", maintain_order="left")
    else:
        joined = joined.with_columns(seen_until=pl.lit(None, dtype=pl.Datetime("us", "UTC")))
    seasonal = build_seasonal_from_rows(truth, about, calendar)
    scaling_errors = None if seasonal is None else seasonal.scaling_errors_of_rows(joined)
    scored = kind.score_outcomes(about, joined, scaling_errors)
    return scored.with_columns(
        is_seen=(pl.col("cutoff") < pl.col("seen_until")).fill_null(value=False),
        is_late=pl.col("is_late").fill_null(value=False),
        is_corrected=pl.col("is_corrected").fill_null(value=False),
    )


def _build_truth(rows: pl.DataFrame, about: About, calendar: Calendar) -> pl.DataFrame:
    """series_id, event_time, y and its known_at, is_late, is_corrected.

    y and known_at are of the newest vintage; y is null when that vintage withdrew the value.
    """
    vintages = add_target(rows, about).sort("series_id", "event_time", "known_at")
    grouped = vintages.group_by("series_id", "event_time", maintain_order=True).agg(
        y=pl.col("y").last(),
        first=pl.col("y").drop_nulls().first(),
        known_at=pl.col("known_at").first(),
        newest_known_at=pl.col("known_at").last(),
    )
    late = pl.col("known_at") > calendar.nominal_known_at()
    return grouped.select(
        "series_id",
        "event_time",
        "y",
        known_at="newest_known_at",
        is_late=late,
        is_corrected=pl.col("y") != pl.col("first"),
    )


def compute_figures(found: pl.DataFrame, by: list[str]) -> list[Row]:
    """Counts and means of `outcomes` by *by*, all together for none.

    Means are over outcomes that were not fitted on; None without any. They are summed row by
    row: sums of polars' threads differ in the last bit, and these figures decide.
    """
    judged = pl.col("y").is_not_null() & ~pl.col("is_seen")
    marked = found.with_columns(
        is_judged=judged, absolute=pl.col("error").abs(), is_covered=pl.col("is_covered").cast(pl.Float64)
    )
    counts = [
        pl.len().alias("n_steps"),
        (pl.col("y").is_null() & ~pl.col("is_seen")).sum().alias("n_open"),
        pl.col("is_seen").sum().alias("n_seen"),
        pl.col("is_judged").sum().alias("n_known"),
        (pl.col("is_judged") & pl.col("is_late")).sum().alias("n_late"),
        (pl.col("is_judged") & pl.col("is_corrected")).sum().alias("n_corrected"),
    ]
    groups = marked.group_by(by).agg(counts).sort(by) if by else marked.select(counts)
    group = (
        marked.select(pl.struct(by).rank("dense")).to_series().to_numpy() - 1
        if by
        else np.zeros(found.height)
    )
    means = {
        name: _compute_means(marked, group.astype(np.int64), groups.height, column)
        for name, column in _MEANS.items()
    }
    return [{**row, **{name: of[i] for name, of in means.items()}} for i, row in enumerate(groups.to_dicts())]


_MEANS = {"loss": "loss", "mae": "absolute", "bias": "error", "coverage_frac": "is_covered"}


def _compute_means(marked: pl.DataFrame, group: np.ndarray, n_groups: int, column: str) -> list[float | None]:
    """Mean of *column* over the judged rows of each group that have it, None without any."""
    values = marked[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    kept = marked["is_judged"].to_numpy() & np.isfinite(values)
    n, total = (np.bincount(group[kept], weights, n_groups) for weights in (None, values[kept]))
    return [float(t / k) if k else None for t, k in zip(total, n, strict=True)]
