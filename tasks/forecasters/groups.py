"""Rows that are alike get coefficients of their own: groups by quantiles of a column, or of the ratio of two, learned inside the window.

Which group a row is in follows from the row alone, so a new series is in one too, and ONNX decides alike: only elementwise operations
stand before the comparison.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from tasks.core.about import Strict
from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.forecasters.arithmetic import Value, above, fill, join, take


class GroupBy(Strict):
    """column, divided by *over* if there is one, is cut into *parts* with equally many training rows."""

    column: str
    over: str | None = None
    parts: Annotated[int, Field(ge=2, le=16)]


class Groups:
    """All combinations of the parts of *by*, numbered 0..n-1; without any everything is group 0. learned: keeps `groups.<i>.edges` and `.instead`."""

    def __init__(self, schema: FeatureSchema, learned: dict[str, np.ndarray], by: tuple[GroupBy, ...], model: str) -> None:
        for name in (name for one in by for name in (one.column, one.over)):
            if name is not None and name not in schema.names:
                raise ForecasterError(
                    f"`groups` of {model} names the column {name!r}, which the feature table has not. Declare it in `features.list`, or correct `groups`."
                )
        self.schema, self.learned, self.by = schema, learned, by
        self.n = int(np.prod([one.parts for one in by], dtype=np.int64))

    def learn(self, x: np.ndarray) -> np.ndarray:
        """Learn the edges from x (n, F); the group of each row (n,)."""
        for i, one in enumerate(self.by):
            values = self._values(x, one)[:, 0]
            known = values[np.isfinite(values)]
            edges = np.quantile(known, np.arange(1, one.parts) / one.parts) if len(known) else np.zeros(one.parts - 1)
            self.learned[f"groups.{i}.edges"] = edges.astype(np.float32)
            self.learned[f"groups.{i}.instead"] = np.array(np.median(known) if len(known) else 0.0, dtype=np.float32)
        return np.argmax(self.shares(x), axis=1) if self.by else np.zeros(len(x), dtype=np.int64)

    def shares(self, x: Value) -> Value:
        """(n, groups): 1 where the row is in the group, else 0. Only with at least one criterion."""
        product, n = None, 1
        for i, one in enumerate(self.by):
            over = above(fill(self._values(x, one), self.learned[f"groups.{i}.instead"]), self.learned[f"groups.{i}.edges"])
            first = take(over, [0])
            beyond = [take(over, [k]) for k in range(one.parts - 1)]
            parts = join(
                [first * np.float32(-1) + np.float32(1), *(low - high for low, high in zip(beyond, [*beyond[1:], first - first], strict=True))]
            )
            product = (
                parts if product is None else take(product, [k for k in range(n) for _ in range(one.parts)]) * take(parts, list(range(one.parts)) * n)
            )
            n *= one.parts
        return product

    def _values(self, x: Value, one: GroupBy) -> Value:
        values = take(x, [self.schema.index(one.column)])
        if one.over is None:
            return values
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is unknown, x / 0 beyond every edge; ONNX divides alike
            return values / take(x, [self.schema.index(one.over)])
