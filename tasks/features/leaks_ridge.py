"""Pairs of an origin and a later step, and what a ridge over features makes of them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.kinds import get_kind
from tasks.features.columns import list_seasonal_lags

MAX_ROWS = 20_000  # of a fit, evenly over time: a second's work at 100 columns
LEAST_ROWS = 100  # fewer say nothing
TRAIN_FRAC = 0.6
PENALTY = 1e-3  # of the ridge, for each row and standardized column
Array = np.ndarray


class OriginPairs(NamedTuple):
    """Origins of a table as arrays, each series scaled by its own mean and spread.

    x: (n, F) 0 where unknown. past: (n, P) 1, and z at and before the origin. y: (n,) z `step`
    steps later, sign: (n,) of it unscaled.
    when: (n,) microseconds of the origin. rows: (n,) their places in the table.
    """

    x: Array
    past: Array
    y: Array
    sign: Array
    when: Array
    rows: Array


class RidgeScores(NamedTuple):
    """Of a ridge on the last part of the rows: r2 against the best naive forecast, hit_frac of
    its signs, r its correlation with what came, n pairs, n_origins distinct origins.
    """

    r2: float
    hit_frac: float
    r: float
    n: int
    n_origins: int


def build_pairs(table: pl.DataFrame, about: About, names: list[str], step: int) -> OriginPairs:
    """The pairs (origin, origin + step) whose own past and future are known, at most MAX_ROWS,
    evenly over the table.
    """
    z, code = _convert_to_numbers(table["z"]), _encode_series(table)
    scaled = _transform_by_series(z, code)
    season = list_seasonal_lags(about)
    lags = sorted({0, 1, 2, *([season[step - 1]] if season else [])})
    past = np.column_stack([np.ones(len(z)), *(_align_lagged(scaled, code, lag) for lag in lags)])
    y = _align_lagged(scaled, code, -step)
    rows = np.flatnonzero(np.isfinite(past).all(axis=1) & np.isfinite(y))
    rows = rows[:: max(1, -(-len(rows) // MAX_ROWS))]
    x = np.column_stack(
        [
            np.empty((len(rows), 0)),
            *(_transform_by_series(_convert_to_numbers(table[name]), code)[rows] for name in names),
        ]
    )
    sign = np.sign(_align_lagged(z, code, -step)[rows])
    return OriginPairs(
        np.where(np.isfinite(x), x, 0.0),
        past[rows],
        y[rows],
        sign,
        table["event_time"].to_physical().to_numpy()[rows],
        rows,
    )


def _convert_to_numbers(column: pl.Series) -> Array:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _encode_series(table: pl.DataFrame) -> Array:
    """Which series each row belongs to, counted from 0."""
    return table["series_id"].rle_id().to_numpy().astype(np.int64)


def _transform_by_series(values: Array, code: Array) -> Array:
    """Less the series' mean, over its standard deviation; a constant becomes 0."""
    there = np.isfinite(values)
    n = np.maximum(np.bincount(code, there), 1.0)
    mean = np.bincount(code, np.where(there, values, 0.0)) / n
    apart = values - mean[code]
    sd = np.sqrt(np.bincount(code, np.where(there, apart, 0.0) ** 2) / n)
    return apart / np.where(sd > 1e-12 * np.abs(mean), sd, np.inf)[code]


def _align_lagged(values: Array, code: Array, lag: int) -> Array:
    """The value *lag* steps back in the same series (ahead where negative), NaN where there is
    none.
    """
    place = np.arange(len(values)) - lag
    inside = (place >= 0) & (place < len(values))
    place = np.where(inside, place, 0)
    return np.where(inside & (code[place] == code), values[place], np.nan)


def iterate_scales(table: pl.DataFrame, name: str, about: About) -> Iterator[Array]:
    """The column at every row and, where the target works in another space, the column brought
    there: a source has it in the target's unit.
    """
    code = _encode_series(table)
    yield _transform_by_series(_convert_to_numbers(table[name]), code)
    if about.target.transform != "none":
        encoded = table.select(get_kind(about.target).encode(about.target, name)).to_series()
        yield _transform_by_series(_convert_to_numbers(encoded), code)


def compute_partial_r2(column: Array, pairs: OriginPairs) -> float:
    """Share of what the own past leaves open of y that the column explains, of the same rows; 0
    when it follows from the past itself.
    """
    x = column[pairs.rows]
    keep = np.isfinite(x)
    if keep.sum() < LEAST_ROWS:
        return 0.0
    past, both = pairs.past[keep], np.column_stack([x[keep], pairs.y[keep]])
    left = both - past @ np.linalg.lstsq(past, both, rcond=None)[0]
    left -= left.mean(axis=0)
    size, before = np.square(left).sum(axis=0), np.square(both - both.mean(axis=0)).sum(axis=0)
    if (size <= 1e-9 * before).any():
        return 0.0
    return float((left[:, 0] @ left[:, 1]) ** 2 / size.prod())


def score_ridge(pairs: OriginPairs) -> RidgeScores:
    """Fit on the first part of the origins, score on the rest; nothing is said when all lie at
    one time.
    """
    border = np.quantile(pairs.when, TRAIN_FRAC)
    before, after = pairs.when < border, pairs.when > border
    if not before.any() or not after.any():
        return RidgeScores(r2=0.0, hit_frac=0.5, r=0.0, n=0, n_origins=1)
    x = np.column_stack([np.ones(len(pairs.y)), pairs.x])
    gram = x[before].T @ x[before] + PENALTY * before.sum() * np.eye(x.shape[1])
    y_hat, y = x[after] @ np.linalg.solve(gram, x[before].T @ pairs.y[before]), pairs.y[after]
    naive = [np.full(len(y), pairs.y[before].mean()), *pairs.past[after, 1:].T]
    left = min(float(np.square(y - guess).sum()) for guess in naive)
    moving = y_hat.std() > 0 and y.std() > 0
    sign = pairs.sign[after]
    return RidgeScores(
        r2=1.0 - float(np.square(y - y_hat).sum()) / left if left > 0 else 0.0,
        hit_frac=float((np.sign(y_hat) == sign)[sign != 0].mean()) if sign.any() else 0.5,
        r=float(np.corrcoef(y_hat, y)[0, 1]) if moving else 0.0,
        n=len(y),
        n_origins=len(np.unique(pairs.when[after])),
    )


def find_strongest_column(pairs: OriginPairs, names: list[str]) -> str:
    """The column that goes most with y."""
    x = pairs.x - pairs.x.mean(axis=0)
    size = np.sqrt(np.square(x).sum(axis=0))
    r = np.abs(x.T @ (pairs.y - pairs.y.mean())) / np.where(size > 0, size, np.inf)
    return names[int(np.argmax(r))]


def compute_ranks(y: Array) -> Array:
    """Ranks, brought between -1 and 1; ties share one."""
    rank = pl.Series(y).rank("average").to_numpy()
    return (2 * rank - 1) / len(y) - 1
