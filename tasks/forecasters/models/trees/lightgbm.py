"""LightGBM's trees on the residuals of a simpler model."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tasks.forecasters.graph.tree_graph import LEAF, LEQ, TreeNode, add_category_splits, compute_float32_floor
from tasks.forecasters.parts.residuals import ResidualPairs
from tasks.forecasters.parts.trees import BoostedTrees, FittedBooster, TreesParams

_ZERO = float(np.float32(1e-35))
_OBJECTIVES = {"squared": "regression", "absolute": "regression_l1", "quantile": "quantile"}


class LightGbmParams(TreesParams):
    """As all trees; the rest are LightGBM's library_params parameters."""

    num_leaves: Annotated[int, Field(ge=2)] = 15
    min_data_in_leaf: Annotated[int, Field(ge=1)] = 100
    feature_fraction: Annotated[float, Field(gt=0, le=1)] = 0.7
    lambda_l2: Annotated[float, Field(ge=0)] = 1.0


class LightGbm(BoostedTrees):
    """See BoostedTrees; trees grow leaf by leaf, categories are split as sets."""

    Params = LightGbmParams
    native_file = "booster.txt"
    releases_gil = True

    @property
    def min_pairs(self) -> int:
        """Two leaves of the smallest size."""
        return 2 * int(self.params.min_data_in_leaf)

    def fit_trees(
        self, pairs: ResidualPairs, n_trees: int, start: bytes = b"", held: ResidualPairs | None = None
    ) -> FittedBooster:
        """See BoostedTrees."""
        import lightgbm

        params = self.params
        library_params = {
            name: getattr(params, name)
            for name in ("learning_rate", "num_leaves", "min_data_in_leaf", "feature_fraction", "lambda_l2")
        }
        fixed = {
            "objective": _OBJECTIVES[params.loss],
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "seed": self.seed,
        }
        # 63 bins: same error as 255 within noise, a third faster
        fixed |= {"use_missing": False, "max_bin": 63, "verbosity": -1}
        if params.quantile is not None:
            fixed["alpha"] = params.quantile
        data = lightgbm.Dataset(
            pairs.columns,
            pairs.target,
            weight=pairs.weight,
            categorical_feature=list(pairs.categorical.values()),
            params=fixed,
        )
        stop = {}
        if held is not None:
            judged = data.create_valid(held.columns, held.target, weight=held.weight)
            stop = {
                "valid_sets": [judged],
                "callbacks": [lightgbm.early_stopping(params.patience_trees, verbose=False)],
            }
        earlier = lightgbm.Booster(model_str=start.decode()) if start else None
        booster = lightgbm.train(
            library_params | fixed, data, num_boost_round=n_trees, init_model=earlier, **stop
        )
        return FittedBooster(
            booster.model_to_string(num_iteration=-1).encode(),
            booster.best_iteration if held is not None else booster.num_trees(),
        )

    def parse_trees(self, native: bytes) -> tuple[list[list[TreeNode]], float]:
        """See BoostedTrees."""
        import lightgbm

        dump = lightgbm.Booster(model_str=native.decode()).dump_model()
        return [_parse_tree(tree["tree_structure"]) for tree in dump["tree_info"]], 0.0


def _parse_tree(root: dict[str, Any]) -> list[TreeNode]:
    """The nodes of one tree; left is yes: `<=` for numbers, `one of` (`0||3||5`) for categories."""
    nodes = [TreeNode(LEAF, 0.0)]
    queue = [(root, 0)]
    for split, index in queue:
        if "left_child" not in split:
            nodes[index] = TreeNode(LEAF, split["leaf_value"])
            continue
        left, right = len(nodes), len(nodes) + 1
        nodes += [TreeNode(LEAF, 0.0)] * 2
        queue += [(split["left_child"], left), (split["right_child"], right)]
        if split["decision_type"] == "==":
            add_category_splits(
                nodes,
                index,
                split["split_feature"],
                [float(c) for c in split["threshold"].split("||")],
                left,
                right,
            )
        else:
            nodes[index] = TreeNode(
                LEQ, _convert_threshold(split["threshold"]), split["split_feature"], left, right
            )
    return nodes


def _convert_threshold(threshold: float) -> float:
    """The threshold as float32.

    LightGBM reads values within 1e-35 of 0 as 0, so its threshold just below 0 must be below all of
    them.
    """
    return compute_float32_floor(np.nextafter(threshold, -np.inf) if threshold == -_ZERO else threshold)
