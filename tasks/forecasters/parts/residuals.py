"""The residuals of a simpler model as rows: one for each pair of origin and step.

The step is a column. A library without notions of series, steps or scales learns from them, and its
output corrects the simpler model.
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
_MAX_REUSED = 8  # base fits of the same rows; one of 20,000 pairs and 60 columns takes 5 MB


class ResidualParams(Strict):
    """The parameters of every model on residuals.

    base: the simpler model.
    max_rows: pairs of origin and step in a fit, drawn evenly over the window when there are more.
    weight: of each row.
    columns: the features that are used, for example a few of the many lags of a linear model; None:
        all except the series' keys.
    aligned_steps: each adds an input for each step: z so many steps before the step's time, or
        twice, three times as many where that is not known yet.
    """

    base: Literal["last", "seasonal", "har", "ridge"] = "ridge"
    max_rows: Annotated[int, Field(ge=100)] = 20_000
    weight: RowWeight | None = None
    columns: tuple[str, ...] | None = None
    aligned_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()


class ResidualPairs(NamedTuple):
    """Pairs of origin and step, in order of time.

    columns: (m, K) float32. target: (m,). weight: (m,) or None.
    categorical: name: index among the columns.
    in_reach: how many pairs before one may have targets after its origin.
    """

    columns: np.ndarray
    target: np.ndarray
    weight: np.ndarray | None
    categorical: dict[str, int]
    in_reach: int

    @property
    def is_splittable(self) -> bool:
        """Whether the target varies, and any column."""
        return (
            len(self.target) > 0
            and bool(self.target.min() < self.target.max())
            and bool((self.columns != self.columns[0]).any())
        )


class FittedBase(NamedTuple):
    """The base and the numbers that a fit learns before its part, and the part's training pairs."""

    base: Formula
    learned: dict[str, np.ndarray]
    pairs: ResidualPairs


class OnResiduals(Formula):
    """z_hat = base + scale * part(inputs, categories, step, seasonal and aligned values).

    The values are those of the step, as distances; `part` is a separate graph.
    """

    Params: ClassVar[type[Strict]] = ResidualParams
    # All parameters that base and pairs depend on; a subclass adds its own
    base_fit_params: ClassVar[tuple[str, ...]] = tuple(ResidualParams.model_fields)

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self.base = _BASES[self.params.base](schema, seed)
        self.aligned = [self._get_aligned_columns(steps) for steps in self.params.aligned_steps]
        check_columns(self.params.columns, schema, self.name)

    @property
    def dispensable(self) -> tuple[str, ...]:
        """Columns that the normalizer fills and that base, weight and categories do not name."""
        weight = self.params.weight
        named = {
            *self.names,
            *(self.base.columns if isinstance(self.base, Har) else ()),
            *(() if weight is None else (weight.column,)),
        }
        return tuple(name for name in list_dispensable_columns(self.schema) if name not in named)

    def formula(self, x: Value) -> Value:
        """See the class; the base alone where there was no part to learn."""
        base = self.base.formula(x)
        if "part" not in self.learned:
            return base
        seen = self.normalizer.transform(x)
        return base + self.predict_part(x, seen, self.build_step_inputs(x, seen)) * seen.scale

    def save(self, folder: Path) -> None:
        """Write the base into `base/`, the rest as every forecaster."""
        super().save(folder)
        (folder / "base").mkdir(exist_ok=True)
        self.base.save(folder / "base")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises ForecasterError when it is missing."""
        loaded = super().load(folder)
        loaded.base = type(loaded.base).load(folder / "base")
        return loaded

    def get_shared_pairs(self, make: Callable[[], ResidualPairs], *rows: int) -> ResidualPairs:
        """The pairs of *make*, which learns everything except the part.

        With `reused` it is called once for all fits with the same parameters.
        rows: identify the rows of this fit among those that the fits share.
        """
        if self.reused is None:
            return make()
        key = f"{rows} {self.ignored} {self.params.model_dump_json(include=set(self.base_fit_params))}"
        if (fitted := self.reused.get(key)) is None:
            pairs = make()
            fitted = FittedBase(self.base, dict(self.learned), pairs)
            self.reused[key] = fitted
            for old in list(self.reused)[:-_MAX_REUSED]:
                self.reused.pop(old, None)
        self.base = fitted.base
        self.learned.update(fitted.learned)
        return fitted.pairs

    @property
    def normalizer(self) -> Normalizer:
        """The normalizer of the columns that are used."""
        measures = tuple(name for name in self.schema.names if name not in SERIES_KEY)
        return Normalizer(
            self.schema, self.learned, measures if self.params.columns is None else self.params.columns
        )

    @property
    def n_steps(self) -> int:
        """Number of steps that `part` forecasts for a row."""
        return self.schema.horizon_steps

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the categories."""
        return ()

    def encode_categories(self, x: Value) -> list[Value]:
        """The inputs of the categories of x (n, F), (n, 1) each."""
        del x  # used by subclasses with categories
        return []

    def predict_part(self, x: Value, seen: NormalizedInputs, by_step: Sequence[Value]) -> Value:
        """(n, steps): the part's output at each row and step of *by_step*, (n, steps) each.

        No output of the base is an input: trees compare, and a product's last bits differ in ONNX.
        """
        shared = self.build_shared_inputs(x, seen)
        n_shared = self.normalizer.n_inputs + len(self.names)
        values = run_subgraph(self.learned["part"], build_step_rows(shared, by_step, n_shared, self.n_steps))
        return (
            values.reshape(-1, self.n_steps)
            if isinstance(values, np.ndarray)
            else values.graph.node("Reshape", values, np.array([-1, self.n_steps]))
        )

    def build_shared_inputs(self, x: Value, seen: NormalizedInputs) -> Value:
        """(n, K): the inputs that all steps of a row share."""
        return join_columns([seen.inputs, *self.encode_categories(x)])

    def build_step_inputs(self, x: Value, seen: NormalizedInputs) -> list[Value]:
        """The inputs that differ by step, (n, H) each.

        The seasonal value as a distance from the last one, aligned values as distances from the
        seasonal one, 0 where unknown.
        """
        season = select_seasonal_values(self.schema, x)
        return [
            (season - select_last_values(self.schema, x)) / seen.scale,
            *((fill_nan(take(x, columns), season) - season) / seen.scale for columns in self.aligned),
        ]

    def _get_aligned_columns(self, steps: int) -> list[int]:
        """For each step of the horizon the column with z *steps* before it.

        Or the next multiple of *steps* that is known.
        Raises ForecasterError with the lags to declare.
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
        """At most `max_rows` of the known pairs, with the base's residuals as target.

        Normalizer and base must be fitted.
        """
        normalizer, weight = self.normalizer, self.params.weight
        target = normalizer.target(x, z[:, : self.n_steps], self.base.predict(x)[:, : self.n_steps])
        known = np.flatnonzero(np.isfinite(target))
        if len(known) > self.params.max_rows:
            generator = np.random.default_rng(self.seed)
            known = np.sort(generator.choice(known, self.params.max_rows, replace=False))
        rows, steps = np.divmod(known, target.shape[1])
        origins, position = np.unique(rows, return_inverse=True)
        seen = normalizer.transform(x[origins])
        by_step = [values[position, steps] for values in self.build_step_inputs(x[origins], seen)]
        shared = self.build_shared_inputs(x[origins], seen)[position]
        columns = np.column_stack([shared, (steps + 1).astype(np.float32), *by_step])
        categorical = {name: normalizer.n_inputs + i for i, name in enumerate(self.names)}
        row_weight = None if weight is None else weight.compute(self.schema, normalizer, x)[rows]
        in_reach = int(np.ceil(reach_rows * len(known) / len(x)))
        return ResidualPairs(columns, target.ravel()[known], row_weight, categorical, in_reach)
