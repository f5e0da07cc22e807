"""Two combiners that compete in the report, so that it says what is missed, and that no release can compute."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.ensemble.align import Aligned
from tasks.ensemble.combiner import Combiner, Ground

TREES: dict[str, Any] = {  # small and slow: what is left after the mean is almost all noise
    "objective": "regression", "num_leaves": 7, "learning_rate": 0.05, "min_data_in_leaf": 100, "lambda_l2": 10.0, "seed": 1,
    "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbosity": -1,
}  # fmt: skip
N_TREES, TREE_ROWS = 100, 50_000
FOLLOWS = 2.0  # the recent combiner: weights are recent losses to the power of minus this


class StackingTrees(Combiner):
    """Boosted trees of what the mean of the members misses, on how far each is from that mean and on the step.

    What they say where members agree is taken off: a combination of equal members is that member.
    """

    name = "stacking_trees"

    def unservable(self, ground: Ground) -> str | None:  # noqa: ARG002  (it never can)
        """Members' graphs differ from their forecasters in the last bits."""
        return "trees below the members would compare results of matrix products, whose last bits differ between machines"

    def run(self, ground: Ground, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """Fitted at the last refit and at one halfway there; the plain mean before."""
        aligned = ground.aligned
        out = np.empty(aligned.z_hat.shape[1:])
        for k, until in zip(refits, [*refits[1:], len(out)], strict=True):
            out[k:until] = aligned.z_hat[ground.kept(ground.errors.at(k), members), k:until].mean(axis=0)
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


def _became_known(aligned: Aligned, *, absolute: bool) -> tuple[np.ndarray, np.ndarray]:
    """Summed scaled losses (K, M, S) and their number (K, M, S) of what each cutoff was the first to know, over all steps."""
    n_cutoffs, n_series, _ = aligned.y.shape
    first = np.minimum(np.maximum(aligned.known_k, np.arange(1, n_cutoffs + 1)[:, None, None]), n_cutoffs)
    cell = (first * n_series + np.arange(n_series)[:, None]).ravel()
    sums = []
    for z_hat in aligned.z_hat:
        error = ((z_hat - aligned.z) / aligned.scale[:, :, None]).ravel()
        of = np.where(np.isfinite(error), np.abs(error) if absolute else np.square(error), 0.0)
        sums.append([np.bincount(cell, w, (n_cutoffs + 1) * n_series).reshape(-1, n_series)[:-1] for w in (of, np.isfinite(error))])
    loss, n = (np.stack(part, axis=1) for part in zip(*sums, strict=True))
    return loss, n


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
