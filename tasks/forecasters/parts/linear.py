"""Least squares with a penalty for each step, from products of one pass over the rows.

The known targets differ by step. The products of a step are those of all rows minus those of the
rows without its target: the newest, by the purge, and gaps. Groups of rows, weights and the
absolute loss start from there and have one product for all steps.
"""

from typing import NamedTuple

import numpy as np

from tasks.core.blocks import split_blocks

_MOMENT_ROWS = 65_536  # rows converted to float64 at a time
_BLOCK_ROWS = 4096  # rows multiplied at a time, which fit in a cache; sums of blocks are float64
_BLOCK_PATTERNS = 64  # products in memory at a time: of 336 lags 58 MB
ROUNDS = 3  # of reweighting; on M4 Hourly two and eight differ by .0002 OWA
_MIN_ERROR_QUANTILE = 0.05  # of the rows' errors; smaller errors give no larger weight


class NormalEquations(NamedTuple):
    """The products of H steps and K inputs with a leading 1.

    xx: (H, K+1, K+1). xz: (H, K+1). zz: (H,). n: (H,), the number of known targets.
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
    # Rows with the same unknown steps have one product
    patterns, pattern = np.unique(known[rows], axis=0, return_inverse=True)
    rows_of_patterns = np.split(
        rows[np.argsort(pattern.reshape(-1), kind="stable")],
        np.cumsum(np.bincount(pattern.reshape(-1), minlength=len(patterns))),
    )
    for part in split_blocks(len(patterns), _BLOCK_PATTERNS):
        products = np.stack([(ones[of].T @ ones[of]).ravel() for of in rows_of_patterns[part]])
        xx -= (~patterns[part]).T.astype(np.float64) @ products
    xx = xx.reshape(n_steps, n_inputs, n_inputs)
    return NormalEquations(xx, (ones.T @ z).T, np.square(z).sum(axis=0), known.sum(axis=0).astype(np.float64))


def fit_coefficients(equations: NormalEquations, penalty: float) -> np.ndarray:
    """Coefficients (H, K+1), the intercept first and not penalised; 0 for a step without targets.

    penalty: added to each squared coefficient, as a fraction of the number of rows; inputs are
        standardised.
    """
    diagonal = np.eye(equations.xx.shape[1]) * np.maximum(equations.n, 1.0)[:, None, None]
    # Without a penalty, equal columns have no unique solution; a millionth changes no other one
    diagonal[:, 1:, 1:] *= max(penalty, 1e-6)
    diagonal[:, 0, 0] = np.where(equations.n > 0, 0.0, 1.0)
    out: np.ndarray = np.linalg.solve(equations.xx + diagonal, equations.xz[:, :, None])[:, :, 0]
    return np.where(equations.n[:, None] > 0, out, 0.0)


def compute_squared_error(equations: NormalEquations, coefficients: np.ndarray) -> float:
    """Summed squared error over the rows and steps of *equations*."""
    fitted = np.einsum("hi,hij,hj->h", coefficients, equations.xx, coefficients)
    return float((equations.zz - 2 * np.einsum("hi,hi->h", coefficients, equations.xz) + fitted).sum())


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
    """Coefficients (H, K+1) after `ROUNDS` of weighted least squares from *start* (H, K+1).

    With one product for all steps. An unknown target has the fitted value of the last round, and so
    no influence.
    inputs: (n, K). target: (n, H).
    rows: the rows to learn from, each with at least one known step.
    weight: (n,).
    absolute: divide a row's weight by its mean absolute error of the last round, which turns the
        squared loss into an absolute one.
    Source: Holland & Welsch 1977, doi:10.1080/03610927708827533; for unknown targets Dempster,
    Laird & Rubin 1977, J. of the Royal Statistical Society B 39(1).
    """
    target, weight = target[rows], weight[rows]
    known, coefficients, parts = np.isfinite(target), start, list(split_blocks(len(rows), _BLOCK_ROWS))
    fitted = np.empty_like(target)
    for _ in range(ROUNDS):
        last = coefficients.T.astype(np.float32)
        for part in parts:
            fitted[part] = inputs[rows[part]] @ last[1:] + last[0]
        error = np.where(known, np.abs(target - fitted), 0.0).sum(axis=1) / known.sum(axis=1)
        scaled = (
            weight / np.maximum(error, max(float(np.quantile(error, _MIN_ERROR_QUANTILE)), 1e-30))
            if absolute
            else weight
        )
        root = np.sqrt(scaled / scaled.mean()).astype(np.float32)[:, None]
        products = np.zeros((len(last) + target.shape[1],) * 2)
        for part in parts:
            products += _compute_product(
                root[part], inputs[rows[part]], np.where(known[part], target[part], fitted[part])
            )
        xx, xz = np.split(products[: len(last)], [len(last)], axis=1)
        diagonal = np.full(len(xx), max(penalty, 1e-6) * len(rows))
        diagonal[0] = 0.0
        coefficients = np.linalg.solve(xx + np.diag(diagonal), xz).T
    return coefficients


def _compute_product(root: np.ndarray, inputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """J.T @ J of J = (1, *inputs*, *target*), each row times its *root*.

    One matrix with itself: symmetric, which BLAS computes at half the cost.
    """
    joined = np.concatenate([np.ones_like(root), inputs, target], axis=1)
    joined *= root
    return (joined.T @ joined).astype(np.float64)
