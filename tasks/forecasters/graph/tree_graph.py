"""Trees of any library as one list of nodes, and that list as ONNX-ML's TreeEnsembleRegressor.

No converter is used: converters round a threshold to the nearest float32, which moves rows at the
threshold to the other side, and none of them reads LightGBM's, XGBoost's and CatBoost's trees.
Inputs are float32, so each library's comparison has an exact counterpart.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tasks.forecasters.graph.subgraph import build_subgraph

LEQ, LT, EQ, LEAF = "BRANCH_LEQ", "BRANCH_LT", "BRANCH_EQ", "LEAF"


class TreeNode(NamedTuple):
    """A split on one column, or a leaf.

    mode: `column <= value`, `column < value`, `column == value`, or LEAF, whose output is value.
    yes, no: positions in the tree's list of the nodes that follow.
    """

    mode: str
    value: float
    column: int = 0
    yes: int = 0
    no: int = 0


def add_category_splits(
    nodes: list[TreeNode], index: int, column: int, values: Sequence[float], yes: int, no: int
) -> None:
    """Put a split by whether *column* is one of *values* at position *index*.

    A chain of splits by one value each, the later ones at the end of *nodes*.
    """
    for i, value in enumerate(values):
        following = no if i == len(values) - 1 else len(nodes)
        nodes[index] = TreeNode(EQ, value, column, yes, following)
        if following != no:
            index = following
            nodes.append(TreeNode(LEAF, 0.0))  # replaced by the next split
    if not values:
        nodes[index] = TreeNode(LEQ, np.inf, column, no, no)


def build_tree_graph(trees: Iterable[list[TreeNode]], constant: float, n_columns: int) -> np.ndarray:
    """The graph with output (n, 1) *constant* plus the trees' sum at x (n, n_columns), as bytes.

    The first node of each tree is its root.
    """
    from onnx import helper

    nodes = [
        (tree_id, node_id, node) for tree_id, tree in enumerate(trees) for node_id, node in enumerate(tree)
    ]
    leaves = [(tree_id, node_id, node) for tree_id, node_id, node in nodes if node.mode == LEAF]
    attributes: dict[str, Any] = {
        "nodes_treeids": [tree_id for tree_id, _, _ in nodes],
        "nodes_nodeids": [node_id for _, node_id, _ in nodes],
        "nodes_featureids": [node.column for _, _, node in nodes],
        "nodes_modes": [node.mode for _, _, node in nodes],
        "nodes_values": [0.0 if node.mode == LEAF else float(node.value) for _, _, node in nodes],
        "nodes_truenodeids": [node.yes for _, _, node in nodes],
        "nodes_falsenodeids": [node.no for _, _, node in nodes],
        "target_treeids": [tree_id for tree_id, _, _ in leaves],
        "target_nodeids": [node_id for _, node_id, _ in leaves],
        "target_ids": [0] * len(leaves),
        "target_weights": [float(node.value) for _, _, node in leaves],
        "base_values": [float(constant)],
        "n_targets": 1,
    }
    return build_subgraph(
        [helper.make_node("TreeEnsembleRegressor", ["x"], ["sum"], domain="ai.onnx.ml", **attributes)],
        [],
        n_columns,
        "sum",
    )


def compute_float32_floor(threshold: float) -> float:
    """The largest float32 that is not above *threshold*.

    For a float32 x, x <= it is the same as x <= *threshold* in float64.
    """
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))
