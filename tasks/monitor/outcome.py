"""Forecasts and their outcomes."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import chain

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.kinds import get_kind
from tasks.core.scores import SCALED_PRIMARY, compute_scaling_errors
from tasks.core.seasonal import build_seasonal_from_rows
from tasks.features import add_target
from tasks.monitor.rows import RowsSpan, iterate_groups, read_time_range

Row = dict[str, object]


def join_outcomes(
    forecasts: pl.DataFrame,
    rows: pl.LazyFrame,
    span: RowsSpan,
    about: About,
    calendar: Calendar,
    seen_until: Mapping[str, datetime],
) -> pl.DataFrame:
    """As `build_outcomes`, from the rows of the forecasts' steps alone.

    A scaled score needs all rows before these; they are read by groups of series.
    """
    nothing = rows.head(0).collect()
    parts: Iterable[tuple[pl.DataFrame, pl.DataFrame]] = [(forecasts, nothing)]
    if about.primary_score in SCALED_PRIMARY:
        n_steps = len(calendar.grid(span.first, span.last))
        of_groups = (
            (forecasts.filter(pl.col("series_id").is_in(ids)), part)
            for ids, part in iterate_groups(rows, span, n_steps)
        )
        parts = chain([(forecasts.filter(~pl.col("series_id").is_in(span.series_ids)), nothing)], of_groups)
    elif forecasts.height:
        start, end = forecasts.select(start=pl.col("event_time").min(), end=pl.col("event_time").max()).row(0)
        parts = [(forecasts, read_time_range(rows, start, end))]
    joined = [_join_truth(part, of_part, about, calendar) for part, of_part in parts]
    return _score(pl.concat(joined), about, seen_until)


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
    `is_late`: the first value came after its nominal time; `is_corrected`: the newest differs
    from the first. `loss`, `error` and `is_covered` are those of the target's kind.
    """
    return _score(_join_truth(forecasts, rows, about, calendar), about, seen_until)


def _join_truth(
    forecasts: pl.DataFrame, rows: pl.DataFrame, about: About, calendar: Calendar
) -> pl.DataFrame:
    """*forecasts* with the columns of `_build_truth`, `naive` and `scale`, NaN without any."""
    truth = _build_truth(rows, about, calendar)
    joined = forecasts.join(
        truth.drop("known_at"), on=["series_id", "event_time"], how="left", maintain_order="left"
    )
    seasonal = build_seasonal_from_rows(truth, about, calendar)
    nothing = np.full(joined.height, np.nan)
    naive, scale = (nothing, nothing) if seasonal is None else seasonal.compare_rows(joined)
    return joined.with_columns(naive=naive, scale=scale)


def _score(joined: pl.DataFrame, about: About, seen_until: Mapping[str, datetime]) -> pl.DataFrame:
    kind = get_kind(about.target)
    if (point := kind.list_columns(about)[0]) not in joined.columns:  # none, or of another kind
        joined = joined.with_columns(pl.lit(None, dtype=pl.Float64).alias(point))
    joined = joined.sort("digest", "series_id", "cutoff", "step")
    known = pl.DataFrame(
        {"digest": list(seen_until), "seen_until": list(seen_until.values())},
        schema={"digest": pl.String, "seen_until": pl.Datetime("us", "UTC")},
    )
    joined = joined.join(known, on="digest", how="left", maintain_order="left")
    scaling_errors = None
    if about.primary_score in SCALED_PRIMARY:
        y, naive, scale = (joined[c].fill_null(float("nan")).to_numpy() for c in ("y", "naive", "scale"))
        scaling_errors = compute_scaling_errors(y, naive, scale)
    scored = kind.score_outcomes(about, joined.drop("naive", "scale"), scaling_errors)
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
        known_at=pl.col("known_at").filter(pl.col("y").is_not_null()).first(),
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
