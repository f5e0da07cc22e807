"""Other methods that say what moves a forecast, to be held against the Shapley values.

Each is a different question, so agreement is evidence and not a law: permutation importance asks
what the errors lose (Breiman 2001, doi:10.1023/A:1010933404324), a local linear model what a row's
neighbourhood does (LIME: Ribeiro et al. 2016, doi:10.1145/2939672.2939778), a partial dependence
what one feature does while the rest stays (Friedman 2001, doi:10.1214/aos/1013203451), row by row
the individual conditional expectation (Goldstein et al. 2015, doi:10.1080/10618600.2014.907095).
The library lime has had no release since 2020.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.explain.shapley import Function

N_REPEATS = 5  # permutations of each column
N_NEIGHBOURS = 300  # rows around the explained one
LIME_WIDTH = 0.75  # of the kernel, times the root of the number of features; the authors' choice
RIDGE = 1e-3  # keeps the local model solvable when columns are tied or constant
N_GRID = 12  # values of a partial dependence


class Curves(NamedTuple):
    """The forecast along one feature, the mean over the horizon.

    values: (G,) of the feature, ascending, between its .05 and .95 quantile.
    rows: (n, G) of each row with that value (ICE); their mean is the partial dependence.
    """

    values: np.ndarray
    rows: np.ndarray


def compute_permutation_importance(
    f: Function,
    x: np.ndarray,
    truth: np.ndarray,
    columns: Sequence[int],
    rng: np.random.Generator,
    tied: dict[int, int] | None = None,
) -> np.ndarray:
    """(len(columns),) by what the mean absolute error grows when a column's values change rows.

    truth: (n, H) outcomes in the space of f; NaN where there is none.
    tied: as for `compute_shapley`: a follower moves with its leader.
    """
    followers = {leader: j for j, leader in (tied or {}).items()}
    before = np.nanmean(np.abs(f(x) - truth))
    out = np.zeros(len(columns))
    for k, column in enumerate(columns):
        moved = np.unique([column, followers.get(column, column)])
        for _ in range(N_REPEATS):
            changed = x.copy()
            changed[:, moved] = x[rng.permutation(len(x))][:, moved]
            out[k] += (np.nanmean(np.abs(f(changed) - truth)) - before) / N_REPEATS
    return out


def compute_lime(
    f: Function,
    row: np.ndarray,
    background: np.ndarray,
    columns: Sequence[int],
    rng: np.random.Generator,
    tied: dict[int, int] | None = None,
) -> np.ndarray:
    """(len(columns), H) of a linear model around *row*: what each own value adds.

    A neighbour has about half of the row's values; the others are those of a background row. The
    weight of a neighbour falls with the number of its foreign values.
    """
    followers = {leader: j for j, leader in (tied or {}).items()}
    is_own = rng.random((N_NEIGHBOURS, len(columns))) < 0.5
    is_own[0] = True
    near = background[rng.integers(len(background), size=N_NEIGHBOURS)]
    for k, column in enumerate(columns):
        for j in (column, followers.get(column, column)):
            near[is_own[:, k], j] = row[j]
    unread = np.setdiff1d(np.arange(len(row)), [*columns, *followers.values()])
    near[:, unread] = row[unread]
    width = LIME_WIDTH * np.sqrt(len(columns))
    weights = np.exp(-(~is_own).sum(axis=1) / width**2)
    design = np.column_stack([np.ones(N_NEIGHBOURS), is_own])
    weighted = design * weights[:, None]
    penalty = RIDGE * weights.sum() * np.diag([0.0, *np.ones(len(columns))])
    solved: np.ndarray = np.linalg.solve(design.T @ weighted + penalty, weighted.T @ f(near))
    return solved[1:]


def compute_curves(f: Function, x: np.ndarray, column: int) -> Curves:
    """The forecast of each row of x (n, F) with other values of *column*."""
    known = x[:, column][np.isfinite(x[:, column])]
    values = np.unique(np.quantile(known, np.linspace(0.05, 0.95, N_GRID))) if len(known) else known
    changed = np.repeat(x, len(values), axis=0)
    changed[:, column] = np.tile(values, len(x))
    rows = f(changed).mean(axis=1).reshape(len(x), len(values)) if len(values) else np.zeros((len(x), 0))
    return Curves(values, rows)


def compute_rank_agreement(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Spearman's rank correlation of two importances, -1 to 1; None when one ranks nothing."""
    if len(ours) < 2 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return None
    from scipy.stats import spearmanr  # half a second to import

    return float(spearmanr(ours, theirs).statistic)
