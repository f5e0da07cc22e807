"""Statistics of polars columns as plain numbers: polars types them as anything that a column can
hold.
"""

from typing import Any


def convert_to_float(statistic: Any) -> float:
    """The statistic as a float; 0 for the statistic of nothing."""
    return float(statistic or 0.0)


def convert_to_int(statistic: Any) -> int:
    """The statistic as an integer; 0 for the statistic of nothing."""
    return int(statistic or 0)
