"""Groups of similar rows, which have separate coefficients.

By a column, by the ratio of two columns, or by the length of the row's series, learned inside the
window. A row is in the group of its own value, or of its series' value in the fit, which is looked
up by the series' keys. A series that is not in the fit is in a group too: by its own row, and by
length as a series without rows. ONNX gives the same group: only lookups and elementwise operations
come before the comparison.
"""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_ops import Value, fill_nan, greater, join_columns, take
from tasks.forecasters.parts.series_encoder import SeriesEncoder


class GroupBy(Strict):
    """One criterion; its values are cut into *parts* of about equally many training rows.

    by: `row`: the row's own *column*, divided by *over* if there is one. `series`: the median of
        that over the training rows of the row's series. `length`: the number of training rows of
        its series, without a column.
    Equal values are in one group.
    """

    by: Literal["row", "series", "length"] = "row"
    column: str | None = None
    over: str | None = None
    parts: Annotated[int, Field(ge=2, le=16)]

    @model_validator(mode="after")
    def _check_column(self) -> Self:
        if (self.column is None) != (self.by == "length") or (self.column is None and self.over is not None):
            raise ValueError(
                "`by: length` counts rows and has neither `column` nor `over`; `by: row` and `by: series`"
                " need a `column`"
            )
        return self


class RowGroups:
    """All combinations of the parts of *by*, numbered 0..n-1; without any everything is group 0.

    learned: has `groups.<i>.edges`, `.instead` and, of a series, `.of_series`.
    """

    def __init__(
        self, schema: FeatureSchema, learned: dict[str, np.ndarray], by: tuple[GroupBy, ...], model: str
    ) -> None:
        for name in (name for criterion in by for name in (criterion.column, criterion.over)):
            if name is not None and name not in schema.names:
                raise ForecasterError(
                    f"`groups` of {model} names the column {name!r}, which the feature table has not. Declare"
                    " it in `features.list`, or correct `groups`."
                )
        self.schema, self.learned, self.by = schema, learned, by
        self.n = int(np.prod([criterion.parts for criterion in by], dtype=np.int64))
        self.series_encoder = (
            SeriesEncoder(schema, learned, f"`groups` of {model}")
            if any(criterion.by != "row" for criterion in by)
            else None
        )

    def learn(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Learn the edges from *rows* of x (n, F); returns the group of each of these rows."""
        number = self.series_encoder.learn(x) if self.series_encoder else None
        for i, criterion in enumerate(self.by):
            if number is not None and criterion.by != "row":
                self.learned[f"groups.{i}.of_series"] = self._compute_series_values(
                    x, rows, number, criterion
                )
            values = self._compute_values(x, i, criterion)[rows, 0]
            known = values[np.isfinite(values)]
            self.learned[f"groups.{i}.edges"] = _compute_edges(known, criterion.parts)
            self.learned[f"groups.{i}.instead"] = np.array(
                np.median(known) if len(known) else 0.0, dtype=np.float32
            )
        return np.argmax(self.shares(x), axis=1)[rows] if self.by else np.zeros(len(rows), dtype=np.int64)

    def shares(self, x: Value) -> Value:
        """(n, groups): 1 where the row is in the group, else 0.

        Only with at least one criterion.
        """
        product, n = None, 1
        for i, criterion in enumerate(self.by):
            over = greater(
                fill_nan(self._compute_values(x, i, criterion), self.learned[f"groups.{i}.instead"]),
                self.learned[f"groups.{i}.edges"],
            )
            first = take(over, [0])
            beyond = [take(over, [k]) for k in range(criterion.parts - 1)]
            parts = join_columns(
                [
                    first * np.float32(-1) + np.float32(1),
                    *(low - high for low, high in zip(beyond, [*beyond[1:], first - first], strict=True)),
                ]
            )
            product = (
                parts
                if product is None
                else take(product, [k for k in range(n) for _ in range(criterion.parts)])
                * take(parts, list(range(criterion.parts)) * n)
            )
            n *= criterion.parts
        return product

    def _compute_values(self, x: Value, i: int, criterion: GroupBy) -> Value:
        """(n, 1) of x (n, F): the values of the i-th criterion."""
        if self.series_encoder is None or criterion.by == "row":
            return self._compute_row_values(x, criterion)
        known = self.series_encoder.take_rows(x, self.learned[f"groups.{i}.of_series"])
        return known if criterion.by == "length" else fill_nan(known, self._compute_row_values(x, criterion))

    def _compute_row_values(self, x: Value, criterion: GroupBy) -> Value:
        values = take(x, [self.schema.index(str(criterion.column))])
        if criterion.over is None:
            return values
        # 0 / 0 is unknown, x / 0 beyond every edge, also in ONNX
        with np.errstate(divide="ignore", invalid="ignore"):
            return values / take(x, [self.schema.index(criterion.over)])

    def _compute_series_values(
        self, x: np.ndarray, rows: np.ndarray, number: np.ndarray, criterion: GroupBy
    ) -> np.ndarray:
        """(S + 1, 1): the value of each series, and last that of an unknown one.

        An unknown series has no rows (`length`), or NaN, and then its row's own value is used.
        """
        number, n_rows = (
            number[rows],
            np.bincount(number[rows], minlength=self.series_encoder.n_series if self.series_encoder else 0),
        )
        if criterion.by == "length":
            return np.append(n_rows, 0)[:, None].astype(np.float32)
        each = np.split(
            self._compute_row_values(x, criterion)[rows, 0][np.argsort(number, kind="stable")],
            np.cumsum(n_rows)[:-1],
        )
        return np.array(
            [*(np.median(v) if len(v := values[np.isfinite(values)]) else np.nan for values in each), np.nan],
            dtype=np.float32,
        )[:, None]


def _compute_edges(known: np.ndarray, parts: int) -> np.ndarray:
    """Edges (parts - 1,) float32, each midway between two neighbouring values.

    The fraction of the values below the k-th edge is as near to k / *parts* as possible.
    """
    values, counts = np.unique(known, return_counts=True)
    if len(values) <= 1:
        return np.full(parts - 1, values[0] if len(values) else 0.0, dtype=np.float32)
    below = np.cumsum(counts)[:-1] / len(known)
    nearest = [int(np.argmin(np.abs(below - k / parts))) for k in range(1, parts)]
    low, high = values[nearest].astype(np.float64), values[np.array(nearest) + 1].astype(np.float64)
    return ((low + high) / 2).astype(np.float32)
