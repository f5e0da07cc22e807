"""Figures that describe values, NaN where one is missing. None where a figure is undefined.

Values are scaled by a power of two first, which is exact, so that no square of a large or small
value is beyond float64.
"""

import math
from collections.abc import Sequence

import numpy as np

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
MIN_PAIRS = 3  # a correlation of fewer is undefined


def compute_moments(values: np.ndarray) -> tuple[float | None, float | None]:
    """Mean and standard deviation, with the denominator n - 1, of the known *values*."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None, None
    exponent = _find_exponent(known)
    scaled = np.ldexp(known, -exponent)
    std = math.ldexp(float(scaled.std(ddof=1)), exponent) if len(known) > 1 else None
    return math.ldexp(float(scaled.mean()), exponent), std


def compute_quantiles(values: np.ndarray) -> dict[str, float | None]:
    """QUANTILES of the known *values*, linear between order statistics."""
    known = values[np.isfinite(values)]
    if not len(known):
        return {f"{q:g}": None for q in QUANTILES}
    exponent = _find_exponent(known)
    found = np.ldexp(np.quantile(np.ldexp(known, -exponent), QUANTILES), exponent)
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, found, strict=True)}


def compute_histogram(values: np.ndarray, n_bins: int) -> tuple[list[float], list[int]]:
    """Edges and counts of *n_bins* bins of one width over the known *values*, the last closed.

    A single value gets a bin around it. Both are empty where no value is known.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return [], []
    exponent = _find_exponent(known)
    counts, edges = np.histogram(np.ldexp(known, -exponent), n_bins)
    return np.ldexp(edges, exponent).tolist(), counts.tolist()


def compute_autocorrelation(values: np.ndarray, lag_steps: int) -> float | None:
    """Pearson correlation of *values*, one a step, with those so many steps before."""
    if lag_steps >= len(values):
        return None
    return compute_pearson(values[lag_steps:], values[: len(values) - lag_steps])


def compute_pearson(a: np.ndarray, b: np.ndarray) -> float | None:
    """Correlation of the pairs of which both are known."""
    a, b = _select_pairs(a, b)
    return None if len(a) < MIN_PAIRS else _correlate(a, b)


def compute_spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """`compute_pearson` of ranks; equal values have the mean of their ranks."""
    a, b = _select_pairs(a, b)
    return None if len(a) < MIN_PAIRS else _correlate(_rank(a), _rank(b))


def count_pairs(a: np.ndarray, b: np.ndarray) -> int:
    """Pairs of which both are known."""
    return int((np.isfinite(a) & np.isfinite(b)).sum())


def lag(values: np.ndarray, lag_steps: int) -> np.ndarray:
    """*values*, one a step, so many steps before; NaN where there is none."""
    return np.concatenate([np.full(min(lag_steps, len(values)), np.nan), values])[: len(values)]


def _select_pairs(*of: np.ndarray) -> Sequence[np.ndarray]:
    is_known = np.logical_and.reduce([np.isfinite(values) for values in of])
    return [values[is_known] for values in of]


def _correlate(a: np.ndarray, b: np.ndarray) -> float | None:
    parts = []
    for values in (a, b):
        scaled = np.ldexp(values, -_find_exponent(values))
        if (scaled == scaled[0]).all():
            return None
        centred = scaled - scaled.mean()
        parts.append(np.ldexp(centred, -_find_exponent(centred)))
    a, b = parts
    return float(np.clip((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()), -1.0, 1.0))


def _rank(values: np.ndarray) -> np.ndarray:
    _, inverse, n = np.unique(values, return_inverse=True, return_counts=True)
    of_value: np.ndarray = np.cumsum(n) - (n - 1) / 2
    return of_value[inverse]


def _find_exponent(known: np.ndarray) -> int:
    """By which power of two the largest of *known* is divided to be below 1."""
    return int(np.frexp(np.abs(known).max())[1])
