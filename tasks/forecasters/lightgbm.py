"""Boosted trees on what a simpler model leaves over: one booster for all series and steps, the step is a column.

On a few thousand rows trees alone lose to a linear model, and on its residuals they do not (findings: -4.7 % against +5 % QLIKE over HAR).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field

from tasks.core.about import Strict
from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.forecasters.arithmetic import Value, Wire, by_step
from tasks.forecasters.formula import Formula
from tasks.forecasters.har import Har
from tasks.forecasters.last_value import LastValue
from tasks.forecasters.preamble import Preamble, last_values, seasonal_values
from tasks.forecasters.ridge import Ridge
from tasks.forecasters.seasonal_naive import SeasonalNaive

_BASES: dict[str, type[Formula]] = {"last": LastValue, "seasonal": SeasonalNaive, "har": Har, "ridge": Ridge}
_BOOSTER = "booster.txt"


class LightGbmParams(Strict):
    """base: whose residuals are learned. max_rows: pairs of origin and step in a fit, drawn evenly over the window when there are more.

    The rest are LightGBM's own parameters.
    """

    base: Literal["last", "seasonal", "har", "ridge"] = "ridge"
    max_rows: Annotated[int, Field(ge=100)] = 20_000
    n_trees: Annotated[int, Field(ge=1)] = 60
    num_leaves: Annotated[int, Field(ge=2)] = 15
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.06
    min_data_in_leaf: Annotated[int, Field(ge=1)] = 100
    feature_fraction: Annotated[float, Field(gt=0, le=1)] = 0.7
    lambda_l2: Annotated[float, Field(ge=0)] = 1.0


class LightGbm(Formula):
    """z_hat = base + scale * sum of the trees at (inputs, step, seasonal value of the step as a distance from the last)."""

    Params = LightGbmParams
    releases_gil = True

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self.base = _BASES[self.params.base](schema, seed)
        self.booster: Any = None  # None: no tree could be grown

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Fit the base, then the trees on its residuals over the same rows."""
        preamble = self._preamble()
        preamble.learn(x)
        self.base.fit(x, z)
        target = preamble.target(x, z, self.base.predict(x)).ravel()
        pairs = self._drawn(np.flatnonzero(np.isfinite(target)))
        rows, steps = np.divmod(pairs, self.schema.horizon_steps)
        held, place = np.unique(rows, return_inverse=True)
        columns = self._columns(x[held]).reshape(len(held), self.schema.horizon_steps, preamble.n_inputs + 2)[place, steps]
        self.booster = self._grown(columns, target[pairs])

    def formula(self, x: Value) -> Value:
        """See the class."""
        base = self.base.formula(x)
        if self.booster is None:
            return base
        columns, steps = self._columns(x), self.schema.horizon_steps
        scale = self._preamble().see(x).scale
        if isinstance(x, Wire):
            node = x.graph.node
            trees = node("TreeEnsembleRegressor", columns, domain="ai.onnx.ml", n_targets=1, **tree_attributes(self.booster))
            return base + node("Reshape", trees, np.array([-1, steps])) * scale
        return base + self.booster.predict(columns, num_threads=1).astype(np.float32).reshape(-1, steps) * scale

    def save(self, folder: Path) -> None:
        """The base in `base/`, the booster in LightGBM's own text, the rest as every forecaster."""
        super().save(folder)
        (folder / "base").mkdir(exist_ok=True)
        self.base.save(folder / "base")
        (folder / _BOOSTER).write_text("" if self.booster is None else self.booster.model_to_string())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote. Raises ForecasterError when it is not there."""
        loaded = super().load(folder)
        loaded.base = type(loaded.base).load(folder / "base")
        if not (folder / _BOOSTER).exists():
            raise ForecasterError(f"{folder / _BOOSTER} is missing. Train it again: `dvc repro train`.")
        text = (folder / _BOOSTER).read_text()
        if text:
            import lightgbm  # noqa: PLC0415  (1 s: other models do without)

            loaded.booster = lightgbm.Booster(model_str=text)
        return loaded

    def _preamble(self) -> Preamble:
        return Preamble(self.schema, self.learned)

    def _columns(self, x: Value) -> Value:
        """What the trees see at each (row, step). No output of the base: trees compare, and a product's last bits differ in ONNX."""
        preamble = self._preamble()
        seen = preamble.see(x)
        own = (seasonal_values(self.schema, x) - last_values(self.schema, x)) / seen.scale
        return by_step(seen.inputs, own, preamble.n_inputs, self.schema.horizon_steps)

    def _drawn(self, pairs: np.ndarray) -> np.ndarray:
        if len(pairs) <= self.params.max_rows:
            return pairs
        return np.sort(np.random.default_rng(self.seed).choice(pairs, self.params.max_rows, replace=False))

    def _grown(self, columns: np.ndarray, target: np.ndarray) -> Any:
        if len(target) < 2 * self.params.min_data_in_leaf or target.min() == target.max() or (columns == columns[0]).all():
            return None
        import lightgbm  # noqa: PLC0415  (1 s: other models do without)

        own = self.params.model_dump(exclude={"base", "max_rows", "n_trees"})
        fixed = {"objective": "regression", "deterministic": True, "force_row_wise": True, "num_threads": 1, "seed": self.seed}
        fixed |= {"use_missing": False, "max_bin": 63, "verbosity": -1}  # 63 bins: same error as 255 within noise, a third faster
        data = lightgbm.Dataset(columns, target, free_raw_data=True)
        return lightgbm.train(own | fixed, data, num_boost_round=self.params.n_trees)


def tree_attributes(booster: Any) -> dict[str, list[Any]]:
    """The booster's trees as attributes of ONNX-ML's TreeEnsembleRegressor.

    A threshold is rounded down to float32: for a float32 input x, x <= threshold then means the same as in LightGBM's float64.
    Written by hand, since onnxmltools rounds to the nearest, which moves rows at the threshold to the other side.
    """
    out: dict[str, list[Any]] = {
        key: []
        for key in (
            *(f"nodes_{part}" for part in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")),
            *(f"target_{part}" for part in ("treeids", "nodeids", "ids", "weights")),
        )
    }
    for tree_id, tree in enumerate(booster.dump_model()["tree_info"]):
        for node in _numbered(tree["tree_structure"]):
            _append(out, tree_id, *node)
    return out


def _numbered(root: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any], int, int]]:
    """Nodes of a tree with their number and those of their children, in order of the numbers."""
    queue, next_id = [root], 1
    for node_id, node in enumerate(queue):
        if "left_child" in node:
            queue += [node["left_child"], node["right_child"]]
            yield node_id, node, next_id, next_id + 1
            next_id += 2
        else:
            yield node_id, node, 0, 0


def _append(out: dict[str, list[Any]], tree_id: int, node_id: int, node: dict[str, Any], left: int, right: int) -> None:
    is_leaf = "left_child" not in node
    values: dict[str, Any] = {
        "treeids": tree_id,
        "nodeids": node_id,
        "featureids": 0 if is_leaf else node["split_feature"],
        "modes": "LEAF" if is_leaf else "BRANCH_LEQ",
        "values": 0.0 if is_leaf else _floor(node["threshold"]),
        "truenodeids": left,
        "falsenodeids": right,
    }
    for key, value in values.items():
        out[f"nodes_{key}"].append(value)
    if is_leaf:
        for key, value in {"treeids": tree_id, "nodeids": node_id, "ids": 0, "weights": float(node["leaf_value"])}.items():
            out[f"target_{key}"].append(value)


def _floor(threshold: float) -> float:
    """The largest float32 that is not above *threshold*."""
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))
