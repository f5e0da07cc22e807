"""Least squares with a penalty, one set of coefficients for each step, from the products of a
single pass over the rows.

Steps differ in which targets are known. The products of a step are those of all rows minus those of
the rows that it misses: the purge takes the newest, gaps some more. Groups of rows, weights and the
absolute loss start from there and share one product among the steps.
"""

from typing import NamedTuple

import numpy as np

from tasks.core.blocks import split_blocks

_MOMENT_ROWS = 65_536  # rows turned to float64 at a time
_BLOCK_ROWS = 4096  # rows multiplied at a time: what a cache holds; sums of blocks are kept in float64
_BLOCK_PATTERNS = 64  # products held at a time: of 336 lags 58 MB
ROUNDS = 3  # of reweighting; on M4 Hourly two and eight differ by .0002 OWA
_LEAST_ERROR = 0.05  # quantile of the rows' errors below which a row's weight grows no further


class NormalEquations(NamedTuple):
    """Of H steps and K inputs with a leading 1: xx (H, K+1, K+1), xz (H, K+1), zz (H,), n (H,)
    how many targets are known.
    """

    xx: np.ndarray
    xz: np.ndarray
    zz: np.ndarray
    n: np.ndarray

    def __add__(self, other: "NormalEquations") -> "NormalEquations":  # type: ignore[override]
        return NormalEquations(*(a + b for a, b in zip(self, other, strict=True)))


def build_normal_equations(inputs: np.ndarray, target: np.ndarray) -> NormalEquations:
    """Products of inputs (n, K) and target (n, H), NaN where unknown, summed over the rows."""
    n_inputs, n_steps = inputs.shape[1] + 1, target.shape[1]
    total = NormalEquations(
        np.zeros((n_steps, n_inputs, n_inputs)),
        np.zeros((n_steps, n_inputs)),
        np.zeros(n_steps),
        np.zeros(n_steps),
    )
    for part in split_blocks(len(inputs), _MOMENT_ROWS):
        total = total + _compute_normal_equations(inputs[part], target[part])
    return total


def _compute_normal_equations(inputs: np.ndarray, target: np.ndarray) -> NormalEquations:
    ones = np.column_stack([np.ones(len(inputs)), inputs.astype(np.float64)])
    known = np.isfinite(target)
    z = np.where(known, target, 0.0).astype(np.float64)
    n_inputs, n_steps = ones.shape[1], z.shape[1]
    xx = np.repeat((ones.T @ ones).reshape(1, -1), n_steps, axis=0)
    rows = np.flatnonzero(~known.all(axis=1))
    # Rows that miss the same steps share one product
    patterns, which = np.unique(known[rows], axis=0, return_inverse=True)
    of = np.split(
        rows[np.argsort(which.reshape(-1), kind="stable")],
        np.cumsum(np.bincount(which.reshape(-1), minlength=len(patterns))),
    )
    for part in split_blocks(len(patterns), _BLOCK_PATTERNS):
        products = np.stack([(ones[at].T @ ones[at]).ravel() for at in of[part]])
        xx -= (~patterns[part]).T.astype(np.float64) @ products
    xx = xx.reshape(n_steps, n_inputs, n_inputs)
    return NormalEquations(xx, (ones.T @ z).T, np.square(z).sum(axis=0), known.sum(axis=0).astype(np.float64))


def fit_coefficients(of: NormalEquations, penalty: float) -> np.ndarray:
    """Coefficients (H, K+1), the intercept first and free; zeros for a step without targets.

    penalty: added to each squared coefficient, as a share of the number of rows (inputs are
    standardised).
    """
    diagonal = np.eye(of.xx.shape[1]) * np.maximum(of.n, 1.0)[:, None, None]
    # Without any, equal columns have no one answer; a millionth moves no coefficient that matters
    diagonal[:, 1:, 1:] *= max(penalty, 1e-6)
    diagonal[:, 0, 0] = np.where(of.n > 0, 0.0, 1.0)
    out: np.ndarray = np.linalg.solve(of.xx + diagonal, of.xz[:, :, None])[:, :, 0]
    return np.where(of.n[:, None] > 0, out, 0.0)


def compute_squared_error(of: NormalEquations, coefficients: np.ndarray) -> float:
    """Summed squared error over the rows and steps of *of*."""
    fitted = np.einsum("hi,hij,hj->h", coefficients, of.xx, coefficients)
    return float((of.zz - 2 * np.einsum("hi,hi->h", coefficients, of.xz) + fitted).sum())


def fit_reweighted(
    inputs: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    rows: np.ndarray,
    penalty: float,
    start: np.ndarray,
    *,
    absolute: bool,
) -> np.ndarray:
    """Coefficients (H, K+1) after `ROUNDS` of weighted least squares from *start* (H, K+1), with
    one product for all steps.

    rows: which of inputs (n, K) and target (n, H) are learned from. weight: (n,) of each row, which
    knows one step at least. absolute: a row's weight is divided by its mean absolute error so far,
    which turns the squared loss into an absolute one. What is unknown of *target* is taken as
    fitted so far, and so moves nothing. Source: Holland & Welsch 1977,
    doi:10.1080/03610927708827533; for the unknown Dempster, Laird & Rubin 1977, J. of the Royal
    Statistical Society B 39(1).
    """
    target, weight = target[rows], weight[rows]
    known, coefficients, parts = np.isfinite(target), start, list(split_blocks(len(rows), _BLOCK_ROWS))
    fitted = np.empty_like(target)
    for _ in range(ROUNDS):
        own = coefficients.T.astype(np.float32)
        for part in parts:
            fitted[part] = inputs[rows[part]] @ own[1:] + own[0]
        error = np.where(known, np.abs(target - fitted), 0.0).sum(axis=1) / known.sum(axis=1)
        scaled = (
            weight / np.maximum(error, max(float(np.quantile(error, _LEAST_ERROR)), 1e-30))
            if absolute
            else weight
        )
        root = np.sqrt(scaled / scaled.mean()).astype(np.float32)[:, None]
        products = np.zeros((len(own) + target.shape[1],) * 2)
        for part in parts:
            products += _compute_product(
                root[part], inputs[rows[part]], np.where(known[part], target[part], fitted[part])
            )
        xx, xz = np.split(products[: len(own)], [len(own)], axis=1)
        diagonal = np.full(len(xx), max(penalty, 1e-6) * len(rows))
        diagonal[0] = 0.0
        coefficients = np.linalg.solve(xx + np.diag(diagonal), xz).T
    return coefficients


def _compute_product(root: np.ndarray, inputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Of 1, *inputs* and *target* side by side, each row times its *root*, with themselves:
    symmetric, which BLAS computes at half the cost.
    """
    beside = np.concatenate([np.ones_like(root), inputs, target], axis=1)
    beside *= root
    return (beside.T @ beside).astype(np.float64)
