"""What a simpler model leaves over, as rows to learn from: one for each pair of origin and step,
with the step as a column.

A library that knows nothing of series, steps or scales learns from them and corrects the simpler
model.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field

from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value, build_step_rows, fill_nan, join_columns, take
from tasks.forecasters.graph.subgraph import run_subgraph
from tasks.forecasters.models.linear.har import Har
from tasks.forecasters.models.linear.ridge import Ridge
from tasks.forecasters.models.naive.last_value import LastValue
from tasks.forecasters.models.naive.seasonal_naive import SeasonalNaive
from tasks.forecasters.parts.normalizer import (
    NormalizedInputs,
    Normalizer,
    check_columns,
    list_dispensable_columns,
    select_last_values,
    select_seasonal_values,
)
from tasks.forecasters.parts.row_weight import RowWeight

_BASES: dict[str, type[Formula]] = {"last": LastValue, "seasonal": SeasonalNaive, "har": Har, "ridge": Ridge}
_MOST_REUSED = 8  # groundworks of the same rows; one of 20,000 pairs and 60 columns takes 5 MB


class ResidualParams(Strict):
    """base: whose residuals are learned. max_rows: pairs of origin and step in a fit, drawn evenly
    over the window when there are more. weight: what a row counts.

    columns: the features that are seen, for example a few of the many lags that a linear model
    takes; None: every one that measures.
    aligned_steps: for each of them every step sees z so many steps before its own time, or twice,
    three times as many where that is not known yet.
    """

    base: Literal["last", "seasonal", "har", "ridge"] = "ridge"
    max_rows: Annotated[int, Field(ge=100)] = 20_000
    weight: RowWeight | None = None
    columns: tuple[str, ...] | None = None
    aligned_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()


class ResidualPairs(NamedTuple):
    """Pairs of origin and step, in order of time. columns: (m, K) float32; target: (m,); weight:
    (m,) or None; categorical: names and where each is among the columns.

    in_reach: how many pairs before one may have targets after its origin.
    """

    columns: np.ndarray
    target: np.ndarray
    weight: np.ndarray | None
    categorical: dict[str, int]
    in_reach: int

    @property
    def is_splittable(self) -> bool:
        """Whether there is anything to learn and anything to tell it by."""
        return (
            len(self.target) > 0
            and bool(self.target.min() < self.target.max())
            and bool((self.columns != self.columns[0]).any())
        )


class FittedBase(NamedTuple):
    """What a fit learns before its part, and the pairs that it leaves to learn the part on."""

    base: Formula
    learned: dict[str, np.ndarray]
    pairs: ResidualPairs


class OnResiduals(Formula):
    """z_hat = base + scale * part(inputs, categories, step, seasonal and aligned values of the
    step, as distances); `part` is a graph of its own.
    """

    Params: ClassVar[type[Strict]] = ResidualParams
    # All that the groundwork depends on; who adds to it adds here
    groundwork_params: ClassVar[tuple[str, ...]] = tuple(ResidualParams.model_fields)

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self.base = _BASES[self.params.base](schema, seed)
        self.aligned = [self._get_aligned_columns(steps) for steps in self.params.aligned_steps]
        check_columns(self.params.columns, schema, self.name)

    @property
    def dispensable(self) -> tuple[str, ...]:
        """What the preamble fills and neither base, weight nor categories name."""
        weight = self.params.weight
        named = {
            *self.names,
            *(self.base.columns if isinstance(self.base, Har) else ()),
            *(() if weight is None else (weight.column,)),
        }
        return tuple(name for name in list_dispensable_columns(self.schema) if name not in named)

    def formula(self, x: Value) -> Value:
        """See the class; the base alone where nothing could be learned on it."""
        base = self.base.formula(x)
        if "part" not in self.learned:
            return base
        seen = self.normalizer.transform(x)
        return base + self.predict_part(x, seen, self.own(x, seen)) * seen.scale

    def save(self, folder: Path) -> None:
        """The base in `base/`, the rest as every forecaster."""
        super().save(folder)
        (folder / "base").mkdir(exist_ok=True)
        self.base.save(folder / "base")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote. Raises ForecasterError when it is not there."""
        loaded = super().load(folder)
        loaded.base = type(loaded.base).load(folder / "base")
        return loaded

    def get_shared_pairs(self, make: Callable[[], ResidualPairs], *rows: int) -> ResidualPairs:
        """The pairs that *make* returns when it has learned everything but the part; with `reused`
        it is called once for all fits that have its parameters.

        rows: which of those that the fits share are learned from.
        """
        if self.reused is None:
            return make()
        key = f"{rows} {self.ignored} {self.params.model_dump_json(include=set(self.groundwork_params))}"
        if (there := self.reused.get(key)) is None:
            pairs = make()
            there = FittedBase(self.base, dict(self.learned), pairs)
            self.reused[key] = there
            for old in list(self.reused)[:-_MOST_REUSED]:
                self.reused.pop(old, None)
        self.base = there.base
        self.learned.update(there.learned)
        return there.pairs

    @property
    def normalizer(self) -> Normalizer:
        """Of the columns that are seen."""
        measures = tuple(name for name in self.schema.names if name not in SERIES_KEY)
        return Normalizer(
            self.schema, self.learned, measures if self.params.columns is None else self.params.columns
        )

    @property
    def n_steps(self) -> int:
        """How many steps `part` forecasts for a row."""
        return self.schema.horizon_steps

    @property
    def names(self) -> tuple[str, ...]:
        """Of the categories."""
        return ()

    def encode_categories(self, x: Value) -> list[Value]:  # noqa: ARG002  (for those that take categories)
        """What is seen of the categories of x (n, F): (n, 1) each."""
        return []

    def predict_part(self, x: Value, seen: NormalizedInputs, own: Sequence[Value]) -> Value:
        """What was learned, at each row and step of *own* (n, steps) each.

        No output of the base goes in: trees compare, and a product's last bits differ in ONNX.
        """
        shared = self.shared(x, seen)
        n_shared = self.normalizer.n_inputs + len(self.names)
        values = run_subgraph(self.learned["part"], build_step_rows(shared, own, n_shared, self.n_steps))
        return (
            values.reshape(-1, self.n_steps)
            if isinstance(values, np.ndarray)
            else values.graph.node("Reshape", values, np.array([-1, self.n_steps]))
        )

    def shared(self, x: Value, seen: NormalizedInputs) -> Value:
        """What all steps of a row see: (n, K)."""
        return join_columns([seen.inputs, *self.encode_categories(x)])

    def own(self, x: Value, seen: NormalizedInputs) -> list[Value]:
        """The seasonal value of each step as a distance from the last, the aligned ones as
        distances from the seasonal one, 0 where unknown: (n, H) each.
        """
        season = select_seasonal_values(self.schema, x)
        return [
            (season - select_last_values(self.schema, x)) / seen.scale,
            *((fill_nan(take(x, columns), season) - season) / seen.scale for columns in self.aligned),
        ]

    def _get_aligned_columns(self, steps: int) -> list[int]:
        """For each step of the horizon the column with z *steps*, or the next multiple that is
        known, before it.

        Raises ForecasterError with what to declare.
        """
        back = [-s % steps for s in range(1, self.schema.horizon_steps + 1)]
        names = [f"z_lag_{k}" if k else self.schema.last for k in back]
        if missing := sorted(
            {k for k, name in zip(back, names, strict=True) if name not in self.schema.names}
        ):
            raise ForecasterError(
                f"`aligned_steps` of {self.name} has {steps}, which needs z_lag_{missing[0]} to"
                f" z_lag_{missing[-1]} ({len(missing)} columns are missing). Declare {{kind: lag, column: z,"
                f" steps: [{missing[0]}, ..., {missing[-1]}]}} in `features.list`, or leave it out."
            )
        return [self.schema.index(name) for name in names]

    def pairs(self, x: np.ndarray, z: np.ndarray, reach_rows: int = 0) -> ResidualPairs:
        """At most `max_rows` of the known pairs, of the residuals that the base leaves; preamble
        and base are fitted.
        """
        preamble, weight = self.normalizer, self.params.weight
        target = preamble.target(x, z[:, : self.n_steps], self.base.predict(x)[:, : self.n_steps])
        at = np.flatnonzero(np.isfinite(target))
        if len(at) > self.params.max_rows:
            at = np.sort(np.random.default_rng(self.seed).choice(at, self.params.max_rows, replace=False))
        rows, steps = np.divmod(at, target.shape[1])
        drawn, place = np.unique(rows, return_inverse=True)
        seen = preamble.transform(x[drawn])
        own = [of_step[place, steps] for of_step in self.own(x[drawn], seen)]
        columns = np.column_stack([self.shared(x[drawn], seen)[place], (steps + 1).astype(np.float32), *own])
        categorical = {name: preamble.n_inputs + i for i, name in enumerate(self.names)}
        counts = None if weight is None else weight.of(self.schema, preamble, x)[rows]
        return ResidualPairs(
            columns, target.ravel()[at], counts, categorical, int(np.ceil(reach_rows * len(at) / len(x)))
        )
