"""XGBoost's trees on the residuals of a simpler model."""

import json
from typing import Annotated, Any

from pydantic import Field

from tasks.forecasters.graph.tree_graph import LEAF, LT, TreeNode, add_category_splits
from tasks.forecasters.parts.residuals import ResidualPairs
from tasks.forecasters.parts.trees import BoostedTrees, FittedBooster, TreesParams

_OBJECTIVES = {
    "squared": "reg:squarederror",
    "absolute": "reg:absoluteerror",
    "quantile": "reg:quantileerror",
}


class XgBoostParams(TreesParams):
    """As all trees; the rest are XGBoost's own parameters (`reg_lambda` is its `lambda`)."""

    max_depth: Annotated[int, Field(ge=1, le=12)] = 3
    min_child_weight: Annotated[float, Field(ge=0)] = 100.0
    colsample_bytree: Annotated[float, Field(gt=0, le=1)] = 0.7
    reg_lambda: Annotated[float, Field(ge=0)] = 1.0


class XgBoost(BoostedTrees):
    """See BoostedTrees; trees grow level by level, categories are split as sets."""

    Params = XgBoostParams
    native_file = "booster.json"

    @property
    def min_pairs(self) -> int:
        """Two leaves of the smallest weight."""
        return max(2, 2 * int(self.params.min_child_weight))

    def fit_trees(
        self, pairs: ResidualPairs, n_trees: int, start: bytes = b"", held: ResidualPairs | None = None
    ) -> FittedBooster:
        """See BoostedTrees."""
        import xgboost

        params = self.params
        library_params = {
            name: getattr(params, name)
            for name in ("learning_rate", "max_depth", "min_child_weight", "colsample_bytree", "reg_lambda")
        }
        fixed: dict[str, Any] = {
            "objective": _OBJECTIVES[params.loss],
            "tree_method": "hist",
            "max_bin": 64,
            "nthread": 1,
            "seed": self.seed,
            "verbosity": 0,
        }
        if params.quantile is not None:
            fixed["quantile_alpha"] = params.quantile
        stop = (
            {}
            if held is None
            else {
                "evals": [(_build_matrix(held), "held")],
                "early_stopping_rounds": params.patience_trees,
                "verbose_eval": False,
            }
        )
        earlier = xgboost.Booster(model_file=bytearray(start)) if start else None
        booster = xgboost.train(
            library_params | fixed, _build_matrix(pairs), num_boost_round=n_trees, xgb_model=earlier, **stop
        )
        n_best = booster.best_iteration + 1 if held is not None else booster.num_boosted_rounds()
        return FittedBooster(bytes(booster.save_raw("json")), n_best)

    def parse_trees(self, native: bytes) -> tuple[list[list[TreeNode]], float]:
        """See BoostedTrees."""
        learner = json.loads(native)["learner"]
        constant = float(learner["learner_model_param"]["base_score"].strip("[]"))
        return [_parse_tree(tree) for tree in learner["gradient_booster"]["model"]["trees"]], constant


def _build_matrix(pairs: ResidualPairs) -> Any:
    import xgboost

    kinds = ["c" if k in pairs.categorical.values() else "q" for k in range(pairs.columns.shape[1])]
    return xgboost.DMatrix(
        pairs.columns,
        pairs.target,
        weight=pairs.weight,
        feature_types=kinds,
        enable_categorical=True,
        nthread=1,
    )


def _parse_tree(tree: dict[str, list[Any]]) -> list[TreeNode]:
    """The nodes of one tree; left is `<` for numbers.

    Listed categories go right; all others, unknown ones too, go left.
    """
    sets = {
        node: [float(c) for c in tree["categories"][start : start + size]]
        for node, start, size in zip(
            tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
        )
    }
    split = list(
        zip(
            tree["left_children"],
            tree["right_children"],
            tree["split_indices"],
            tree["split_conditions"],
            strict=True,
        )
    )
    nodes = [
        TreeNode(LEAF, value) if left < 0 else TreeNode(LT, value, column, left, right)
        for left, right, column, value in split
    ]
    for index, categories in sets.items():
        left, right, column, _ = split[index]
        add_category_splits(nodes, index, column, categories, right, left)
    return nodes
