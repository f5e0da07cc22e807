"""Tables of scores: from forecasts with known y to means by series, step, cutoff, year or column.

First `compute_elements`: one value for each forecast and score, by the functions of
tasks/core/scores.py. Then `compute_mean_scores` over any parts, and `build_skill_table` against a
baseline. The elements are computed once, however many tables are made of them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core import scores
from tasks.core.errors import ScoreInputError
from tasks.core.frames import format_quantile_columns
from tasks.core.group_means import SummedGroups

Array = np.ndarray
PAIR = ("series_id", "cutoff", "step")  # what two models' forecasts are compared on
SCALE_COLUMNS = ("mase_scale", "rmsse_scale")


class ScoreInputs(NamedTuple):
    """What an element is computed from.

    y, y_hat: (n,).
    q_hat: (n, Q), of the quantiles (Q,); Q may be 0.
    mase_scale, rmsse_scale: (n,), NaN where there is none.
    """

    y: Array
    y_hat: Array
    q_hat: Array
    quantiles: tuple[float, ...]
    mase_scale: Array
    rmsse_scale: Array

    @property
    def level(self) -> float:
        """Of the interval between the outer quantiles."""
        return self.quantiles[-1] - self.quantiles[0]

    @property
    def interval_score(self) -> Array:
        """Of the outer quantiles."""
        return scores.interval_score(self.y, self.q_hat[:, 0], self.q_hat[:, -1], self.level)


def _compute_coverage(p: ScoreInputs) -> Array:
    low, high = p.q_hat[:, 0], p.q_hat[:, -1]
    return np.where(np.isfinite(low) & np.isfinite(high), (p.y >= low) & (p.y <= high), np.nan)


def _compute_pinball(p: ScoreInputs) -> Array:
    out: Array = np.mean([scores.pinball(p.y, p.q_hat[:, i], q) for i, q in enumerate(p.quantiles)], axis=0)
    return out


_POINT: dict[str, Callable[[ScoreInputs], Array]] = {
    "mae": lambda p: scores.absolute_error(p.y, p.y_hat),
    "rmse": lambda p: scores.squared_error(p.y, p.y_hat),
    "bias": lambda p: p.y_hat - p.y,
    "smape_pct": lambda p: scores.smape(p.y, p.y_hat),
    "mape_pct": lambda p: scores.absolute_percentage_error(p.y, p.y_hat),
    "qlike": lambda p: scores.qlike(p.y, p.y_hat),
}
_INTERVAL: dict[str, Callable[[ScoreInputs], Array]] = {
    "coverage_frac": _compute_coverage,
    "width": lambda p: p.q_hat[:, -1] - p.q_hat[:, 0],
    "pinball": _compute_pinball,
    "crps": lambda p: scores.crps_from_quantiles(p.y, p.q_hat, p.quantiles),
    "interval_score": lambda p: p.interval_score,
}
_SCALED: dict[str, Callable[[ScoreInputs], Array]] = {
    "mase": lambda p: scores.absolute_error(p.y, p.y_hat) / p.mase_scale,
    "rmsse": lambda p: scores.squared_error(p.y, p.y_hat) / np.square(p.rmsse_scale),
    "msis": lambda p: p.interval_score / p.mase_scale,
}
_ROOTED = ("rmse", "rmsse")  # the root is taken of the mean
INTERVAL_SCORES = tuple(_INTERVAL)
SCORES = (*_POINT, *_INTERVAL, *_SCALED)


def compute_series_scales(history: pl.DataFrame, season_steps: int) -> pl.DataFrame:
    """series_id, mase_scale, rmsse_scale from the training part.

    history: series_id, event_time, y, a row for each step of the grid, null in gaps.
    Null for a series whose scale is undefined (too short, or it repeats exactly): it gets no scaled
    score, and the others keep theirs.
    """
    back = pl.col("y").fill_nan(None).diff(season_steps).over("series_id", order_by="event_time")
    gaps = history.select("series_id", back=back.abs(), squared=back.pow(2))
    by_series, defined = SummedGroups(gaps, ["series_id"]), pl.col("back") > 0
    means = by_series.groups.with_columns(
        by_series.compute_means("back"), by_series.compute_means("squared").sqrt()
    )
    return means.select(
        "series_id", mase_scale=pl.when(defined).then("back"), rmsse_scale=pl.when(defined).then("squared")
    )


def score_elements(
    forecasts: pl.DataFrame,
    wanted: Sequence[str],
    *,
    primary: str | None = None,
    quantiles: Sequence[float] = (),
    scales: pl.DataFrame | None = None,
    scaling_errors: scores.ScalingErrors | None = None,
) -> pl.DataFrame:
    """Every forecast with known y, `year` of its cutoff and a column for each score of *wanted*.

    Scores are null where unknown.
    forecasts: schema FORECAST with y.
    primary: adds the loss `primary` of that name (tasks.core.scores.compute_primary_loss).
    quantiles: those of the columns `q_...`, for the scores of intervals.
    scales: see `compute_series_scales`, for mase, rmsse and msis.
    scaling_errors: of a primary score that needs them, in the order of *forecasts*.
    Raises ScoreInputError for an unknown score, for one without its quantiles or scales, and where
    a score is undefined.
    """
    _check_scores(wanted, quantiles, scales)
    is_known = forecasts.select(pl.col("y").is_not_null() & pl.col("y").is_not_nan()).to_series()
    known = forecasts.filter(is_known).with_columns(year=pl.col("cutoff").dt.year())
    if scales is not None:
        known = known.join(scales, on="series_id", how="left", maintain_order="left")
    part = _build_score_inputs(known, tuple(quantiles), scaled=scales is not None)
    computed = {name: (_POINT | _INTERVAL | _SCALED)[name](part) for name in wanted}
    if primary is not None:
        computed["primary"] = scores.compute_primary_loss(
            primary,
            part.y,
            part.y_hat,
            scaling_errors and scaling_errors._replace(scale=scaling_errors.scale[is_known.to_numpy()]),
        )
    return known.drop(SCALE_COLUMNS, strict=False).with_columns(
        pl.Series(name, values).fill_nan(None) for name, values in computed.items()
    )


def compute_mean_scores(
    scored: pl.DataFrame, by: Sequence[str] = (), names: Sequence[str] = (*SCORES, "primary")
) -> pl.DataFrame:
    """`model`, *by*, n, and each score as the mean over its known elements; sorted.

    RMSE and RMSSE are roots of the mean.
    names: of the scores, as far as *scored* has them.
    by: any columns, such as series_id, step, cutoff, year. Scaled errors are averaged over
    forecasts, so a longer series weighs more.
    """
    by_keys = SummedGroups(scored, ["model", *by])
    means = {name: by_keys.compute_means(name) for name in names if name in scored.columns}
    return by_keys.groups.with_columns(
        mean.sqrt() if name in _ROOTED else mean for name, mean in means.items()
    )


def build_skill_table(
    scored: pl.DataFrame, baseline: str, score: str = "primary", by: Sequence[str] = ()
) -> pl.DataFrame:
    """`model`, *by*, n_shared, skill_frac on the forecasts that both models made.

    skill_frac: 1 - mean of *score* / that of *baseline*, so in the same units; null where the
      baseline makes no error. For rmse and rmsse the roots are compared.
    Raises ScoreInputError when there is no such baseline or score.
    """
    if score not in scored.columns or score in ("bias", "coverage_frac", "width"):
        raise ScoreInputError(
            f"There is no loss {score!r} to compare; give `elements` one that is least when right, such as"
            " 'mae'."
        )
    theirs = scored.filter(model=baseline).select(*PAIR, _theirs=score)
    if theirs.is_empty():
        raise ScoreInputError(
            f"The baseline {baseline!r} has no known forecast; there are"
            f" {scored['model'].unique().sort().to_list()}."
        )
    keys = ["model", *by]
    shared = scored.join(theirs, on=PAIR, maintain_order="left").drop_nulls([score, "_theirs"])
    by_keys = SummedGroups(shared, keys)
    means = by_keys.groups.rename({"n": "n_shared"}).with_columns(
        by_keys.compute_means(score), by_keys.compute_means("_theirs")
    )
    ratio = pl.col(score) / pl.col("_theirs")
    skill = 1.0 - (ratio.sqrt() if score in _ROOTED else ratio)
    return means.select(*keys, "n_shared", skill_frac=pl.when(pl.col("_theirs") > 0).then(skill))


def _build_score_inputs(known: pl.DataFrame, quantiles: tuple[float, ...], *, scaled: bool) -> ScoreInputs:
    def values(column: str) -> Array:
        return known[column].fill_null(np.nan).to_numpy()

    q_hat = (
        np.column_stack([values(c) for c in format_quantile_columns(quantiles)])
        if quantiles
        else np.empty((known.height, 0))
    )
    unknown = np.full(known.height, np.nan)
    mase_scale, rmsse_scale = (values(c) if scaled else unknown for c in SCALE_COLUMNS)
    return ScoreInputs(values("y"), values("y_hat"), q_hat, quantiles, mase_scale, rmsse_scale)


def _check_scores(wanted: Sequence[str], quantiles: Sequence[float], scales: pl.DataFrame | None) -> None:
    if unknown := [name for name in wanted if name not in SCORES]:
        raise ScoreInputError(f"There is no score {unknown[0]!r}; there are {', '.join(SCORES)}.")
    if not quantiles and (lacking := [name for name in wanted if name in (*_INTERVAL, "msis")]):
        raise ScoreInputError(
            f"{lacking[0]} needs quantiles; give those of the forecast's columns q_..., such as (0.1, 0.5,"
            " 0.9)."
        )
    if scales is None and (lacking := [name for name in wanted if name in _SCALED]):
        raise ScoreInputError(
            f"{lacking[0]} needs the scale of each series; make it with `compute_series_scales` from the"
            " training part."
        )
