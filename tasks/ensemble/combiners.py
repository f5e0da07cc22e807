"""The combiners, simplest first.

Each is fitted as of a cutoff, from forecasts whose outcome was known by then, and combines what
comes after. All start from the same members: one whose loss is more than `prune_above_frac` above
the best's is left out, since weak members harm every kind of average. Weights are fitted by least
squares of the scaled errors in the space of z, whatever the primary score is; the primary score
then chooses among the combiners.
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

PICKS = 50  # of greedy selection; a share is a multiple of 2 %
# Outcomes that a series or a regime borrows from everybody: with as many of its own it is half its
# own
BORROWED = 500
PENALTIES = tuple(10.0**k for k in range(-4, 2))  # of stacking, as shares of the members' mean square

_SUM_WEIGHT = 1e3  # how strongly the row that makes weights sum to 1 counts beside rows of unit scale


class MeanCombiner(FittedCombiner):
    """The plain average of the members that are kept."""

    name = "mean"

    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        kept = ground.kept(ground.errors.at(k), members)
        return _build_weights(ground, kept, np.full((1, len(kept), 1), 1 / len(kept)))


class RankCombiner(FittedCombiner):
    """Median, or voting: each member is a vote, and the quarter of them furthest down and the
    quarter furthest up do not count (at least one each).
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        kept = ground.kept(ground.errors.at(k), members)
        table = np.zeros((len(kept) + 1, len(kept)))
        for n in range(1, len(kept) + 1):
            cut = (n - 1) // 2 if self.name == "median" else min(max(1, n // 4), (n - 1) // 2)
            table[n, cut : n - cut] = 1 / (n - 2 * cut)
        return Ranks(members=ground.names(kept), table=_convert_to_tuples(table))


class WeightedCombiner(FittedCombiner):
    """Non-negative weights that sum to 1, shrunk toward equal ones; `blending` fits them on the
    last slice of the past alone.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        of = (
            known.pooled / max(known.n, 1)
            if self.name == "weighted"
            else known.newest / max(known.n_newest, 1)
        )
        return _build_weights(ground, kept, _fit_shrunk(of[np.ix_(kept, kept)], ground.params)[None, :, None])


class GreedyCombiner(FittedCombiner):
    """Starting from the best, members are added one by one, again and again, whichever makes the
    average err least; the counts are the weights.

    Source: Caruana et al. 2004, doi:10.1145/1015330.1015432, selection with replacement.
    """

    name = "greedy"

    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        of = known.pooled[np.ix_(kept, kept)]
        if not known.n:
            return _build_weights(ground, kept, np.full((1, len(kept), 1), 1 / len(kept)))
        count = np.zeros(len(kept))
        for _ in range(PICKS):
            # (c + e_m)' of (c + e_m), less what all share
            count[int(np.argmin(2 * of @ count + np.diag(of)))] += 1
        return _build_weights(ground, kept, (count / PICKS)[None, :, None])


class StepCombiner(FittedCombiner):
    """Weights of their own for each step, shrunk toward those of all steps together."""

    name = "per_step"

    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        table = _fit_group_weights(known.by_step, known.n_step, known, kept, ground.params)
        return _build_weights(ground, kept, table.T[None])


class SeriesCombiner(FittedCombiner):
    """Weights of their own for each series, shrunk toward everybody's, which a stranger gets."""

    name = "per_series"

    def find_obstacle(self, ground: CombinerContext) -> str | None:
        """Rows have to say whose they are."""
        there = set(SERIES_KEY) <= set(ground.aligned.panel.schema.names)
        return (
            None
            if there
            else "the feature rows do not say whose they are; declare {kind: series} in `features.list`"
        )

    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        keys = [encode_series_id(s) for s in ground.aligned.panel.series_ids]
        order = sorted(range(len(keys)), key=lambda s: keys[s])
        table = _fit_group_weights(known.by_series[order], known.n_series[order], known, kept, ground.params)
        everybody = _fit_shrunk(known.pooled[np.ix_(kept, kept)] / max(known.n, 1), ground.params)
        return _build_weights(
            ground,
            kept,
            np.concatenate([table, everybody[None]])[:, :, None],
            series=tuple(keys[s] for s in order),
        )


class RegimeCombiner(FittedCombiner):
    """Weights of their own for each regime, the tercile of the last known value (of a
    volatility: calm, usual, wild), shrunk toward everybody's.
    """

    name = "per_regime"

    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        table = _fit_group_weights(known.by_regime, known.n_regime, known, kept, ground.params)
        regime = Regime(column=ground.aligned.panel.schema.last, above=known.above)
        return _build_weights(ground, kept, table[:, :, None], regime=regime)


class StackingCombiner(FittedCombiner):
    """Ridge regression of the outcome on the members, for each step, shrunk toward their mean;
    weights may be negative and still sum to 1.

    The penalty is chosen on the last slice of the past by a fit on what was before it. No
    intercept: the level is the intervals' task.
    Source: Breiman 1996, doi:10.1007/BF00117832; weights that sum to 1: Granger & Ramanathan 1984,
    doi:10.1002/for.3980030207.
    """

    name = "stacking"

    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        newest, pooled = known.newest[np.ix_(kept, kept)], known.pooled[np.ix_(kept, kept)]
        older = pooled - newest
        penalty = (
            min(PENALTIES, key=lambda p: _compute_square(_fit_toward_mean(older, p), newest))
            if known.n > known.n_newest > 0
            else PENALTIES[-1]
        )
        table = np.stack([_fit_toward_mean(of[np.ix_(kept, kept)], penalty) for of in known.by_step], axis=1)
        return _build_weights(ground, kept, table[None], whole=True)


class RecentCombiner(FittedCombiner):
    """Weights that follow the members' recent losses, series by series, from each cutoff to the
    next (tasks.release.recent).
    """

    name = "recent"

    def fit(self, ground: CombinerContext, k: int, members: Sequence[int]) -> Combination:
        """The members that are kept from *k* on, and their mean weights there; those of each
        series go on moving.
        """
        kept = ground.kept(ground.errors.at(k), members)
        table = compute_recent_weights(ground.recent[k : k + 1, kept]).mean(axis=2)[:, :, None]
        return _build_weights(
            ground,
            kept,
            table,
            recent=Recency(half_life_cutoffs=ground.params.recent_cutoffs, absolute=ground.absolute),
        )

    def run(self, ground: CombinerContext, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """See the class."""
        out = np.empty(ground.aligned.z_hat.shape[1:])
        for k, until in zip(refits, [*refits[1:], len(out)], strict=True):
            kept = ground.kept(ground.errors.at(k), members)
            out[k:until] = apply_recent_weights(
                compute_recent_weights(ground.recent[k:until, kept]), ground.aligned.z_hat[kept, k:until]
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


def _build_weights(ground: CombinerContext, kept: Sequence[int], table: np.ndarray, **rest: Any) -> Weights:
    """table: (G, M, H or 1) of the members *kept*; those without any weight are left out."""
    used = [i for i in range(len(kept)) if (table[:, i] != 0).any()]
    return Weights(
        members=ground.names([kept[i] for i in used]), table=_convert_to_tuples(table[:, used]), **rest
    )


def _convert_to_tuples(table: np.ndarray) -> Any:
    return tuple(map(_convert_to_tuples, table)) if table.ndim else float(table)


def _fit_shrunk(of: np.ndarray, params: EnsembleParams) -> np.ndarray:
    """Simplex weights for mean products *of* (M, M), `shrink_frac` of the way to equal ones."""
    return (1 - params.shrink_frac) * _fit_simplex(of) + params.shrink_frac / len(of)


def _fit_group_weights(
    of: np.ndarray, n: np.ndarray, known: KnownErrors, kept: Sequence[int], params: EnsembleParams
) -> np.ndarray:
    """(G, M) simplex weights of each group from its sums of products (G, M, M), shrunk toward
    everybody's the more the fewer outcomes n (G,) it has.
    """
    chosen = np.ix_(kept, kept)
    everybody = _fit_shrunk(known.pooled[chosen] / max(known.n, 1), params)
    own = np.stack([_fit_simplex(part[chosen] / max(count, 1)) for part, count in zip(of, n, strict=True)])
    share = (n / (n + BORROWED))[:, None]
    out: np.ndarray = share * own + (1 - share) * everybody
    return out


def _fit_simplex(of: np.ndarray) -> np.ndarray:
    """Non-negative w, sum 1, that minimises w' of w; equal ones when *of* is 0.

    On the Cholesky factor, so the work does not grow with the rows.
    """
    if not np.trace(of) > 0:
        return np.full(len(of), 1 / len(of))
    padded = of + (1e-6 * np.trace(of) / len(of)) * np.eye(len(of))
    factor = np.linalg.cholesky(padded / (np.trace(padded) / len(padded))).T
    weights, _ = nnls(
        np.vstack([factor, np.full(len(of), _SUM_WEIGHT)]), np.append(np.zeros(len(of)), _SUM_WEIGHT)
    )
    out: np.ndarray = weights / weights.sum()
    return out


def _fit_toward_mean(of: np.ndarray, penalty: float) -> np.ndarray:
    """w that sums to 1 and minimises w' of w + penalty x |w - 1/M|^2 x the mean square of a
    member; equal ones when *of* is 0.
    """
    n = len(of)
    equal = np.full(n, 1 / n)
    if n == 1 or not np.trace(of) > 0:
        return equal
    apart = np.linalg.qr(np.column_stack([equal, np.eye(n)[:, :-1]]))[0][:, 1:]  # moves that keep the sum
    left = apart.T @ of @ apart + penalty * np.trace(of) / n * np.eye(n - 1)
    out: np.ndarray = equal - apart @ np.linalg.solve(left, apart.T @ of @ equal)
    return out


def _compute_square(weights: np.ndarray, of: np.ndarray) -> float:
    return float(weights @ of @ weights)
