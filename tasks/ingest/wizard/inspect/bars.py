"""Price bars: known by their names, or by what open, high, low and close must be to each other."""

from itertools import combinations

import polars as pl

from tasks.ingest.wizard.inspect.figures import convert_to_float

PRICES = ("open", "high", "low", "close")
SURE_FRAC = 0.8  # open follows the close before it; the other order must miss it by a quarter more, or we ask


def find_bars_by_name(columns: list[str]) -> dict[str, str]:
    """{price: column} when the columns have those names in any case; empty otherwise."""
    lower = {c.lower().strip(): c for c in columns}
    return {price: lower[price] for price in PRICES} if all(price in lower for price in PRICES) else {}


def compute_broken_frac(frame: pl.DataFrame, prices: dict[str, str]) -> float:
    """Share of rows in which high is not the greatest or low not the least of the four."""
    four = [pl.col(c) for c in prices.values()]
    held = (pl.col(prices["high"]) >= pl.max_horizontal(four)) & (
        pl.col(prices["low"]) <= pl.min_horizontal(four)
    )
    return 1.0 - float(frame.select(held.mean()).item() or 0.0)


def find_bars_by_invariants(frame: pl.DataFrame, columns: list[str]) -> tuple[dict[str, str], bool] | None:
    """({price: column}, whether open and close are told apart surely), or None when no four columns
    behave like a bar.

    High is the greatest and low the least of the four in every row, and they differ somewhere. Of
    the other two, open lies nearer to the close of the row before. frame: one series, oldest first.
    """
    sample = frame.select(columns).drop_nulls()
    if sample.height < 20:
        return None
    found = [bar for four in combinations(columns, 4) if (bar := _find_bar(sample.select(four)))]
    if not found:
        return None
    # A volume may always be less than a price, but it does not stay close to it
    _, part, high, low = min(found, key=lambda bar: bar[0])
    return _find_open_and_close(part, [c for c in part.columns if c not in (high, low)], high, low)


def _find_bar(part: pl.DataFrame) -> tuple[float, pl.DataFrame, str, str] | None:
    """(mean log of high over low, the columns, high, low) when one column is always the greatest
    and another always the least.
    """
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
    def jump(opening: str, closing: str) -> float:
        return float(part.select((pl.col(opening) / pl.col(closing).shift(1)).log().abs().mean()).item())

    first, second = jump(two[0], two[1]), jump(two[1], two[0])
    opening, closing = two if first <= second else two[::-1]
    return {"open": opening, "high": high, "low": low, "close": closing}, min(
        first, second
    ) < SURE_FRAC * max(first, second)
