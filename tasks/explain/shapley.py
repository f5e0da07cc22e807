"""Shapley values of a function of feature rows, by random orders of the features.

A coalition S of features is worth the mean of f over the background, the features of S taken from
the row explained: what is left out is drawn, not guessed. Following one order from the empty
coalition to the whole one, each feature gets what its arrival adds; these sum to f(x) minus the
base whatever the order, so the parts add up exactly however few orders are tried. Each order is
also followed backwards, which makes pairs of interacting features fair. Source: Strumbelj &
Kononenko 2014, doi:10.1007/s10115-013-0679-x; both ways: Mitchell et al. 2022,
jmlr.org/papers/v23/21-0439.html. The library shap does the same and takes 8 s to import.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]

MAX_ORDERS = 10  # beyond this the parts change by less than with another background


class ShapleyParts(NamedTuple):
    """The parts of n rows, F features and H steps.

    base: (H,) mean of f over the background.
    parts: (n, F, H).
    z_hat: (n, H) f of the rows.
    """

    base: np.ndarray
    parts: np.ndarray
    z_hat: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """(n, H) absolute difference of base plus parts to z_hat."""
        out: np.ndarray = np.abs(self.base + self.parts.sum(axis=1) - self.z_hat)
        return out


def compute_shapley(
    f: Function,
    x: np.ndarray,
    background: np.ndarray,
    columns: np.ndarray,
    n_orders: int,
    seed: int,
    tied: dict[int, int] | None = None,
) -> ShapleyParts:
    """Parts of f, (n, F) -> (n, H), at the rows x (n, F) against *background* (B, F).

    columns: indices of those that f reads; the others keep the row's own values and get 0.
    n_orders: orders tried for each row.
    tied: {follower: leader}, columns that always change together and whose part the leader gets:
    either column alone has no meaning.
    """
    leader_of = {j: leader for j, leader in (tied or {}).items() if j in columns}
    columns = np.unique([leader_of.get(int(j), int(j)) for j in columns])
    base, z_hat = f(background).mean(axis=0), f(x)
    parts = np.zeros((*x.shape, z_hat.shape[1]))
    rng = np.random.default_rng(seed)
    for row, part in zip(x, parts, strict=True):
        for _ in range(n_orders):
            order = rng.permutation(columns)
            for path in (order, order[::-1]):
                part[path] += np.diff(_compute_worths(f, row, background, path, leader_of), axis=0)
    return ShapleyParts(base, parts / (2 * n_orders), z_hat)


def find_used_columns(f: Function, x: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Indices of the columns that f reads.

    A column is read when exchanging its values between rows, or removing them, changes f.
    """
    rows = np.concatenate([x, background])
    before = f(rows)
    return np.array(
        [
            j
            for j in range(rows.shape[1])
            if any((f(changed) != before).any() for changed in _build_disturbed(rows, j))
        ],
        dtype=np.int64,
    )


def decide_budget(
    n_rows: int, n_columns: int, n_background: int, n_steps: int, max_evaluations: int
) -> tuple[int, int]:
    """(rows, orders) within the budget: at least one row and one order, at any cost."""
    n_per_order = max(1, 2 * (n_columns + 1) * n_background * n_steps)
    rows = max(1, min(n_rows, max_evaluations // n_per_order))
    return rows, max(1, min(MAX_ORDERS, max_evaluations // (rows * n_per_order)))


def _compute_worths(
    f: Function, row: np.ndarray, background: np.ndarray, order: np.ndarray, leader_of: dict[int, int]
) -> np.ndarray:
    """(len(order) + 1, H) worth of each coalition along *order*."""
    arrived = np.zeros((len(order) + 1, len(row)), dtype=bool)
    arrived[:, np.setdiff1d(np.arange(len(row)), order)] = True
    for k, column in enumerate(order, start=1):
        arrived[k:, column] = True
    for j, leader in leader_of.items():
        arrived[:, j] = arrived[:, leader]
    mixed = np.where(arrived[:, None, :], row, background)
    worths: np.ndarray = (
        f(mixed.reshape(-1, len(row))).reshape(len(arrived), len(background), -1).mean(axis=1)
    )
    return worths


def _build_disturbed(rows: np.ndarray, column: int) -> list[np.ndarray]:
    disturbed = []
    values = rows[:, column]
    for other in (
        np.roll(values, 1),
        np.roll(values, len(values) // 2),
        np.flip(values),
        np.full(len(values), np.nan),
    ):
        changed = rows.copy()
        changed[:, column] = other
        disturbed.append(changed)
    return disturbed
