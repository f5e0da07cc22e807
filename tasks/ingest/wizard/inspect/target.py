"""The target: which column it is, its transform, and how much the series differ in spread."""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from tasks.core.group_means import SummedGroups
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.inspected import InspectedFiles

MAX_FLAT_FRAC = 0.2  # of bars that do not move; with more, a log drops too much of the history
# sd ~ level^slope; at 1 a log makes the spread even, at 0 none is needed; half way a log is better
MIN_LOG_SLOPE = 0.5
MAX_LINEAR_RATIO = 100.0  # of the largest values over the smallest; above it, a log
MAX_SIZE_RATIO = 10.0  # of the series' medians; above it, a log
MIN_HEAVY_SKEW = 2.0
_N_SLOPE_SERIES = 2_000  # evenly among the names: of more series the power hardly differs
MIN_FOLLOWERS, MAX_FOLLOWED_SPREADS = 2, 0.3  # columns nearer than that to one are forecasts of it
MAX_CENTER_RATIO = 0.85
_N_FOLLOWED = 5_000
NEVER_CHANGES = "it never changes"
_LN = 2 * math.log(2) - 1
_TARGET_NAMES = ("y", "target", "value", "sales", "demand", "load", "count", "ot")


@dataclass(frozen=True)
class ReasonedTransform:
    """A transform and the reason for it."""

    value: str
    reason: str


def garman_klass(prices: pl.DataFrame) -> pl.Series:
    """Volatility of each bar, as a fraction; 0 for a bar that did not move.

    Source: Garman & Klass 1980, doi:10.1086/296072.
    """
    span, drift = (pl.col("high") / pl.col("low")).log(), (pl.col("close") / pl.col("open")).log()
    return prices.select((0.5 * span**2 - _LN * drift**2).clip(0.0).sqrt().alias("y")).to_series()


def select_target_column(
    inspected: InspectedFiles, asked: str | None
) -> tuple[str, list[str], str, str | None]:
    """Column, the other columns, the reason, and a question if it is not sure."""
    values = inspected.values
    if inspected.target is not None:
        return inspected.target, [], "the one column that all series share", None
    if asked is not None:
        return asked, [c for c in values if c != asked], "as asked", None
    if len(values) == 1:
        return values[0], [], "the only column of numbers", None
    named = [c for c in values if c.lower() in _TARGET_NAMES]
    if not named and (followed := find_followed_column(inspected.rows.select(values))) is not None:
        others = [c for c in values if c != followed]
        question = (
            f"Is `{followed}` the target? {others} follow it closely, as forecasts of it do; give --target"
        )
        return followed, others, "the column that the others follow", question
    target = (named or values[-1:])[0]
    reason = "sounds like a target" if named else "the last column of numbers"
    question = f"Is `{target}` the target? candidates are {values}; give --target"
    return target, [c for c in values if c != target], reason, question


def find_followed_column(values: pl.DataFrame) -> str | None:
    """The column to which all others are near, as forecasts are to what they forecast; or None."""
    sample = values.head(_N_FOLLOWED).drop_nulls()
    if values.width < MIN_FOLLOWERS + 1 or sample.height < _N_FOLLOWED // 100:
        return None
    spread = min(convert_to_float(sample[c].std()) for c in sample.columns)
    distance = {
        c: [convert_to_float((sample[c] - sample[o]).abs().median()) for o in sample.columns if o != c]
        for c in sample.columns
    }
    totals = sorted((sum(distance[c]), c) for c in distance)
    (least, best), (second, _) = totals[:2]
    is_center = least < MAX_CENTER_RATIO * second  # forecasts are further from one another than from it
    return best if is_center and max(distance[best]) < MAX_FOLLOWED_SPREADS * spread else None


def select_transform(rows: pl.DataFrame, column: str, block_steps: int) -> ReasonedTransform:
    """log, log1p or none for *column*.

    log if the values are positive and their spread grows with their level, or sizes differ widely.
    """
    y = rows[column].drop_nulls()
    low, high = _compute_quantile(y, 0.0), _compute_quantile(y, 1.0)
    if low < 0:
        return ReasonedTransform("none", "it has negative values")
    if low == high:
        return ReasonedTransform("none", NEVER_CHANGES)
    return _select_with_zeros(y) if low == 0 else _select_positive(rows, y, column, block_steps)


def _select_with_zeros(y: pl.Series) -> ReasonedTransform:
    skew = convert_to_float(y.skew())
    if skew > MIN_HEAVY_SKEW and _compute_quantile(y, 0.99) > MAX_SIZE_RATIO:
        return ReasonedTransform(
            "log1p",
            f"not negative, with {convert_to_float((y == 0).mean()):.1%} zeros and a heavy tail (skew"
            f" {skew:.1f})",
        )
    return ReasonedTransform(
        "none", f"it has zeros and no heavy tail beyond {MAX_SIZE_RATIO:.0f} (skew {skew:.1f})"
    )


def _select_positive(rows: pl.DataFrame, y: pl.Series, column: str, block_steps: int) -> ReasonedTransform:
    sizes = rows.group_by("series_id").agg(pl.col(column).median())[column]
    size_ratio = _compute_quantile(sizes, 1.0) / max(_compute_quantile(sizes, 0.0), 1e-300)
    if size_ratio > MAX_SIZE_RATIO:
        return ReasonedTransform("log", f"positive, and the series differ in size {size_ratio:.0f} fold")
    slope = compute_spread_slope(rows, column, block_steps)
    ratio = _compute_quantile(y, 0.999) / _compute_quantile(y, 0.001)
    if slope >= MIN_LOG_SLOPE:
        return ReasonedTransform("log", f"positive, and its spread grows with its level (power {slope:.1f})")
    if ratio > MAX_LINEAR_RATIO:
        return ReasonedTransform(
            "log", f"positive, and its largest values are {ratio:.0f} times its smallest"
        )
    return ReasonedTransform(
        "none",
        f"its spread does not grow with its level (power {slope:.1f}) and its values are within a factor of"
        f" {ratio:.1f}",
    )


def compute_spread_slope(rows: pl.DataFrame, column: str, block_steps: int) -> float:
    """Power b of sd ~ level^b over blocks of *block_steps* rows; 0 if the level hardly changes.

    Levels and spreads are relative to the mean of their series.
    """
    if (every := rows["series_id"].n_unique() // _N_SLOPE_SERIES) > 1:
        kept = rows["series_id"].unique().sort().gather_every(every)
        rows = rows.filter(pl.col("series_id").is_in(kept.implode()))
    block = pl.int_range(pl.len()).over("series_id") // max(block_steps, 8)
    known = (
        rows.select("series_id", pl.col(column).alias("y")).drop_nulls().with_columns(block.alias("block"))
    )
    by_block = SummedGroups(known, ["series_id", "block"])
    blocks = by_block.groups.with_columns(
        by_block.compute_means("y").alias("level"), by_block.compute_sds("y").alias("sd")
    ).filter((pl.col("sd") > 0) & (pl.col("level") > 0))
    logs = blocks.select(pl.col("level", "sd").log() - pl.col("level", "sd").log().mean().over("series_id"))
    level, sd = logs["level"].to_numpy(), logs["sd"].to_numpy()
    # the power cannot be estimated if the level stays within a tenth
    if len(level) < 6 or np.std(level) < 0.1:
        return 0.0
    return float((level @ sd) / (level @ level))


def compute_spread_ratio(rows: pl.DataFrame, z: str) -> float:
    """The largest spread of a series over the smallest; 1 if fewer than two series change."""
    sds = SummedGroups(rows, ["series_id"]).compute_sds(z).drop_nulls()
    sds = sds.filter(sds > 0)
    return _compute_quantile(sds, 1.0) / _compute_quantile(sds, 0.0) if len(sds) > 1 else 1.0


def add_z(rows: pl.DataFrame, column: str, transform: str) -> pl.DataFrame:
    """*rows* with `__z`, the target after its transform, null where undefined."""
    y = pl.col(column)
    z = {"none": y, "log": pl.when(y > 0).then(y).log(), "log1p": pl.when(y > -1).then(y).log1p()}[transform]
    return rows.with_columns(z.alias("__z"))


def _compute_quantile(values: pl.Series, quantile: float) -> float:
    return convert_to_float(values.quantile(quantile))
