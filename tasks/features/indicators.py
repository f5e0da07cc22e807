"""Technical indicators, each a function of the `Past` of the columns that it reads.

NaN where unknown; half of a window must be known, as for a mean. An average that smooths without
end in the source (Wilder's averages, MACD) is cut at 4 spans like every ewm here, so that a tail
gives the numbers of the batch. Wilder's average over w steps has weights (1 - 1 / w) ** age, which
is an ewm with a span of 2 w - 1.
"""

import math

import numpy as np

from tasks.features.rolling import Array, Past
from tasks.features.specs import EWM_CUT_SPANS


def count_wilder_steps(w: int) -> int:
    """Steps that Wilder's average over *w* reads."""
    return EWM_CUT_SPANS * (2 * w - 1)


def rsi(past: Past, w: int) -> Array:
    """Relative strength index, 0 to 100: the share of rises, Wilder-averaged; 50 without any move.

    Source: Wilder 1978, New Concepts in Technical Trading Systems, VI.
    """
    moves = past.values - past.lag(1)
    rises, sizes = _compute_wilder_mean(np.maximum(moves, 0.0), w), _compute_wilder_mean(np.abs(moves), w)
    return _compute_ratio(100.0 * rises, sizes, where_zero=50.0)


def macd(past: Past, fast: int, slow: int) -> Array:
    """Fast minus slow ewm, in the column's unit.

    Source: Appel 2005, Technical Analysis: Power Tools for Active Investors, 8.
    """
    return past.ewm(fast) - past.ewm(slow)


def macd_signal(past: Past, fast: int, slow: int, signal: int) -> Array:
    """The ewm of the MACD line."""
    return Past(macd(past, fast, slow)).ewm(signal)


def band_position(past: Past, w: int, width: float) -> Array:
    """Position between Bollinger's bands: 0 on the lower, 1 on the upper, 0.5 where they meet.

    Source: Bollinger 2001, Bollinger on Bollinger Bands, 8 (%b).
    """
    return 0.5 + _compute_ratio(past.values - past.mean(w), 2 * width * past.std(w, ddof=0), where_zero=0.0)


def band_width(past: Past, w: int, width: float) -> Array:
    """Distance of Bollinger's bands over their middle; NaN unless that is positive.

    Source: as for `band_position` (BandWidth).
    """
    return _compute_ratio(2 * width * past.std(w, ddof=0), _filter_positive(past.mean(w)))


def rate_of_change(past: Past, k: int) -> Array:
    """value / value *k* steps back - 1; NaN unless the earlier one is positive.

    Source: Murphy 1999, Technical Analysis of the Financial Markets, 10.
    """
    before = _filter_positive(past.lag(k))
    return (past.values - before) / before


def zscore(past: Past, w: int) -> Array:
    """Distance from the mean of the last *w* steps in their standard deviations; 0 if constant."""
    return _compute_ratio(past.values - past.mean(w), past.std(w), where_zero=0.0)


def drawdown(past: Past, w: int) -> Array:
    """value / highest value of the last *w* steps - 1; NaN unless that is positive.

    Source: Magdon-Ismail & Atiya 2004, Risk 17(10), within a window.
    """
    top = _filter_positive(past.maximum(w))
    return (past.values - top) / top


def atr(high: Past, low: Past, close: Past, w: int) -> Array:
    """Average true range, Wilder-averaged, in the unit of the price. Source: Wilder 1978, III."""
    before = close.lag(1)
    true_range = np.maximum(
        high.values - low.values, np.maximum(np.abs(high.values - before), np.abs(low.values - before))
    )
    return _compute_wilder_mean(true_range, w)


def atr_frac(high: Past, low: Past, close: Past, w: int) -> Array:
    """`atr` over the close, so that prices of any size are comparable."""
    return atr(high, low, close, w) / _filter_positive(close.values)


def stochastic(high: Past, low: Past, close: Past, w: int) -> Array:
    """%K, 0 to 100: position of the close in the range of the last *w* steps; 50 if that is 0.

    Source: Lane 1984, Stocks & Commodities 2(3).
    """
    bottom = low.minimum(w)
    return _compute_ratio(100.0 * (close.values - bottom), high.maximum(w) - bottom, where_zero=50.0)


def obv_change(close: Past, volume: Past, w: int) -> Array:
    """Change of the on-balance volume over *w* steps, as a share (-1 to 1) of the traded volume.

    0 if nothing was traded.
    Source: Granville 1963, New Key to Stock Market Profits.
    """
    signed = np.sign(close.values - close.lag(1)) * volume.values
    traded = np.where(np.isnan(signed), np.nan, volume.values)
    return _compute_ratio(Past(signed).mean(w), Past(traded).mean(w), where_zero=0.0)


def parkinson(high: Past, low: Past, w: int) -> Array:
    """Volatility per step from the ranges of the last *w* bars, as a fraction.

    Source: Parkinson 1980, J. of Business 53(1).
    """
    return np.sqrt(Past(_compute_log_ratio(high, low) ** 2).mean(w) / (4 * math.log(2)))


def rogers_satchell(open_: Past, high: Past, low: Past, close: Past, w: int) -> Array:
    """Volatility per step from the last *w* bars, unbiased under any drift, as a fraction.

    Source: Rogers & Satchell 1991, Annals of Applied Probability 1(4).
    """
    variance = _compute_log_ratio(high, close) * _compute_log_ratio(high, open_) + _compute_log_ratio(
        low, close
    ) * _compute_log_ratio(low, open_)
    return np.sqrt(np.maximum(Past(variance).mean(w), 0.0))  # below 0 only by rounding, for clean bars


def _compute_wilder_mean(values: Array, w: int) -> Array:
    return Past(values).get_decaying_mean(1 - 1 / w, count_wilder_steps(w))


def _filter_positive(values: Array) -> Array:
    return np.where(values > 0, values, np.nan)


def _compute_log_ratio(top: Past, bottom: Past) -> Array:
    return np.log(_filter_positive(top.values)) - np.log(_filter_positive(bottom.values))


def _compute_ratio(top: Array, bottom: Array, where_zero: float = math.nan) -> Array:
    """top / bottom; *where_zero* where the bottom is 0 and the top is known."""
    is_zero = bottom == 0
    zero_ratio = np.where(np.isnan(top), np.nan, where_zero)
    return np.where(is_zero, zero_ratio, top / np.where(is_zero, 1.0, bottom))
