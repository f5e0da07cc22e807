"""Scores. Free functions of arrays; y and y_hat in one unit, same shape; NaN in y marks what is not known and does not count."""

from collections.abc import Callable

import numpy as np

from tasks.core.errors import ScoreInputError

Array = np.ndarray


def absolute_error(y: Array, y_hat: Array) -> Array:
    """|y - y_hat| of each element, in the unit of y."""
    return np.abs(y - y_hat)


def squared_error(y: Array, y_hat: Array) -> Array:
    """(y - y_hat)^2 of each element."""
    return np.square(y - y_hat)


def qlike(y: Array, y_hat: Array) -> Array:
    """Loss of a volatility forecast, on variances: y^2/y_hat^2 - ln(y^2/y_hat^2) - 1; 0 when right, NaN where y is not positive.

    y, y_hat: volatilities (not variances). Raises ScoreInputError for y_hat <= 0.
    Source: Patton 2011, doi:10.1016/j.jeconom.2010.03.034.
    """
    if (y_hat <= 0).any():
        raise ScoreInputError(f"QLIKE needs y_hat > 0; found {np.min(y_hat):g}. Use a log transform for this target, or another primary score.")
    ratio = np.square(np.where(y > 0, y, np.nan) / y_hat)
    return ratio - np.log(ratio) - 1.0


def pinball(y: Array, q_hat: Array, quantile: float) -> Array:
    """Quantile loss of each element; its mean is least at the true quantile. Source: Koenker & Bassett 1978, doi:10.2307/1913643."""
    gap = y - q_hat
    return np.maximum(quantile * gap, (quantile - 1.0) * gap)


def smape(y: Array, y_hat: Array) -> Array:
    """200 |y - y_hat| / (|y| + |y_hat|) of each element, percent; 0 where both are 0. The form of the M4 competition."""
    total = np.abs(y) + np.abs(y_hat)
    return np.where(total == 0, 0.0, 200.0 * np.abs(y - y_hat) / np.where(total == 0, 1.0, total))


def mase_scale(y_train: Array, season_steps: int) -> float:
    """In-sample error of the seasonal naive forecast, the divisor of MASE.

    y_train: (n,) oldest first, n > season_steps. Raises ScoreInputError when it is 0 or the series is too short.
    Source: Hyndman & Koehler 2006, doi:10.1016/j.ijforecast.2006.03.001.
    """
    if len(y_train) <= season_steps:
        raise ScoreInputError(f"MASE needs more than season_steps = {season_steps} training values; there are {len(y_train)}.")
    scale = float(np.nanmean(np.abs(y_train[season_steps:] - y_train[:-season_steps])))
    if not scale > 0:
        raise ScoreInputError(f"MASE is undefined: the training part repeats exactly every {season_steps} steps, so its scale is {scale:g}.")
    return scale


def mase(y: Array, y_hat: Array, y_train: Array, season_steps: int) -> float:
    """Mean absolute error over that of the seasonal naive forecast on the training part; 1.0 is naive. y, y_hat: (horizon,)."""
    return float(np.nanmean(np.abs(y - y_hat))) / mase_scale(y_train, season_steps)


def owa(smape_pct: float, mase_value: float, naive2_smape_pct: float, naive2_mase: float) -> float:
    """Overall weighted average of the M4 competition: mean of both ratios to Naive2."""
    return 0.5 * (smape_pct / naive2_smape_pct + mase_value / naive2_mase)


def coverage(y: Array, low: Array, high: Array) -> float:
    """Share of known y within [low, high]; NaN when none is known or no interval is there."""
    known = np.isfinite(y) & np.isfinite(low) & np.isfinite(high)
    return float(np.mean((y >= low)[known] & (y <= high)[known])) if known.any() else float("nan")


PRIMARY: dict[str, Callable[[Array, Array], Array]] = {
    "qlike": qlike,
    "rmse": squared_error,
    "mae": absolute_error,
    "smape": smape,
}  # loss of each element
