"""Bars: the columns they have, and what one bar says about volatility."""

import math

import polars as pl

OHLC = ("open", "high", "low", "close")


def garman_klass() -> pl.Expr:
    """Volatility of a bar as a fraction, from its open, high, low and close; the overnight gap is
    not in it.

    sqrt(.5 ln(H/L)^2 - (2 ln 2 - 1) ln(C/O)^2), 0 where that is negative. Source: Garman & Klass
    1980, J. of Business 53(1), estimator 20.
    """
    wide, moved = (pl.col("high") / pl.col("low")).log(), (pl.col("close") / pl.col("open")).log()
    return (0.5 * wide.pow(2) - (2 * math.log(2) - 1) * moved.pow(2)).clip(lower_bound=0).sqrt()


def build_bar_return() -> pl.Expr:
    """ln(close / open) of a bar: its return, without what happens between bars."""
    return (pl.col("close") / pl.col("open")).log()
