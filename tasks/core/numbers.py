"""Numbers as people read them."""

from math import isfinite

_MAX_PLAIN = 1e15  # above it, float64 holds no decimals


def format_number(value: float, digits: int = 6) -> str:
    """*value* with *digits* significant digits; one that has more before the point keeps them all.

    Of such a number two decimals are shown: 100000034.6, not 1e+08.
    """
    if not isfinite(value) or not 10**digits <= abs(value) < _MAX_PLAIN:
        return f"{value:.{digits}g}"
    return f"{value:.2f}".rstrip("0").rstrip(".")
