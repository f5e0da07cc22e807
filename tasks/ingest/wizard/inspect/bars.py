"""Price bars, found by their names or by the invariants of open, high, low and close."""

from itertools import combinations

import polars as pl

from tasks.ingest.wizard.inspect.figures import convert_to_float

PRICES = ("open", "high", "low", "close")
MAX_SURE_RATIO = 0.8  # of open's mean distance to the close before it, over that of the other order


def find_bars_by_name(columns: list[str]) -> dict[str, str]:
    """{price: column} if the columns have those names, in any case; else empty."""
    lower = {c.lower().strip(): c for c in columns}
    return {price: lower[price] for price in PRICES} if all(price in lower for price in PRICES) else {}


def compute_broken_frac(frame: pl.DataFrame, prices: dict[str, str]) -> float:
    """Share of rows in which high is not the greatest price or low not the least."""
    four = [pl.col(c) for c in prices.values()]
    is_bar = (pl.col(prices["high"]) >= pl.max_horizontal(four)) & (
        pl.col(prices["low"]) <= pl.min_horizontal(four)
    )
    return 1.0 - float(frame.select(is_bar.mean()).item() or 0.0)


def find_bars_by_invariants(frame: pl.DataFrame, columns: list[str]) -> tuple[dict[str, str], bool] | None:
    """({price: column}, whether open and close are sure), or None if no four columns are bars.

    High is the greatest and low the least of the four in every row, and they differ somewhere. Of
    the other two, open is nearer to the close of the row before.

    frame: one series, oldest first.
    """
    sample = frame.select(columns).drop_nulls()
    if sample.height < 20:
        return None
    candidates = [bar for four in combinations(columns, 4) if (bar := _find_bar(sample.select(four)))]
    if not candidates:
        return None
    # a volume may always be less than a price, but it does not stay close to it
    _, part, high, low = min(candidates, key=lambda bar: bar[0])
    return _find_open_and_close(part, [c for c in part.columns if c not in (high, low)], high, low)


def _find_bar(part: pl.DataFrame) -> tuple[float, pl.DataFrame, str, str] | None:
    """(mean log of high over low, the columns, high, low) if one is always greatest, one least."""
    if (part.min_horizontal() <= 0).any():
        return None
    greatest = [c for c in part.columns if (part[c] >= part.max_horizontal()).all()]
    least = [c for c in part.columns if (part[c] <= part.min_horizontal()).all()]
    if len(greatest) != 1 or len(least) != 1 or greatest == least:
        return None
    return convert_to_float((part[greatest[0]] / part[least[0]]).log().mean()), part, greatest[0], least[0]


def _find_open_and_close(
    part: pl.DataFrame, two: list[str], high: str, low: str
) -> tuple[dict[str, str], bool]:
    """({price: column}, whether open and close are sure): open is nearer to the close before it."""

    def compute_distance(opening: str, closing: str) -> float:
        return float(part.select((pl.col(opening) / pl.col(closing).shift(1)).log().abs().mean()).item())

    first, second = compute_distance(two[0], two[1]), compute_distance(two[1], two[0])
    opening, closing = two if first <= second else two[::-1]
    is_sure = min(first, second) < MAX_SURE_RATIO * max(first, second)
    return {"open": opening, "high": high, "low": low, "close": closing}, is_sure
