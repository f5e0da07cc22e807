"""CatBoost's oblivious trees on the residuals of a simpler model."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tasks.forecasters.graph.graph_ops import Value
from tasks.forecasters.graph.tree_graph import LEAF, LEQ, TreeNode
from tasks.forecasters.parts.residuals import ResidualPairs
from tasks.forecasters.parts.trees import BoostedTrees, FittedBooster, TreesParams

_PRIOR_PAIRS = 10  # the mean of a category with ten pairs is halved
_LOSSES = {"squared": "RMSE", "absolute": "MAE", "quantile": "Quantile"}


class CatBoostParams(TreesParams):
    """As all trees; the rest are CatBoost's own parameters."""

    depth: Annotated[int, Field(ge=1, le=10)] = 6
    l2_leaf_reg: Annotated[float, Field(ge=0)] = 10.0
    rsm: Annotated[float, Field(gt=0, le=1)] = 0.7


class CatBoost(BoostedTrees):
    """See BoostedTrees; all nodes of a level have the same split.

    A category is encoded as the mean target of its pairs, shrunk to 0; in a fit, of those pairs
    alone whose targets were known before. That is CatBoost's ordered statistic with time as the
    order; its own order is random, may look ahead, and has no counterpart in ONNX.
    Source: Prokhorenkova et al. 2018, https://arxiv.org/abs/1706.09516, section 3.
    """

    Params = CatBoostParams
    native_file = "booster.json"

    @property
    def min_pairs(self) -> int:
        """Ten for each leaf of a tree."""
        return 10 * 2 ** int(self.params.depth)

    def fit_trees(
        self, pairs: ResidualPairs, n_trees: int, start: bytes = b"", held: ResidualPairs | None = None
    ) -> FittedBooster:
        """See BoostedTrees."""
        # Takes 0.5 s, and other models do not need it; it has no types
        from catboost import CatBoostRegressor

        params = self.params
        loss = _LOSSES[params.loss] + (f":alpha={params.quantile:g}" if params.quantile is not None else "")
        library_params = {
            name: getattr(params, name) for name in ("learning_rate", "depth", "l2_leaf_reg", "rsm")
        }
        fixed = {
            "random_seed": self.seed,
            "thread_count": 1,
            "border_count": 63,
            "nan_mode": "Forbidden",
            "verbose": False,
            "allow_writing_files": False,
        }
        model = CatBoostRegressor(iterations=n_trees, loss_function=loss, **library_params, **fixed)
        stop = (
            {}
            if held is None
            else {
                "eval_set": _build_pool(held),
                "early_stopping_rounds": params.patience_trees,
                "use_best_model": True,
            }
        )
        model.fit(_build_pool(pairs), init_model=_decode_model(start) if start else None, **stop)
        return FittedBooster(_encode_model(model), model.tree_count_)

    def encode_categories(self, x: Value) -> list[Value]:
        """The statistics of the categories, and their numbers before these are learned."""
        if not all(f"statistic.{name}" in self.learned for name in self.params.categorical):
            return super().encode_categories(x)
        return [
            self.categories.take_entries(name, x, self.learned[f"statistic.{name}"])
            for name in self.params.categorical
        ]

    def encode_pairs(self, pairs: ResidualPairs) -> ResidualPairs:
        """See the class."""
        columns = pairs.columns.copy()
        for name, index in pairs.categorical.items():
            number = columns[:, index].astype(np.int64)
            columns[:, index] = _compute_means_before(number, pairs.target, pairs.in_reach)
            self.learned[f"statistic.{name}"] = _compute_means(
                number, pairs.target, self.categories.count(name)
            )
        return pairs._replace(columns=columns)

    def parse_trees(self, native: bytes) -> tuple[list[list[TreeNode]], float]:
        """See BoostedTrees."""
        whole = json.loads(native)
        factor, (constant,) = whole["scale_and_bias"]
        return [_parse_tree(tree, factor) for tree in whole["oblivious_trees"]], constant


def _compute_means(number: np.ndarray, target: np.ndarray, n_numbers: int) -> np.ndarray:
    """Mean of *target* for each number, (n_numbers,), shrunk as if _PRIOR_PAIRS more were 0."""
    total, count = np.bincount(number, target, n_numbers), np.bincount(number, minlength=n_numbers)
    return (total / (count + _PRIOR_PAIRS)).astype(np.float32)


def _compute_means_before(number: np.ndarray, target: np.ndarray, in_reach: int) -> np.ndarray:
    """As `_compute_means`, for each pair over the pairs more than *in_reach* before it."""
    out = np.zeros(len(number), dtype=np.float32)
    for one in np.unique(number):
        rows = np.flatnonzero(number == one)
        before = np.searchsorted(rows, rows - in_reach)
        total = np.append(0.0, np.cumsum(target[rows], dtype=np.float64))
        out[rows] = total[before] / (before + _PRIOR_PAIRS)
    return out


def _build_pool(pairs: ResidualPairs) -> Any:
    from catboost import Pool

    return Pool(pairs.columns, pairs.target, weight=pairs.weight, thread_count=1)


def _encode_model(model: Any) -> bytes:
    """CatBoost's JSON without `model_info` (the time and a random id): same fit, same bytes.

    CatBoost reads and writes files only.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "booster.json"
        model.save_model(str(path), format="json")
        whole = json.loads(path.read_text())
    return json.dumps(whole | {"model_info": {}}, sort_keys=True).encode()


def _decode_model(native: bytes) -> Any:
    from catboost import CatBoostRegressor

    with TemporaryDirectory() as folder:
        path = Path(folder) / "booster.json"
        path.write_bytes(native)
        return CatBoostRegressor().load_model(str(path), format="json")


def _parse_tree(tree: dict[str, Any], factor: float) -> list[TreeNode]:
    """The nodes of one complete binary tree.

    Bit i of a leaf's number is the result of split i (above its border: 1), so the last split comes
    first.
    """
    splits, nodes = (tree["splits"] or [])[::-1], []
    for index in range(2 ** len(splits) - 1):
        split = splits[(index + 1).bit_length() - 1]
        node = TreeNode(LEQ, split["border"], split["float_feature_index"], 2 * index + 1, 2 * index + 2)
        nodes.append(node)
    return nodes + [TreeNode(LEAF, factor * value) for value in tree["leaf_values"]]
