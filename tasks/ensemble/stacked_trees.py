"""Boosted trees as a combiner that is compared in the report and cannot be released.

The report shows how much better such a combiner would be.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from typing_extensions import override

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
    """Boosted trees of the error of the members' mean.

    Inputs are each member's deviation from that mean and the step. The prediction for zero
    deviations is subtracted: a combination of equal members is that member.
    """

    name = "stacking_trees"

    @override
    def find_obstacle(self, context: CombinerContext) -> str | None:
        """Members' graphs differ from their forecasters in the last bits."""
        return (
            "trees below the members would compare results of matrix products, whose last bits differ between"
            " machines"
        )

    def run(self, context: CombinerContext, refits: Sequence[int], members: Sequence[int]) -> np.ndarray:
        """Fitted at the last refit and at one halfway there; the plain mean before."""
        aligned = context.aligned
        out = np.empty(aligned.z_hat.shape[1:])
        for k, end in zip(refits, [*refits[1:], len(out)], strict=True):
            out[k:end] = aligned.z_hat[
                context.prune_members(context.errors.get_known(k), members), k:end
            ].mean(axis=0)
        # With two refits or fewer there is none halfway
        fits = [refits[len(refits) // 2], refits[-1]] if len(refits) > 2 else [refits[-1]]
        for k, end in zip(fits, [*fits[1:], len(out)], strict=True):
            kept = context.prune_members(context.errors.get_known(k), members)
            z_hat = aligned.z_hat[kept]
            mean = z_hat.mean(axis=0)
            steps = np.broadcast_to(np.arange(mean.shape[2], dtype=np.float64), mean.shape)
            inputs = np.stack([*(z_hat - mean) / aligned.scale[:, :, None], steps], axis=-1)
            target = (aligned.z - mean) / aligned.scale[:, :, None]
            usable = np.flatnonzero(
                aligned.is_known_by(k) & np.isfinite(inputs).all(axis=-1) & np.isfinite(target)
            )
            usable = usable[:: -(-len(usable) // TREE_ROWS) or 1]
            rows = inputs[k:end].reshape(-1, inputs.shape[-1])
            corrections = _predict_trees(
                inputs.reshape(-1, inputs.shape[-1])[usable], target.ravel()[usable], rows
            )
            out[k:end] = mean[k:end] + aligned.scale[k:end, :, None] * corrections.reshape(mean[k:end].shape)
        return out


def _predict_trees(inputs: np.ndarray, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Predictions for *rows* (m, K) of trees fitted to inputs (n, K) and target (n,).

    The predictions for the same rows with all deviations 0 are subtracted.
    """
    if len(target) < 2 * TREES["min_data_in_leaf"]:
        return np.zeros(len(rows))
    import lightgbm

    trees = lightgbm.train(TREES, lightgbm.Dataset(inputs, target), N_TREES)
    without_deviations = np.zeros_like(rows)
    without_deviations[:, -1] = rows[:, -1]
    out: np.ndarray = trees.predict(rows, num_threads=1) - trees.predict(without_deviations, num_threads=1)
    return out
