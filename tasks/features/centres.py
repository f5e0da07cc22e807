"""What is subtracted from the levels of a series in float64, so that float32 keeps their digits.

Float32 holds 7 digits: of a meter that reads 100,000,034.6 it leaves multiples of 8. Where the
level of a series is large against its spread, its features, targets and forecasts are distances
from one number, its centre; z, y and everything that is shown or served are not.

One centre serves all series as far as it can, so that their levels stay comparable; a series that
is far from it has its own. A centre is a whole number of units, and the unit a power of two of
several spreads: further rows rarely move it, and subtracting it is exact. It changes the rounding
of a forecast and, where levels are comparable, nothing else; so it may follow from all rows.
"""

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.kinds import get_kind
from tasks.core.schema import Centres
from tasks.features.grid import find_series_starts
from tasks.features.params import FeatureParams
from tasks.features.table import add_target

# A level of so many spreads keeps its digits: it is off by a millionth of the spread
MAX_LEVEL_SPREADS = 32.0
_UNIT_SPREADS = 4.0  # the centre is at most so many spreads from the median
_SAMPLE_ROWS = 1000  # of a series; order statistics of more cost a fifth of the features' time
_LOW, _HIGH = 0.16, 0.84  # half their distance is the spread: that of a normal distribution


def with_centres(params: FeatureParams, rows: pl.DataFrame, about: About) -> FeatureParams:
    """*params* with the centre of each series of *rows* (SERIES) that needs one."""
    return params.model_copy(update={"centres": find_centres(rows, about)})


def find_centres(rows: pl.DataFrame, about: About, shared: float | None = None) -> Centres:
    """The centres of the series of *rows* (SERIES) whose levels float32 would round, by name.

    shared: the centre of the series that a release knows; None: it follows from *rows*.
    """
    if rows.is_empty():
        return ()
    z = add_target(_select_sample(rows), about).select(
        "series_id", z=get_kind(about.target).encode(about.target)
    )
    z = z.drop_nulls()
    if z.is_empty():
        return ()
    if shared is None:
        shared = _compute_centre(*z.select(*_summarize_levels()).row(0))
    figures = z.group_by("series_id").agg(*_summarize_levels()).sort("series_id")
    centres = (
        (name, shared + _compute_centre(median - shared, spread, span))
        for name, median, spread, span in figures.iter_rows()
    )
    return tuple((name, centre) for name, centre in centres if centre)


def _select_sample(rows: pl.DataFrame) -> pl.DataFrame:
    """About _SAMPLE_ROWS of each series, evenly over its rows."""
    starts = find_series_starts(rows["series_id"]).tolist()
    ends = zip(starts, [*starts[1:], rows.height], strict=True)
    return rows[np.concatenate([np.arange(i, end, -(-(end - i) // _SAMPLE_ROWS)) for i, end in ends])]


def _summarize_levels() -> tuple[pl.Expr, ...]:
    """Median, spread and span of z: order statistics, since sums depend on threads."""
    middle, low, high = (pl.col("z").quantile(q, "nearest") for q in (0.5, _LOW, _HIGH))
    return middle.alias("median"), ((high - low) / 2).alias("spread"), pl.col("z").max() - pl.col("z").min()


def _compute_centre(median: float, spread: float, span: float) -> float:
    """0 where float32 keeps the digits of such levels."""
    spread = spread or span
    if spread == 0:
        return 0.0 if float(np.float32(median)) == median else median
    if abs(median) <= MAX_LEVEL_SPREADS * spread:
        return 0.0
    unit = 2.0 ** np.ceil(np.log2(_UNIT_SPREADS * spread))
    return float(unit * np.round(median / unit))
