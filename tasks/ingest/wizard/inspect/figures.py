"""Statistics of polars columns as plain numbers: polars types them as any cell of a column."""

from math import ceil, floor, log10
from typing import Any


def convert_to_float(statistic: Any) -> float:
    """The statistic as a float; 0 for no rows."""
    return float(statistic or 0.0)


def convert_to_int(statistic: Any) -> int:
    """The statistic as an integer; 0 for no rows."""
    return int(statistic or 0)


def compute_outer_bound(value: float, *, up: bool = True) -> float:
    """*value* rounded to two significant digits, up or down."""
    if value == 0:
        return 0
    unit = 10.0 ** (floor(log10(abs(value))) - 1)
    rounded = (ceil if up else floor)(value / unit) * unit
    return int(rounded) if unit >= 1 else float(f"{rounded:.2g}")
