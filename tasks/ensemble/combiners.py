"""The combiners, simplest first. Each is fitted as of a cutoff, from forecasts whose outcome was known by then, and combines what comes after.

All start from the same members: one whose loss is more than `prune_above_frac` above the best's is left out, since weak members harm
every kind of average. Weights are fitted by least squares of the scaled errors in the space of z, whatever the primary score is; the
primary score then chooses among the combiners.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from tasks.core.schema import SERIES_KEY, series_key
from tasks.ensemble.align import Aligned
from tasks.ensemble.known import Errors, Known
from tasks.ensemble.params import EnsembleParams
from tasks.release.combine import Combination, Ranks, Regime, Weights, combine

PICKS = 50  # of greedy selection; a share is a multiple of 2 %
BORROWED = 500  # outcomes that a series or a regime borrows from everybody: with as many of its own it is half its own
PENALTIES = tuple(10.0**k for k in range(-4, 2))  # of stacking, as shares of the members' mean square
FOLLOWS = 2.0  # the recent combiner: weights are recent losses to the power of minus this
TREES: dict[str, Any] = {
    "objective": "regression",
    "num_leaves": 7,
    "learning_rate": 0.05,
    "min_data_in_leaf": 100,
    "lambda_l2": 10.0,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}  # fmt: skip  (small and slow: what is left after the mean is almost all noise)
N_TREES, TREE_ROWS = 100, 50_000

_SUM_WEIGHT = 1e3  # how strongly the row that makes weights sum to 1 counts beside rows of unit scale


@dataclass(frozen=True)
class Ground:
    """What combiners work on. absolute: members are pruned by mean absolute instead of mean squared scaled error, as the primary score asks."""

    aligned: Aligned
    errors: Errors
    params: EnsembleParams
    absolute: bool

    def kept(self, known: Known, members: Sequence[int]) -> list[int]:
        """Those of *members* that are not pruned; all of them while nothing is known."""
        losses = (known.absolute if self.absolute else np.diag(known.pooled)) / max(known.n, 1)
        best = min(losses[m] for m in members)
        return [m for m in members if losses[m] <= best * (1 + self.params.prune_above_frac)]

    def names(self, members: Sequence[int]) -> tuple[str, ...]:
        """Names of these members."""
        return tuple(self.aligned.models[m] for m in members)


class Combiner(ABC):
    """One way to combine. name: as in reports. unservable: why no release can compute it, or None."""

    name: str

    def unservable(self, ground: Ground) -> str | None:  # noqa: ARG002  (for those that look)
        """Why what it says cannot be served, however good it is; None when it can."""
        return None

    @abstractmethod
    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """The combination of *members* as of the cutoff with index *k*."""

    def run(self, ground: Ground, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """Combinations (K, S, H) along the timeline: at each cutoff by the last fit of *refits*, the first of which is 0."""
        aligned = ground.aligned
        out = np.empty(aligned.z_hat.shape[1:])
        for k, until in zip(refits, [*refits[1:], len(out)], strict=True):
            how = self.fit(ground, k, members)
            said = aligned.z_hat[[aligned.models.index(m) for m in how.members], k:until]
            rows = said.transpose(1, 2, 0, 3).reshape(-1, len(said), said.shape[3])
            group = np.zeros(len(rows), dtype=np.int64)
            if isinstance(how, Weights) and how.regime:
                group = ground.errors.regime[k:until].ravel()
            elif isinstance(how, Weights) and how.series:
                place = {key: i for i, key in enumerate(how.series)}
                group = np.tile([place[series_key(s)] for s in aligned.panel.series_ids], until - k)
            out[k:until] = combine(how, rows, group).reshape(out[k:until].shape)
        return out


class Mean(Combiner):
    """The plain average of the members that are kept."""

    name = "mean"

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        kept = ground.kept(ground.errors.at(k), members)
        return _weights(ground, kept, np.full((1, len(kept), 1), 1 / len(kept)))


class Ranked(Combiner):
    """Median, or voting: each member is a vote, and the quarter of them furthest down and the quarter furthest up do not count (at least one each)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        kept = ground.kept(ground.errors.at(k), members)
        table = np.zeros((len(kept) + 1, len(kept)))
        for n in range(1, len(kept) + 1):
            cut = (n - 1) // 2 if self.name == "median" else min(max(1, n // 4), (n - 1) // 2)
            table[n, cut : n - cut] = 1 / (n - 2 * cut)
        return Ranks(members=ground.names(kept), table=_tuples(table))


class Weighted(Combiner):
    """Non-negative weights that sum to 1, shrunk toward equal ones; `blending` fits them on the last slice of the past alone."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        of = known.pooled / max(known.n, 1) if self.name == "weighted" else known.newest / max(known.n_newest, 1)
        return _weights(ground, kept, _shrunk(of[np.ix_(kept, kept)], ground.params)[None, :, None])


class Greedy(Combiner):
    """Starting from the best, members are added one by one, again and again, whichever makes the average err least; the counts are the weights.

    Source: Caruana et al. 2004, doi:10.1145/1015330.1015432, selection with replacement.
    """

    name = "greedy"

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        of = known.pooled[np.ix_(kept, kept)]
        if not known.n:
            return _weights(ground, kept, np.full((1, len(kept), 1), 1 / len(kept)))
        count = np.zeros(len(kept))
        for _ in range(PICKS):
            count[int(np.argmin(2 * of @ count + np.diag(of)))] += 1  # (c + e_m)' of (c + e_m), less what all share
        return _weights(ground, kept, (count / PICKS)[None, :, None])


class PerStep(Combiner):
    """Weights of their own for each step, shrunk toward those of all steps together."""

    name = "per_step"

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        table = _borrowing(known.by_step, known.n_step, known, kept, ground.params)
        return _weights(ground, kept, table.T[None])


class PerSeries(Combiner):
    """Weights of their own for each series, shrunk toward everybody's, which a stranger gets."""

    name = "per_series"

    def unservable(self, ground: Ground) -> str | None:
        """Rows have to say whose they are."""
        there = set(SERIES_KEY) <= set(ground.aligned.panel.schema.names)
        return None if there else "the feature rows do not say whose they are; declare {kind: series} in `features.list`"

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        keys = [series_key(s) for s in ground.aligned.panel.series_ids]
        order = sorted(range(len(keys)), key=lambda s: keys[s])
        table = _borrowing(known.by_series[order], known.n_series[order], known, kept, ground.params)
        everybody = _shrunk(known.pooled[np.ix_(kept, kept)] / max(known.n, 1), ground.params)
        return _weights(ground, kept, np.concatenate([table, everybody[None]])[:, :, None], series=tuple(keys[s] for s in order))


class PerRegime(Combiner):
    """Weights of their own for each regime, the tercile of the last known value (of a volatility: calm, usual, wild), shrunk toward everybody's."""

    name = "per_regime"

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        table = _borrowing(known.by_regime, known.n_regime, known, kept, ground.params)
        regime = Regime(column=ground.aligned.panel.schema.last, above=known.above)
        return _weights(ground, kept, table[:, :, None], regime=regime)


class Stacking(Combiner):
    """Ridge regression of the outcome on the members, for each step, shrunk toward their mean; weights may be negative and still sum to 1.

    The penalty is chosen on the last slice of the past by a fit on what was before it. No intercept: the level is the intervals' task.
    Source: Breiman 1996, doi:10.1007/BF00117832; weights that sum to 1: Granger & Ramanathan 1984, doi:10.1002/for.3980030207.
    """

    name = "stacking"

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """See the class."""
        known = ground.errors.at(k)
        kept = ground.kept(known, members)
        newest, pooled = known.newest[np.ix_(kept, kept)], known.pooled[np.ix_(kept, kept)]
        older = pooled - newest
        penalty = min(PENALTIES, key=lambda p: _square(_toward_mean(older, p), newest)) if known.n > known.n_newest > 0 else PENALTIES[-1]
        table = np.stack([_toward_mean(of[np.ix_(kept, kept)], penalty) for of in known.by_step], axis=1)
        return _weights(ground, kept, table[None], whole=True)


class StackingTrees(Combiner):
    """Boosted trees of what the mean of the members misses, on how far each is from that mean and on the step.

    What they say where members agree is taken off: a combination of equal members is that member.
    """

    name = "stacking_trees"

    def unservable(self, ground: Ground) -> str | None:  # noqa: ARG002  (it never can)
        """Members' graphs differ from their forecasters in the last bits."""
        return "trees below the members would compare results of matrix products, whose last bits differ between machines"

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """No release computes it."""
        raise NotImplementedError

    def run(self, ground: Ground, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """Fitted at the last refit and at one halfway there; the plain mean before."""
        aligned = ground.aligned
        kept = ground.kept(ground.errors.at(refits[-1]), members)
        out = Mean().run(ground, [0], kept)
        fits = [refits[len(refits) // 2], refits[-1]] if len(refits) > 2 else [refits[-1]]  # noqa: PLR2004  (nothing lies halfway)
        for k, until in zip(fits, [*fits[1:], len(out)], strict=True):
            kept = ground.kept(ground.errors.at(k), members)
            z_hat = aligned.z_hat[kept]
            mean = z_hat.mean(axis=0)
            steps = np.broadcast_to(np.arange(mean.shape[2], dtype=np.float64), mean.shape)
            inputs = np.stack([*(z_hat - mean) / aligned.scale[:, :, None], steps], axis=-1)
            target = (aligned.z - mean) / aligned.scale[:, :, None]
            usable = np.flatnonzero(aligned.known_by(k) & np.isfinite(inputs).all(axis=-1) & np.isfinite(target))
            usable = usable[:: -(-len(usable) // TREE_ROWS) or 1]
            rows = inputs[k:until].reshape(-1, inputs.shape[-1])
            moved = _trees_say(inputs.reshape(-1, inputs.shape[-1])[usable], target.ravel()[usable], rows)
            out[k:until] = mean[k:until] + aligned.scale[k:until, :, None] * moved.reshape(mean[k:until].shape)
        return out


class Recent(Combiner):
    """Weights that follow the members' recent losses, series by series, from each cutoff to the next. Source: Bates & Granger 1969, doi:10.1057/jors.1969.103."""

    name = "recent"

    def unservable(self, ground: Ground) -> str | None:  # noqa: ARG002  (it never can)
        """Its state is not in a release."""
        return "its weights move with every outcome, and a release keeps no forecasts of single members to replay them from"

    def fit(self, ground: Ground, k: int, members: Sequence[int]) -> Combination:
        """No release computes it."""
        raise NotImplementedError

    def run(self, ground: Ground, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """See the class; members are pruned as of the last refit that lies before each cutoff."""
        aligned = ground.aligned
        loss, n = _became_known(aligned, absolute=ground.absolute)
        fade = 0.5 ** (1 / ground.params.recent_cutoffs)
        out = np.empty(aligned.z_hat.shape[1:])
        sums, counts = np.zeros(loss.shape[1:]), np.zeros(n.shape[1:])
        kept = list(members)
        for k in range(len(out)):
            if k in refits:
                kept = ground.kept(ground.errors.at(k), members)
            sums, counts = fade * sums + loss[k], fade * counts + n[k]
            mean = np.where(counts > 0, sums / np.maximum(counts, 1e-12), 1.0)[kept]
            weights = (np.maximum(mean, 1e-12) / np.maximum(mean, 1e-12).min(axis=0)) ** -FOLLOWS
            said = aligned.z_hat[kept, k]
            there = np.isfinite(said) * weights[:, :, None]
            total = there.sum(axis=0)
            out[k] = np.where(total > 0, (there * np.nan_to_num(said)).sum(axis=0) / np.where(total > 0, total, 1.0), np.nan)
        return out


COMBINERS: tuple[Combiner, ...] = (
    Mean(), Ranked("median"), Ranked("voting"), Weighted("weighted"), Weighted("blending"), Greedy(),
    PerStep(), PerRegime(), PerSeries(), Stacking(), StackingTrees(), Recent(),
)  # fmt: skip


def shares(how: Combination, models: Sequence[str]) -> np.ndarray:
    """(M,) share of each model, sum 1: the mean of its weights over groups and steps, by size where they have a sign; equal ones by rank."""
    out = np.zeros(len(models))
    size = np.ones(len(how.members)) if isinstance(how, Ranks) else np.abs(np.asarray(how.table)).mean(axis=(0, 2))
    out[[list(models).index(name) for name in how.members]] = size / size.sum()
    return out


def _weights(ground: Ground, kept: Sequence[int], table: np.ndarray, **rest: Any) -> Weights:
    """table: (G, M, H or 1) of the members *kept*; those without any weight are left out."""
    used = [i for i in range(len(kept)) if (table[:, i] != 0).any()]
    return Weights(members=ground.names([kept[i] for i in used]), table=_tuples(table[:, used]), **rest)


def _tuples(table: np.ndarray) -> Any:
    return tuple(map(_tuples, table)) if table.ndim else float(table)


def _shrunk(of: np.ndarray, params: EnsembleParams) -> np.ndarray:
    """Simplex weights for mean products *of* (M, M), `shrink_frac` of the way to equal ones."""
    return (1 - params.shrink_frac) * _simplex(of) + params.shrink_frac / len(of)


def _borrowing(of: np.ndarray, n: np.ndarray, known: Known, kept: Sequence[int], params: EnsembleParams) -> np.ndarray:
    """(G, M) simplex weights of each group from its sums of products (G, M, M), shrunk toward everybody's the more the fewer outcomes n (G,) it has."""
    chosen = np.ix_(kept, kept)
    everybody = _shrunk(known.pooled[chosen] / max(known.n, 1), params)
    own = np.stack([_simplex(part[chosen] / max(count, 1)) for part, count in zip(of, n, strict=True)])
    share = (n / (n + BORROWED))[:, None]
    out: np.ndarray = share * own + (1 - share) * everybody
    return out


def _simplex(of: np.ndarray) -> np.ndarray:
    """Non-negative w, sum 1, that minimises w' of w; equal ones when *of* is 0. On the Cholesky factor, so the work does not grow with the rows."""
    if not np.trace(of) > 0:
        return np.full(len(of), 1 / len(of))
    padded = of + (1e-6 * np.trace(of) / len(of)) * np.eye(len(of))
    factor = np.linalg.cholesky(padded / (np.trace(padded) / len(padded))).T
    weights, _ = nnls(np.vstack([factor, np.full(len(of), _SUM_WEIGHT)]), np.append(np.zeros(len(of)), _SUM_WEIGHT))
    out: np.ndarray = weights / weights.sum()
    return out


def _toward_mean(of: np.ndarray, penalty: float) -> np.ndarray:
    """w that sums to 1 and minimises w' of w + penalty x |w - 1/M|^2 x the mean square of a member; equal ones when *of* is 0."""
    n = len(of)
    equal = np.full(n, 1 / n)
    if n == 1 or not np.trace(of) > 0:
        return equal
    apart = np.linalg.qr(np.column_stack([equal, np.eye(n)[:, :-1]]))[0][:, 1:]  # moves that keep the sum
    left = apart.T @ of @ apart + penalty * np.trace(of) / n * np.eye(n - 1)
    out: np.ndarray = equal - apart @ np.linalg.solve(left, apart.T @ of @ equal)
    return out


def _square(weights: np.ndarray, of: np.ndarray) -> float:
    return float(weights @ of @ weights)


def _became_known(aligned: Aligned, *, absolute: bool) -> tuple[np.ndarray, np.ndarray]:
    """Summed scaled losses (K, M, S) and their number (K, M, S) of what each cutoff was the first to know, over all steps."""
    n_members, n_cutoffs, n_series, n_steps = aligned.z_hat.shape
    loss, n = (np.zeros((n_cutoffs + 1, n_members, n_series)) for _ in range(2))
    first = np.minimum(np.maximum(aligned.known_k, np.arange(1, n_cutoffs + 1)[:, None, None]), n_cutoffs)
    series = np.broadcast_to(np.arange(n_series), (n_cutoffs, n_series))
    for h in range(n_steps):
        error = (aligned.z_hat[..., h] - aligned.z[..., h]) / aligned.scale
        there = np.isfinite(error)
        of = np.where(there, np.abs(error) if absolute else np.square(error), 0.0)
        for m in range(n_members):
            np.add.at(loss, (first[..., h], m, series), of[m])
            np.add.at(n, (first[..., h], m, series), there[m])
    return loss[:-1], n[:-1]


def _trees_say(inputs: np.ndarray, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What trees fitted to inputs (n, K) and target (n,) say for *rows* (m, K), less what they say where all deviations are 0."""
    if len(target) < 2 * TREES["min_data_in_leaf"]:
        return np.zeros(len(rows))
    import lightgbm  # noqa: PLC0415  (half a second, and only these trees need it)

    trees = lightgbm.train(TREES, lightgbm.Dataset(inputs, target), N_TREES)
    agreeing = np.zeros_like(rows)
    agreeing[:, -1] = rows[:, -1]
    out: np.ndarray = trees.predict(rows, num_threads=1) - trees.predict(agreeing, num_threads=1)
    return out
