"""Least squares with a penalty, one set of coefficients for each step, from the products of a single pass over the rows.

Steps differ in which targets are known. The products of a step are those of all rows minus those of the rows that it misses, which are
few: the purge takes the newest, gaps some more.
"""

from typing import NamedTuple

import numpy as np

_BLOCK_ROWS = 65_536  # rows turned to float64 at a time


class Moments(NamedTuple):
    """Of H steps and K inputs with a leading 1: xx (H, K+1, K+1), xz (H, K+1), zz (H,), n (H,) how many targets are known."""

    xx: np.ndarray
    xz: np.ndarray
    zz: np.ndarray
    n: np.ndarray

    def __add__(self, other: "Moments") -> "Moments":  # type: ignore[override]
        return Moments(*(a + b for a, b in zip(self, other, strict=True)))


def moments(inputs: np.ndarray, target: np.ndarray) -> Moments:
    """Products of inputs (n, K) and target (n, H), NaN where unknown, summed over the rows."""
    n_inputs, n_steps = inputs.shape[1] + 1, target.shape[1]
    total = Moments(np.zeros((n_steps, n_inputs, n_inputs)), np.zeros((n_steps, n_inputs)), np.zeros(n_steps), np.zeros(n_steps))
    for start in range(0, len(inputs), _BLOCK_ROWS):
        total = total + _moments(inputs[start : start + _BLOCK_ROWS], target[start : start + _BLOCK_ROWS])
    return total


def _moments(inputs: np.ndarray, target: np.ndarray) -> Moments:
    ones = np.column_stack([np.ones(len(inputs)), inputs.astype(np.float64)])
    known = np.isfinite(target)
    z = np.where(known, target, 0.0).astype(np.float64)
    missed = [ones[~known[:, s]] for s in range(z.shape[1])]
    xx = (ones.T @ ones)[None] - np.stack([part.T @ part for part in missed])
    return Moments(xx, (ones.T @ z).T, np.square(z).sum(axis=0), known.sum(axis=0).astype(np.float64))


def solve(of: Moments, penalty: float) -> np.ndarray:
    """Coefficients (H, K+1), the intercept first and free; zeros for a step without targets.

    penalty: added to each squared coefficient, as a share of the number of rows (inputs are standardised).
    """
    diagonal = np.eye(of.xx.shape[1]) * np.maximum(of.n, 1.0)[:, None, None]
    diagonal[:, 1:, 1:] *= max(penalty, 1e-6)  # without any, equal columns have no one answer; a millionth moves no coefficient that matters
    diagonal[:, 0, 0] = np.where(of.n > 0, 0.0, 1.0)
    out: np.ndarray = np.linalg.solve(of.xx + diagonal, of.xz[:, :, None])[:, :, 0]
    return np.where(of.n[:, None] > 0, out, 0.0)


def squared_error(of: Moments, coefficients: np.ndarray) -> float:
    """Summed squared error over the rows and steps of *of*."""
    fitted = np.einsum("hi,hij,hj->h", coefficients, of.xx, coefficients)
    return float((of.zz - 2 * np.einsum("hi,hi->h", coefficients, of.xz) + fitted).sum())
