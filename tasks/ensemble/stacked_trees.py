"""A combiner that competes in the report, so that it says what is missed, and that no release
can compute.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.ensemble.combiner import Combiner, CombinerContext

TREES: dict[str, Any] = {  # small and slow: what is left after the mean is almost all noise
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
}
N_TREES, TREE_ROWS = 100, 50_000


class StackedTreesCombiner(Combiner):
    """Boosted trees of what the mean of the members misses, on how far each is from that mean and
    on the step.

    What they say where members agree is taken off: a combination of equal members is that member.
    """

    name = "stacking_trees"

    def find_obstacle(self, ground: CombinerContext) -> str | None:  # noqa: ARG002  (it never can)
        """Members' graphs differ from their forecasters in the last bits."""
        return (
            "trees below the members would compare results of matrix products, whose last bits differ between"
            " machines"
        )

    def run(self, ground: CombinerContext, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """Fitted at the last refit and at one halfway there; the plain mean before."""
        aligned = ground.aligned
        out = np.empty(aligned.z_hat.shape[1:])
        for k, until in zip(refits, [*refits[1:], len(out)], strict=True):
            out[k:until] = aligned.z_hat[ground.kept(ground.errors.at(k), members), k:until].mean(axis=0)
        # Nothing lies halfway
        fits = [refits[len(refits) // 2], refits[-1]] if len(refits) > 2 else [refits[-1]]
        for k, until in zip(fits, [*fits[1:], len(out)], strict=True):
            kept = ground.kept(ground.errors.at(k), members)
            z_hat = aligned.z_hat[kept]
            mean = z_hat.mean(axis=0)
            steps = np.broadcast_to(np.arange(mean.shape[2], dtype=np.float64), mean.shape)
            inputs = np.stack([*(z_hat - mean) / aligned.scale[:, :, None], steps], axis=-1)
            target = (aligned.z - mean) / aligned.scale[:, :, None]
            usable = np.flatnonzero(
                aligned.is_known_by(k) & np.isfinite(inputs).all(axis=-1) & np.isfinite(target)
            )
            usable = usable[:: -(-len(usable) // TREE_ROWS) or 1]
            rows = inputs[k:until].reshape(-1, inputs.shape[-1])
            moved = _predict_trees(inputs.reshape(-1, inputs.shape[-1])[usable], target.ravel()[usable], rows)
            out[k:until] = mean[k:until] + aligned.scale[k:until, :, None] * moved.reshape(
                mean[k:until].shape
            )
        return out


def _predict_trees(inputs: np.ndarray, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What trees fitted to inputs (n, K) and target (n,) say for *rows* (m, K), less what they
    say where all deviations are 0.
    """
    if len(target) < 2 * TREES["min_data_in_leaf"]:
        return np.zeros(len(rows))
    import lightgbm

    trees = lightgbm.train(TREES, lightgbm.Dataset(inputs, target), N_TREES)
    agreeing = np.zeros_like(rows)
    agreeing[:, -1] = rows[:, -1]
    out: np.ndarray = trees.predict(rows, num_threads=1) - trees.predict(agreeing, num_threads=1)
    return out
