"""The combiners, simplest first.

Each is fitted as of a cutoff, from forecasts whose outcome was known by then, and combines the
forecasts of later cutoffs. All start from the same members: one whose loss is more than
`prune_above_frac` above the best's is left out, since weak members harm every kind of average.
Weights are fitted by least squares of the scaled errors in the space of z, whatever the primary
score is; the primary score then decides between the combiners.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from tasks.core.schema import SERIES_KEY, encode_series_id
from tasks.ensemble.combiner import Combiner, CombinerContext, FittedCombiner
from tasks.ensemble.known import KnownErrors
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stacked_trees import StackedTreesCombiner
from tasks.release.combine import Combination, Ranks, Recency, Regime, Weights
from tasks.release.recent import apply_recent_weights, compute_recent_weights

N_PICKS = 50  # of greedy selection; a share is a multiple of 2 %
# Weight of the pooled fit, in outcomes: with as many of its own, a group is halfway between both
PRIOR_OUTCOMES = 500
PENALTIES = tuple(10.0**k for k in range(-4, 2))  # of stacking, as shares of the members' mean square

_SUM_WEIGHT = 1e3  # of the row that makes weights sum to 1, relative to rows of unit scale


class MeanCombiner(FittedCombiner):
    """The plain average of the members that are kept."""

    name = "mean"

    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        kept = context.prune_members(context.errors.get_known(k), members)
        return _build_weights(context, kept, np.full((1, len(kept), 1), 1 / len(kept)))


class RankCombiner(FittedCombiner):
    """Median or voting: an average of the middle forecasts by rank.

    For voting, the lowest and the highest quarter of the members' forecasts are left out (at least
    one each).
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        kept = context.prune_members(context.errors.get_known(k), members)
        table = np.zeros((len(kept) + 1, len(kept)))
        for n in range(1, len(kept) + 1):
            cut = (n - 1) // 2 if self.name == "median" else min(max(1, n // 4), (n - 1) // 2)
            table[n, cut : n - cut] = 1 / (n - 2 * cut)
        return Ranks(members=context.list_names(kept), table=_convert_to_tuples(table))


class WeightedCombiner(FittedCombiner):
    """Non-negative weights that sum to 1, shrunk toward equal ones.

    `blending` fits them on the last slice of the past alone.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = context.errors.get_known(k)
        kept = context.prune_members(known, members)
        products = (
            known.pooled / max(known.n, 1)
            if self.name == "weighted"
            else known.newest / max(known.n_newest, 1)
        )
        return _build_weights(
            context, kept, _fit_shrunk(products[np.ix_(kept, kept)], context.params)[None, :, None]
        )


class GreedyCombiner(FittedCombiner):
    """Greedy selection with replacement; the counts are the weights.

    It starts from the best member and repeatedly adds the one that gives the average the lowest
    error.

    Source: Caruana et al. 2004, doi:10.1145/1015330.1015432, selection with replacement.
    """

    name = "greedy"

    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = context.errors.get_known(k)
        kept = context.prune_members(known, members)
        products = known.pooled[np.ix_(kept, kept)]
        if not known.n:
            return _build_weights(context, kept, np.full((1, len(kept), 1), 1 / len(kept)))
        count = np.zeros(len(kept))
        for _ in range(N_PICKS):
            # (c + e_m)' products (c + e_m), without the terms that are equal for all m
            count[int(np.argmin(2 * products @ count + np.diag(products)))] += 1
        return _build_weights(context, kept, (count / N_PICKS)[None, :, None])


class StepCombiner(FittedCombiner):
    """Weights of their own for each step, shrunk toward those of all steps together."""

    name = "per_step"

    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = context.errors.get_known(k)
        kept = context.prune_members(known, members)
        table = _fit_group_weights(known.by_step, known.n_step, known, kept, context.params)
        return _build_weights(context, kept, table.T[None])


class SeriesCombiner(FittedCombiner):
    """Weights of their own for each series, shrunk toward the pooled ones.

    A series that was not in the fit gets the pooled weights.
    """

    name = "per_series"

    def find_obstacle(self, context: CombinerContext) -> str | None:
        """The feature rows need a column for the series."""
        has_series_key = set(SERIES_KEY) <= set(context.aligned.panel.schema.names)
        return (
            None
            if has_series_key
            else "the feature rows have no column for the series; declare {kind: series} in `features.list`"
        )

    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = context.errors.get_known(k)
        kept = context.prune_members(known, members)
        keys = [encode_series_id(s) for s in context.aligned.panel.series_ids]
        order = sorted(range(len(keys)), key=lambda s: keys[s])
        table = _fit_group_weights(known.by_series[order], known.n_series[order], known, kept, context.params)
        pooled_weights = _fit_shrunk(known.pooled[np.ix_(kept, kept)] / max(known.n, 1), context.params)
        return _build_weights(
            context,
            kept,
            np.concatenate([table, pooled_weights[None]])[:, :, None],
            series=tuple(keys[s] for s in order),
        )


class RegimeCombiner(FittedCombiner):
    """Weights of their own for each regime, shrunk toward the pooled ones.

    A regime is the tercile of the last known value (of a volatility: calm, usual, wild).
    """

    name = "per_regime"

    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = context.errors.get_known(k)
        kept = context.prune_members(known, members)
        table = _fit_group_weights(known.by_regime, known.n_regime, known, kept, context.params)
        regime = Regime(column=context.aligned.panel.schema.last, above=known.above)
        return _build_weights(context, kept, table[:, :, None], regime=regime)


class StackingCombiner(FittedCombiner):
    """Ridge regression of the outcome on the members, for each step, shrunk toward their mean.

    Weights may be negative and sum to 1. The penalty is chosen on the last slice of the past by a
    fit on what was before it. There is no intercept: the intervals correct the level.
    Source: Breiman 1996, doi:10.1007/BF00117832; weights that sum to 1: Granger & Ramanathan 1984,
    doi:10.1002/for.3980030207.
    """

    name = "stacking"

    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = context.errors.get_known(k)
        kept = context.prune_members(known, members)
        newest, pooled = known.newest[np.ix_(kept, kept)], known.pooled[np.ix_(kept, kept)]
        older = pooled - newest
        penalty = (
            min(PENALTIES, key=lambda p: _compute_square(_fit_toward_mean(older, p), newest))
            if known.n > known.n_newest > 0
            else PENALTIES[-1]
        )
        table = np.stack([_fit_toward_mean(of[np.ix_(kept, kept)], penalty) for of in known.by_step], axis=1)
        return _build_weights(context, kept, table[None], whole=True)


class RecentCombiner(FittedCombiner):
    """Weights that follow each member's recent losses, per series (tasks.release.recent).

    They change from each cutoff to the next.
    """

    name = "recent"

    def fit(self, context: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """The members that are kept from *k* on, and their mean weights there.

        The weights of each series change at later cutoffs.
        """
        kept = context.prune_members(context.errors.get_known(k), members)
        table = compute_recent_weights(context.recent_losses[k : k + 1, kept]).mean(axis=2)[:, :, None]
        return _build_weights(
            context,
            kept,
            table,
            recent=Recency(half_life_cutoffs=context.params.recent_cutoffs, absolute=context.absolute),
        )

    def run(self, context: CombinerContext, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """See the class."""
        out = np.empty(context.aligned.z_hat.shape[1:])
        for k, end in zip(refits, [*refits[1:], len(out)], strict=True):
            kept = context.prune_members(context.errors.get_known(k), members)
            out[k:end] = apply_recent_weights(
                compute_recent_weights(context.recent_losses[k:end, kept]), context.aligned.z_hat[kept, k:end]
            )
        return out


COMBINERS: tuple[Combiner, ...] = (
    MeanCombiner(),
    RankCombiner("median"),
    RankCombiner("voting"),
    WeightedCombiner("weighted"),
    WeightedCombiner("blending"),
    GreedyCombiner(),
    StepCombiner(),
    RegimeCombiner(),
    SeriesCombiner(),
    StackingCombiner(),
    RecentCombiner(),
    StackedTreesCombiner(),
)


def list_combiners(names: Sequence[str]) -> list[Combiner]:
    """Those of *names*, in their order."""
    by_name = {combiner.name: combiner for combiner in COMBINERS}
    return [by_name[name] for name in names]


def get_fitted_combiner(name: str) -> FittedCombiner:
    """The combiner *name*, whose fit a release can hold."""
    return next(c for c in COMBINERS if isinstance(c, FittedCombiner) and c.name == name)


def _build_weights(context: CombinerContext, kept: Sequence[int], table: np.ndarray, **rest: Any) -> Weights:
    """Weights of the members *kept*; those whose weights are all 0 are left out.

    table: (G, M, H or 1).
    """
    used = [i for i in range(len(kept)) if (table[:, i] != 0).any()]
    return Weights(
        members=context.list_names([kept[i] for i in used]), table=_convert_to_tuples(table[:, used]), **rest
    )


def _convert_to_tuples(table: np.ndarray) -> Any:
    return tuple(map(_convert_to_tuples, table)) if table.ndim else float(table)


def _fit_shrunk(products: np.ndarray, params: EnsembleParams) -> np.ndarray:
    """Simplex weights for mean products of errors (M, M), shrunk by `shrink_frac` to equal ones."""
    return (1 - params.shrink_frac) * _fit_simplex(products) + params.shrink_frac / len(products)


def _fit_group_weights(
    products: np.ndarray, n: np.ndarray, known: KnownErrors, kept: Sequence[int], params: EnsembleParams
) -> np.ndarray:
    """(G, M) simplex weights of each group, shrunk toward the pooled ones.

    products: (G, M, M) sums of products of errors.
    n: (G,) outcomes of each group; the fewer there are, the more its weights are shrunk.
    """
    members = np.ix_(kept, kept)
    pooled_weights = _fit_shrunk(known.pooled[members] / max(known.n, 1), params)
    group_weights = np.stack(
        [_fit_simplex(part[members] / max(count, 1)) for part, count in zip(products, n, strict=True)]
    )
    own_share = (n / (n + PRIOR_OUTCOMES))[:, None]
    out: np.ndarray = own_share * group_weights + (1 - own_share) * pooled_weights
    return out


def _fit_simplex(products: np.ndarray) -> np.ndarray:
    """Non-negative w, sum 1, that minimises w' products w; equal ones when all products are 0.

    It works on the Cholesky factor, so its cost does not grow with the number of rows.
    """
    if not np.trace(products) > 0:
        return np.full(len(products), 1 / len(products))
    padded = products + (1e-6 * np.trace(products) / len(products)) * np.eye(len(products))
    factor = np.linalg.cholesky(padded / (np.trace(padded) / len(padded))).T
    weights, _ = nnls(
        np.vstack([factor, np.full(len(products), _SUM_WEIGHT)]),
        np.append(np.zeros(len(products)), _SUM_WEIGHT),
    )
    out: np.ndarray = weights / weights.sum()
    return out


def _fit_toward_mean(products: np.ndarray, penalty: float) -> np.ndarray:
    """Weights with sum 1 from a ridge regression with its penalty on the distance from the mean.

    They minimise w' products w + penalty x |w - 1/M|^2 x (mean square of a member). Equal weights
    when all products are 0.
    """
    n = len(products)
    equal = np.full(n, 1 / n)
    if n == 1 or not np.trace(products) > 0:
        return equal
    # Directions that keep the sum
    directions = np.linalg.qr(np.column_stack([equal, np.eye(n)[:, :-1]]))[0][:, 1:]
    matrix = directions.T @ products @ directions + penalty * np.trace(products) / n * np.eye(n - 1)
    out: np.ndarray = equal - directions @ np.linalg.solve(matrix, directions.T @ products @ equal)
    return out


def _compute_square(weights: np.ndarray, products: np.ndarray) -> float:
    return float(weights @ products @ weights)
