"""Columns that name and do not measure, as whole numbers 0..K-1 of what a fit has met; what it
has never met, or does not know, has the number K.
"""

import numpy as np

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.forecasters.graph.graph_ops import GraphValue, Value, take
from tasks.forecasters.parts.series_encoder import SeriesEncoder

SERIES = "series"


class CategoryEncoder:
    """The numbers of each name in *names*: `series`, or a column of role free. learned: keeps
    the values met under `categories.<name>`.
    """

    def __init__(
        self, schema: FeatureSchema, learned: dict[str, np.ndarray], names: tuple[str, ...], model: str
    ) -> None:
        free = [c.name for c in schema.columns if c.role == "free"]
        if strange := [name for name in names if name != SERIES and name not in free]:
            raise ForecasterError(
                f"{model}: `categorical` has {strange}, which are no columns of role `free`. There are"
                f" {free}, and `{SERIES}`."
            )
        self.schema, self.learned, self.names = schema, learned, names
        self.series_learned: dict[str, np.ndarray] = {}
        self.identity = SeriesEncoder(schema, learned, model) if SERIES in names else None

    def learn(self, x: np.ndarray) -> None:
        """Number what x (n, F) holds."""
        for name in self.names:
            if name == SERIES and self.identity is not None:
                self.identity.learn(x)
            else:
                values = x[:, self.schema.index(name)]
                self.learned[f"categories.{name}"] = np.unique(values[np.isfinite(values)]).astype(np.float32)

    def count(self, name: str) -> int:
        """How many numbers *name* has, the one for what was never met among them."""
        return 1 + (
            self.identity.n_series
            if name == SERIES and self.identity is not None
            else len(self.learned[f"categories.{name}"])
        )

    def numbers(self, x: Value) -> list[Value]:
        """For each name the numbers of x (n, F): (n, 1) float32."""
        return [self.of(name, x, np.arange(self.count(name), dtype=np.float32)) for name in self.names]

    def of(self, name: str, x: Value, table: np.ndarray) -> Value:
        """The entry of *table* (K,) float32 at the number of *name* in each row of x (n, F): (n,
        1).
        """
        if name == SERIES and self.identity is not None:
            return self.identity.of(x, table[:, None])
        met, column = self.learned[f"categories.{name}"], take(x, [self.schema.index(name)])
        if not isinstance(x, GraphValue):
            place = np.searchsorted(met, column)
            there = np.append(met, np.float32(np.nan))[place] == column
            return table[np.where(there, place, len(met))]
        node = x.graph.node
        # 1: float32; nothing equals the last one
        same = node("Cast", node("Equal", column, np.append(met, np.float32(np.nan))[None, :]), to=1)
        unmet = node("Sub", np.float32(1), node("ReduceSum", same, np.array([1]), keepdims=1))
        number = node("ArgMax", node("Concat", same, unmet, axis=1), axis=1, keepdims=1)
        return node("Gather", np.append(table, table[-1]).astype(np.float32), number, axis=0)
