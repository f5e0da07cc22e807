"""Whose row it is: for what a model learns of each series by itself.

Needs the columns of the feature kind `series`.
"""

import numpy as np

from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.forecasters.graph.graph_ops import GraphValue, Value, take


class SeriesEncoder:
    """The series of a fit, numbered 0..S-1 by their keys; what a fit has never met has the
    number S. learned: keeps the keys under `identity.keys`.
    """

    def __init__(self, schema: FeatureSchema, learned: dict[str, np.ndarray], model: str) -> None:
        if missing := [name for name in SERIES_KEY if name not in schema.names]:
            raise ForecasterError(
                f"{model} needs the column(s) {missing}, which the feature table has not. Declare {{kind:"
                " series} in `features.list`."
            )
        self.columns = [schema.index(name) for name in SERIES_KEY]
        self.learned = learned

    def learn(self, x: np.ndarray) -> np.ndarray:
        """Number the series of x (n, F); the number of each row (n,)."""
        keys, number = np.unique(
            x[:, self.columns], axis=0, return_inverse=True
        )  # rows in order of the keys, so the same series give the same numbers
        self.learned["identity.keys"] = keys.astype(np.float32)
        return number.reshape(-1)

    @property
    def n_series(self) -> int:
        """S."""
        return len(self.learned["identity.keys"])

    def of(self, x: Value, table: np.ndarray) -> Value:
        """Each row's row of *table* (S + 1, K): (n, K).

        The last one is for a series that the fit has never met.
        """
        high, low = self.learned["identity.keys"].T
        if isinstance(x, GraphValue):
            node = x.graph.node
            met = node(
                "And",
                node("Equal", take(x, self.columns[:1]), high[None, :]),
                node("Equal", take(x, self.columns[1:]), low[None, :]),
            )
            there = node("Cast", met, to=1)  # 1: float32
            unmet = node("Sub", np.float32(1), node("ReduceSum", there, np.array([1]), keepdims=1))
            number = node("ArgMax", node("Concat", there, unmet, axis=1), axis=1, keepdims=0)
            return node("Gather", table.astype(np.float32), number, axis=0)
        met = (x[:, self.columns[:1]] == high) & (x[:, self.columns[1:]] == low)
        position: np.ndarray = np.where(met.any(axis=1), met.argmax(axis=1), self.n_series)
        return table.astype(np.float32)[position]
