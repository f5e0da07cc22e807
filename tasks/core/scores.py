"""Scores.

Free functions of arrays; y and y_hat in one unit and of one shape; NaN in y marks what is not known
and does not count. A loss gives one value for each element, NaN where it is not known. A score is
one number: the mean over what is known, NaN when nothing is. What is undefined raises
ScoreInputError: shapes that differ, a scale of 0, a percentage of 0. Tables of scores are made in
tasks/core/score_table.py, comparisons of two and more models in tasks/core/compare.py.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from tasks.core.errors import ScoreInputError

Array = np.ndarray


def absolute_error(y: Array, y_hat: Array) -> Array:
    """|y - y_hat| of each element, in the unit of y."""
    return np.abs(_compute_error(y, y_hat))


def squared_error(y: Array, y_hat: Array) -> Array:
    """(y - y_hat)^2 of each element."""
    return np.square(_compute_error(y, y_hat))


def qlike(y: Array, y_hat: Array) -> Array:
    """Loss of a volatility forecast, on variances: y^2/y_hat^2 - ln(y^2/y_hat^2) - 1; 0 when right,
    NaN where y is not positive.

    y, y_hat: volatilities (not variances). Raises ScoreInputError for y_hat <= 0.
    Source: Patton 2011, doi:10.1016/j.jeconom.2010.03.034.
    """
    if (y_hat <= 0).any():
        raise ScoreInputError(
            f"QLIKE needs y_hat > 0; found {np.min(y_hat):g}. Use a log transform for this target, or another"
            " primary score."
        )
    ratio = np.square(np.where(y > 0, y, np.nan) / y_hat)
    return ratio - np.log(ratio) - 1.0


def smape(y: Array, y_hat: Array) -> Array:
    """200 |y - y_hat| / (|y| + |y_hat|) of each element, percent; 0 where both are 0.

    The form of the M4 competition.
    """
    error, total = absolute_error(y, y_hat), np.abs(y) + np.abs(y_hat)
    return np.where(total == 0, 0.0, 200.0 * error / np.where(total == 0, 1.0, total))


def absolute_percentage_error(y: Array, y_hat: Array) -> Array:
    """100 |y - y_hat| / |y| of each element, percent. Raises ScoreInputError where y is 0."""
    error = absolute_error(y, y_hat)
    if n_zero := int((y == 0).sum()):
        raise ScoreInputError(
            f"MAPE is undefined: y is 0 at {n_zero} of {y.size} places. Use sMAPE or MASE, which bear zeros."
        )
    return 100.0 * error / np.abs(y)


def pinball(y: Array, q_hat: Array, quantile: float) -> Array:
    """Quantile loss of each element; its mean is least at the true quantile.

    Source: Koenker & Bassett 1978, doi:10.2307/1913643.
    """
    gap = _compute_error(y, q_hat)
    return np.maximum(quantile * gap, (quantile - 1.0) * gap)


def interval_score(y: Array, low: Array, high: Array, level: float) -> Array:
    """Width, and 2 / (1 - level) for each unit by which y lies outside [low, high]; in the unit of
    y, less is better (Winkler's score).

    Raises ScoreInputError unless 0 < level < 1. Source: Gneiting & Raftery 2007,
    doi:10.1198/016214506000001437, equation 43.
    """
    if not 0 < level < 1:
        raise ScoreInputError(
            f"An interval's level lies between 0 and 1; {level:g} does not. Between the quantiles 0.1 and 0.9"
            " it is 0.8."
        )
    outside = np.maximum(_compute_error(low, y), 0.0) + np.maximum(_compute_error(y, high), 0.0)
    return high - low + 2.0 / (1.0 - level) * outside


def crps_from_quantiles(y: Array, q_hat: Array, quantiles: Sequence[float]) -> Array:
    """Continuous ranked probability score from quantiles: 2 x the integral of the pinball loss over
    the quantile; in the unit of y.

    y: any shape. q_hat: the same with one more axis of len(quantiles). Each quantile speaks for the
    part of (0, 1) that is nearer to it than to the next one. Of few quantiles it is coarse: compare
    only what has the same ones. Raises ScoreInputError when they do not rise within (0, 1). Source:
    Gneiting & Ranjan 2011, doi:10.1198/jbes.2010.08110, equation 8.
    """
    q = np.asarray(quantiles, dtype=np.float64)
    if not len(q) or q[0] <= 0 or q[-1] >= 1 or (np.diff(q) <= 0).any():
        raise ScoreInputError(
            f"CRPS needs quantiles that rise strictly between 0 and 1; these are {list(quantiles)}."
        )
    edges = np.concatenate([[0.0], (q[1:] + q[:-1]) / 2, [1.0]])
    losses = [
        2.0 * weight * pinball(y, q_hat[..., i], float(q[i])) for i, weight in enumerate(np.diff(edges))
    ]
    out: Array = np.sum(losses, axis=0)
    return out


def crps_from_samples(y: Array, samples: Array) -> Array:
    """The same from draws of the forecast, (..., N): mean |X - y| - mean |X - X'| / 2, the score of
    the draws' own distribution function.

    y: any shape. Source: Gneiting & Raftery 2007, doi:10.1198/016214506000001437, equation 21; by
    sorting, O(N log N).
    """
    n = samples.shape[-1]
    if samples.shape[:-1] != np.shape(y) or not n:
        raise ScoreInputError(
            f"CRPS needs draws of shape {(*np.shape(y), 'N')} with N >= 1; these have {samples.shape}."
        )
    rank = 2.0 * np.arange(1, n + 1) - n - 1.0
    out: Array = (
        np.abs(samples - np.asarray(y)[..., None]).mean(axis=-1) - (np.sort(samples, axis=-1) @ rank) / n**2
    )
    return out


def mae(y: Array, y_hat: Array) -> float:
    """Mean absolute error, in the unit of y."""
    return _compute_mean(absolute_error(y, y_hat))


def rmse(y: Array, y_hat: Array) -> float:
    """Root of the mean squared error, in the unit of y."""
    return float(np.sqrt(_compute_mean(squared_error(y, y_hat))))


def bias(y: Array, y_hat: Array) -> float:
    """Mean of y_hat - y, in the unit of y: above 0 when forecasts are too high."""
    return _compute_mean(_compute_error(y_hat, y))


def mape(y: Array, y_hat: Array) -> float:
    """Mean absolute percentage error. Raises ScoreInputError where y is 0."""
    return _compute_mean(absolute_percentage_error(y, y_hat))


def mase_scale(y_train: Array, season_steps: int) -> float:
    """In-sample mean absolute error of the seasonal naive forecast, the divisor of MASE and MSIS.

    y_train: (n,) oldest first, n > season_steps. Raises ScoreInputError when it is 0 or the series
    is too short.
    Source: Hyndman & Koehler 2006, doi:10.1016/j.ijforecast.2006.03.001.
    """
    return _compute_scale("MASE", np.abs, y_train, season_steps)


def rmsse_scale(y_train: Array, season_steps: int) -> float:
    """In-sample root mean squared error of the seasonal naive forecast, the divisor of RMSSE;
    else as `mase_scale`.
    """
    return float(np.sqrt(_compute_scale("RMSSE", np.square, y_train, season_steps)))


def mase(y: Array, y_hat: Array, y_train: Array, season_steps: int) -> float:
    """Mean absolute error over that of the seasonal naive forecast on the training part; 1.0 is
    naive. y, y_hat: (horizon,).
    """
    return mae(y, y_hat) / mase_scale(y_train, season_steps)


def rmsse(y: Array, y_hat: Array, y_train: Array, season_steps: int = 1) -> float:
    """Root mean squared error over that of the seasonal naive forecast on the training part; 1.0 is
    naive.

    M5 takes season_steps = 1.
    Source: Hyndman & Koehler 2006, doi:10.1016/j.ijforecast.2006.03.001; M5: Makridakis et al.
    2022, doi:10.1016/j.ijforecast.2021.11.013.
    """
    return rmse(y, y_hat) / rmsse_scale(y_train, season_steps)


def msis(y: Array, low: Array, high: Array, level: float, y_train: Array, season_steps: int) -> float:
    """Mean scaled interval score of the M4 competition: the mean interval score over the divisor of
    MASE.

    Source: Makridakis et al. 2020, doi:10.1016/j.ijforecast.2019.04.014.
    """
    return _compute_mean(interval_score(y, low, high, level)) / mase_scale(y_train, season_steps)


def owa(smape_pct: float, mase_value: float, naive2_smape_pct: float, naive2_mase: float) -> float:
    """Overall weighted average of the M4 competition: mean of both ratios to Naive2.

    Raises ScoreInputError when Naive2 makes no error.
    """
    return 1.0 - 0.5 * (skill(smape_pct, naive2_smape_pct) + skill(mase_value, naive2_mase))


def skill(score: float, baseline_score: float) -> float:
    """Part of the baseline's mean loss that is saved: 1 is perfect, 0 no better than it, below 0
    worse.

    Both in one unit, on the same pairs.
    Raises ScoreInputError when the baseline's is not above 0, since nothing can be saved.
    """
    if not baseline_score > 0:
        raise ScoreInputError(
            f"Skill is undefined: the baseline's score is {baseline_score:g}, and it must be above 0. Take"
            " another baseline."
        )
    return 1.0 - score / baseline_score


def coverage(y: Array, low: Array, high: Array) -> float:
    """Share of known y within [low, high]; NaN when none is known or no interval is there."""
    known = np.isfinite(y) & np.isfinite(low) & np.isfinite(high)
    return float(np.mean((y >= low)[known] & (y <= high)[known])) if known.any() else float("nan")


class ScalingErrors(NamedTuple):
    """What `mase` and `owa` measure with. scale: of y's shape, the divisor of MASE as each
    forecast's cutoff knew it, NaN where there is none.

    naive_smape_pct, naive_mase: of the seasonal naive over all forecasts that are compared, the
    divisors of `owa`. See tasks/core/seasonal.py.
    """

    scale: Array
    naive_smape_pct: float
    naive_mase: float


def compute_scaling_errors(y: Array, naive: Array, scale: Array) -> ScalingErrors:
    """From the seasonal naive's forecasts of y and the scales, all of one shape; means over what
    is known of all three.
    """
    there = np.isfinite(y) & np.isfinite(naive) & np.isfinite(scale)
    return ScalingErrors(
        scale,
        _compute_mean(smape(y[there], naive[there])),
        _compute_mean(absolute_error(y[there], naive[there]) / scale[there]),
    )


def compute_primary_loss(
    score: str, y: Array, y_hat: Array, scaling_errors: ScalingErrors | None = None
) -> Array:
    """Loss of each element by the primary score of that name; its mean is what is compared, NaN
    does not count.

    `mase`: |y - y_hat| over the scale. `owa`: the mean over all elements is M4's OWA, with the
    seasonal naive where M4 has Naive2; the divisors are those of all forecasts compared, so a part
    of them may lie on either side of 1. Raises ScoreInputError for one of these two without a
    scaling errors, or when no series has a scale or the naive makes no error.
    """
    if score not in SCALED_PRIMARY:
        return _PRIMARY[score](y, y_hat)
    if scaling_errors is None:
        raise ScoreInputError(
            f"{score} needs the seasonal naive's errors up to each cutoff; give `compute_primary_loss`"
            " the scaling errors of tasks/core/seasonal.py."
        )
    if np.isfinite(y).any() and not np.isfinite(scaling_errors.scale).any():
        raise ScoreInputError(
            f"{score} is undefined: every series is shorter than a season, or repeats it exactly, so its"
            " scale is 0. Lower `about.season_steps`, or take mae."
        )
    scaled = absolute_error(y, y_hat) / scaling_errors.scale
    if score == "mase" or not np.isfinite(scaled).any():
        return scaled
    if not (scaling_errors.naive_smape_pct > 0 and scaling_errors.naive_mase > 0):
        raise ScoreInputError(
            "owa is undefined: the seasonal naive makes no error, or is not known anywhere. Take mase or mae"
            " as `about.primary_score`."
        )
    out: Array = (smape(y, y_hat) / scaling_errors.naive_smape_pct + scaled / scaling_errors.naive_mase) / 2
    return out


def select_loss(
    primary: str, quantile: float | None
) -> tuple[str, Callable[[Array, Array, ScalingErrors | None], Array]]:
    """Name and loss of each element by which a model is judged: the primary score's, or the
    pinball loss of the *quantile* that it forecasts.
    """
    if quantile is None:
        return primary, partial(compute_primary_loss, primary)
    return f"pinball of the quantile {quantile:g}", lambda y, y_hat, _: pinball(y, y_hat, quantile)


SCALED_PRIMARY = ("mase", "owa")
_PRIMARY: dict[str, Callable[[Array, Array], Array]] = {
    "qlike": qlike,
    "rmse": squared_error,
    "mae": absolute_error,
    "smape": smape,
}


def _compute_error(y: Array, y_hat: Array) -> Array:
    if np.shape(y) != np.shape(y_hat):
        raise ScoreInputError(
            f"y has shape {np.shape(y)} and y_hat {np.shape(y_hat)}; a score compares elements of one shape."
        )
    return np.subtract(y, y_hat)


def _compute_mean(loss: Array) -> float:
    known = loss[np.isfinite(loss)]
    return float(known.mean()) if len(known) else float("nan")


def _compute_scale(score: str, size: Callable[[Array], Array], y_train: Array, season_steps: int) -> float:
    if len(y_train) <= season_steps:
        raise ScoreInputError(
            f"{score} needs more than season_steps = {season_steps} training values; there are"
            f" {len(y_train)}."
        )
    scale = _compute_mean(size(y_train[season_steps:] - y_train[:-season_steps]))
    if not scale > 0:
        raise ScoreInputError(
            f"{score} is undefined: the training part repeats exactly every {season_steps} steps, so its"
            f" scale is {scale:g}."
        )
    return scale
