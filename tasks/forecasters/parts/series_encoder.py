"""The series of each row, for models with parameters for each series.

Needs the columns of the feature kind `series`.
"""

import numpy as np

from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.forecasters.graph.graph_ops import GraphValue, Value, take


class SeriesEncoder:
    """The series of a fit, numbered 0..S-1 by their keys; any other series has the number S.

    learned: has the keys under `identity.keys`.
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
        """Number the series of x (n, F); returns the number of each row, (n,)."""
        keys, number = np.unique(
            x[:, self.columns], axis=0, return_inverse=True
        )  # rows in order of the keys, so the same series give the same numbers
        self.learned["identity.keys"] = keys.astype(np.float32)
        return number.reshape(-1)

    @property
    def n_series(self) -> int:
        """S, the number of series."""
        return len(self.learned["identity.keys"])

    def take_rows(self, x: Value, table: np.ndarray) -> Value:
        """(n, K): for each row of x its series' row of *table* (S + 1, K).

        The last row of *table* is for a series that is not in the fit.
        """
        high, low = self.learned["identity.keys"].T
        if isinstance(x, GraphValue):
            node = x.graph.node
            is_equal = node(
                "And",
                node("Equal", take(x, self.columns[:1]), high[None, :]),
                node("Equal", take(x, self.columns[1:]), low[None, :]),
            )
            equal = node("Cast", is_equal, to=1)  # 1: float32
            unknown = node("Sub", np.float32(1), node("ReduceSum", equal, np.array([1]), keepdims=1))
            number = node("ArgMax", node("Concat", equal, unknown, axis=1), axis=1, keepdims=0)
            return node("Gather", table.astype(np.float32), number, axis=0)
        is_equal = (x[:, self.columns[:1]] == high) & (x[:, self.columns[1:]] == low)
        position: np.ndarray = np.where(is_equal.any(axis=1), is_equal.argmax(axis=1), self.n_series)
        return table.astype(np.float32)[position]
