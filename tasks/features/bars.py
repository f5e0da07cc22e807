"""Price bars: their columns, the volatility and the return of one bar."""

import math

import polars as pl

OHLC = ("open", "high", "low", "close")


def garman_klass() -> pl.Expr:
    """Volatility of a bar as a fraction, from open, high, low and close, without the overnight gap.

    sqrt(.5 ln(H/L)^2 - (2 ln 2 - 1) ln(C/O)^2), 0 where that is negative.
    Source: Garman & Klass 1980, J. of Business 53(1), estimator 20.
    """
    log_range, log_return = (pl.col("high") / pl.col("low")).log(), (pl.col("close") / pl.col("open")).log()
    return (0.5 * log_range.pow(2) - (2 * math.log(2) - 1) * log_return.pow(2)).clip(lower_bound=0).sqrt()


def build_bar_return() -> pl.Expr:
    """ln(close / open) of a bar: its return, without what happens between bars."""
    return (pl.col("close") / pl.col("open")).log()
