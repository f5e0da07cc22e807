"""Categorical columns as whole numbers: 0..K-1 of the values in a fit, K for any other."""

import numpy as np

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.forecasters.graph.graph_ops import GraphValue, Value, take
from tasks.forecasters.parts.series_encoder import SeriesEncoder

SERIES = "series"


class CategoryEncoder:
    """The numbers of each name in *names*: `series`, or a column of role free.

    learned: has the values of the fit under `categories.<name>`.
    """

    def __init__(
        self, schema: FeatureSchema, learned: dict[str, np.ndarray], names: tuple[str, ...], model: str
    ) -> None:
        free = [c.name for c in schema.columns if c.role == "free"]
        if unknown := [name for name in names if name != SERIES and name not in free]:
            raise ForecasterError(
                f"{model}: `categorical` has {unknown}, which are no columns of role `free`. There are"
                f" {free}, and `{SERIES}`."
            )
        self.schema, self.learned, self.names = schema, learned, names
        self.series_learned: dict[str, np.ndarray] = {}
        self.series_encoder = SeriesEncoder(schema, learned, model) if SERIES in names else None

    def learn(self, x: np.ndarray) -> None:
        """Number the values in x (n, F)."""
        for name in self.names:
            if name == SERIES and self.series_encoder is not None:
                self.series_encoder.learn(x)
            else:
                values = x[:, self.schema.index(name)]
                self.learned[f"categories.{name}"] = np.unique(values[np.isfinite(values)]).astype(np.float32)

    def count(self, name: str) -> int:
        """How many numbers *name* has, with the one for all values that are not in the fit."""
        return 1 + (
            self.series_encoder.n_series
            if name == SERIES and self.series_encoder is not None
            else len(self.learned[f"categories.{name}"])
        )

    def numbers(self, x: Value) -> list[Value]:
        """For each name the numbers of x (n, F), (n, 1) float32."""
        return [
            self.take_entries(name, x, np.arange(self.count(name), dtype=np.float32)) for name in self.names
        ]

    def take_entries(self, name: str, x: Value, table: np.ndarray) -> Value:
        """(n, 1): the entry of *table* (K,) float32 at the number of *name* in each row of x."""
        if name == SERIES and self.series_encoder is not None:
            return self.series_encoder.take_rows(x, table[:, None])
        values, column = self.learned[f"categories.{name}"], take(x, [self.schema.index(name)])
        if not isinstance(x, GraphValue):
            position = np.searchsorted(values, column)
            is_known = np.append(values, np.float32(np.nan))[position] == column
            return table[np.where(is_known, position, len(values))]
        node = x.graph.node
        # 1: float32; nothing is equal to the last value
        same = node("Cast", node("Equal", column, np.append(values, np.float32(np.nan))[None, :]), to=1)
        unknown = node("Sub", np.float32(1), node("ReduceSum", same, np.array([1]), keepdims=1))
        number = node("ArgMax", node("Concat", same, unknown, axis=1), axis=1, keepdims=1)
        return node("Gather", np.append(table, table[-1]).astype(np.float32), number, axis=0)
