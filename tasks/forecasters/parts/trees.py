"""The base class of boosted trees: one booster for all series and steps, on residuals.

On a few thousand rows trees alone are worse than a linear model, and on its residuals they are
better (-4.7 % against +5 % QLIKE over HAR). A library grows the trees; forecasts, also served ones,
are by their ONNX graph (`tree_graph.py`), which tests compare with the library.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_ops import Value, join_columns
from tasks.forecasters.graph.tree_graph import TreeNode, build_tree_graph
from tasks.forecasters.parts.categories import SERIES, CategoryEncoder
from tasks.forecasters.parts.normalizer import Normalizer
from tasks.forecasters.parts.recursive_inputs import RecursiveInputs, check_movable
from tasks.forecasters.parts.residuals import OnResiduals, ResidualPairs, ResidualParams

# Learned numbers that a warm start keeps, since the trees' thresholds are in their units
_KEPT_PREFIXES = ("preamble.", "categories.", "identity.", "statistic.")

_START_PARAMS = (
    "base",
    "strategy",
    "loss",
    "quantile",
    "categorical",
)  # which a warm start must have in common


class TreesParams(ResidualParams):
    """As all models on residuals.

    n_trees: number of trees, with held_frac at most so many.
    loss: of the residuals in units of the scale; `quantile` needs *quantile*.
    held_frac: fraction of the window, its newest rows, on which the number of trees is chosen, by
        *patience_trees* without a lower loss, before all rows are fitted with it; 0: n_trees.
    categorical: categorical columns, `series` for the series themselves.
    more_trees: grown on top of an earlier fit's, at most *max_trees* in all.
    strategy: `direct` has the step as a column; `recursive` learns the first step alone and repeats
        it on its own forecasts, from the columns that `RecursiveInputs` can advance.
    """

    n_trees: Annotated[int, Field(ge=1)] = 60
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.06
    loss: Literal["squared", "absolute", "quantile"] = "squared"
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    held_frac: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    patience_trees: Annotated[int, Field(ge=1)] = 20
    categorical: tuple[str, ...] = ()
    more_trees: Annotated[int, Field(ge=1)] = 20
    max_trees: Annotated[int, Field(ge=1)] = 1000
    strategy: Literal["direct", "recursive"] = "direct"

    @model_validator(mode="after")
    def _check_quantile(self) -> Self:
        if (self.loss == "quantile") != (self.quantile is not None):
            raise ValueError("`quantile` goes with `loss: quantile`, and only with it")
        return self

    @model_validator(mode="after")
    def _check_recursive_base(self) -> Self:
        if self.strategy == "recursive" and self.base not in {"last", "seasonal"}:
            raise ValueError(
                f"`strategy: recursive` repeats its base too; `base` is {self.base!r} and must be `last` or"
                " `seasonal`"
            )
        if self.strategy == "recursive" and (self.columns is not None or self.aligned_steps):
            raise ValueError(
                "`strategy: recursive` reads only what its own forecasts advance; leave `columns` and"
                " `aligned_steps` out"
            )
        return self


class FittedBooster(NamedTuple):
    """A booster in its library's own file format.

    n_trees: its number of trees; with held-out rows the best number on them.
    """

    native: bytes
    n_trees: int


class BoostedTrees(OnResiduals):
    """OnResiduals with a sum of trees as the part; `recursive`: of the first step, repeated."""

    Params: ClassVar[type[Strict]] = TreesParams
    base_fit_params: ClassVar[tuple[str, ...]] = (*OnResiduals.base_fit_params, "categorical", "strategy")
    releases_gil: ClassVar[bool] = True
    native_file: ClassVar[str]  # name of the library's own file in the folder of a fit

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self.native = b""  # empty: no tree was grown
        self.categories = CategoryEncoder(schema, self.learned, self.params.categorical, self.name)
        self.recursive_inputs = RecursiveInputs(schema) if self.params.strategy == "recursive" else None
        if self.recursive_inputs:
            check_movable([name for name in self.params.categorical if name != SERIES], schema, self.name)

    @property
    @abstractmethod
    def min_pairs(self) -> int:
        """With fewer pairs no tree is grown."""

    @abstractmethod
    def fit_trees(
        self, pairs: ResidualPairs, n_trees: int, start: bytes = b"", held: ResidualPairs | None = None
    ) -> FittedBooster:
        """Grow *n_trees*, on top of those of *start*.

        held: stop when the loss on these pairs has not fallen for `patience_trees`.
        """

    @abstractmethod
    def parse_trees(self, native: bytes) -> tuple[list[list[TreeNode]], float]:
        """The trees of a booster, and the constant to add to their sum."""

    @property
    def dispensable(self) -> tuple[str, ...]:
        """As OnResiduals; none where lags are advanced."""
        return () if self.recursive_inputs else super().dispensable

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Fit the base, then the trees on its residuals over the same rows."""
        n_trees = self._find_n_trees(x, z) if self.params.held_frac else self.params.n_trees
        pairs = self.build_residual_pairs(x, z, count_rows_in_reach(z))
        if self._has_enough_pairs(pairs):
            self._update_learned(self.fit_trees(pairs, n_trees).native, pairs.columns.shape[1])

    def build_residual_pairs(self, x: np.ndarray, z: np.ndarray, reach_rows: int) -> ResidualPairs:
        """Learn everything except the trees; returns the pairs to grow them on."""

        def make() -> ResidualPairs:
            self.normalizer.learn(x)
            self.categories.learn(x)
            self.base.fit(x, z)
            return self.encode_pairs(self.pairs(x, z, reach_rows))

        return self.get_shared_pairs(make, len(x), reach_rows)

    def learn_on(self, x: np.ndarray, z: np.ndarray, start: Self) -> None:
        """Grow `more_trees` on top of the trees of *start*.

        Its inputs and categories stay as it learned them, the base is fitted again.
        Raises ForecasterError when *start* is another model, has other columns or categories, or
        when there would be too many trees.
        """
        self._check_start(start)
        self.learned.update(
            {name: value for name, value in start.learned.items() if name.startswith(_KEPT_PREFIXES)}
        )
        self.base.fit(x, z)
        pairs = self.pairs(x, z)
        if self._has_enough_pairs(pairs):
            self._update_learned(
                self.fit_trees(pairs, self.params.more_trees, start.native).native, pairs.columns.shape[1]
            )
        elif start.native:
            self._update_learned(start.native, pairs.columns.shape[1])

    def formula(self, x: Value) -> Value:
        """See the class."""
        return (
            self._predict_recursive(x, self.recursive_inputs) if self.recursive_inputs else super().formula(x)
        )

    def encode_categories(self, x: Value) -> list[Value]:
        """The trees' inputs for the categories of x (n, F), (n, 1) each: their numbers."""
        return self.categories.numbers(x)

    def encode_pairs(self, pairs: ResidualPairs) -> ResidualPairs:
        """*pairs* with a library's own encoding of the categories, which is learned here."""
        return pairs

    def save(self, folder: Path) -> None:
        """Write the booster in its library's own format, the rest as OnResiduals."""
        super().save(folder)
        (folder / self.native_file).write_bytes(self.native)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises ForecasterError when it is missing."""
        loaded = super().load(folder)
        loaded.categories = CategoryEncoder(
            loaded.schema, loaded.learned, loaded.params.categorical, loaded.name
        )
        if not (folder / cls.native_file).exists():
            raise ForecasterError(
                f"{folder / cls.native_file} is missing. Train it again: `dvc repro train`."
            )
        loaded.native = (folder / cls.native_file).read_bytes()
        return loaded

    @property
    def normalizer(self) -> Normalizer:
        """The normalizer of all columns except categories; `recursive`: that can be advanced."""
        named = {*SERIES_KEY, *self.names}
        columns = (
            self.recursive_inputs.columns
            if self.recursive_inputs
            else self.schema.names
            if self.params.columns is None
            else self.params.columns
        )
        return Normalizer(self.schema, self.learned, tuple(name for name in columns if name not in named))

    @property
    def n_steps(self) -> int:
        """As OnResiduals; 1 where the step is repeated."""
        return 1 if self.recursive_inputs else self.schema.horizon_steps

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the categories."""
        categorical: tuple[str, ...] = self.params.categorical
        return categorical

    def _predict_recursive(self, x: Value, recursive_inputs: RecursiveInputs) -> Value:
        """The first step repeated, each time on rows advanced by the forecasts before."""
        ahead: list[Value] = []
        for _ in range(self.schema.horizon_steps):
            advanced = recursive_inputs.build_next_inputs(x, ahead)
            seen = self.normalizer.transform(advanced)
            season = recursive_inputs.season(x, ahead, seen.last)
            base = season if self.params.base == "seasonal" else seen.last
            ahead.append(
                base + self.predict_part(advanced, seen, [(season - seen.last) / seen.scale]) * seen.scale
                if self.native
                else base
            )
        return join_columns(ahead)

    def _find_n_trees(self, x: np.ndarray, z: np.ndarray) -> int:
        """The number of trees with the lowest loss on the window's newest rows.

        Trees are grown on the rows whose targets were all known before these.
        """
        cut = int(len(x) * (1 - self.params.held_frac))
        purge = count_rows_in_reach(z)
        if cut <= purge:
            raise ForecasterError(
                f"`held_frac: {self.params.held_frac:g}` leaves {cut} of {len(x)} rows, but {purge} before"
                " the held-out rows have targets in them. Lower it, or set it to 0 and choose `n_trees`"
                " yourself."
            )
        older = type(self)(self.schema, self.seed, **self.params.model_dump())
        # Ignored columns are NaN in *x* already, and *older* does not have their names
        older.reused = None if self.ignored else self.reused
        pairs = older.build_residual_pairs(x[: cut - purge], z[: cut - purge], purge)
        held = older.pairs(x[cut:], z[cut:])
        if not self._has_enough_pairs(pairs) or not len(held.target):
            return self.params.n_trees
        return self.fit_trees(pairs, self.params.n_trees, held=held).n_trees

    def _has_enough_pairs(self, pairs: ResidualPairs) -> bool:
        return len(pairs.target) >= self.min_pairs and pairs.is_splittable

    def _update_learned(self, native: bytes, n_columns: int) -> None:
        self.native = native
        self.learned["part"] = build_tree_graph(*self.parse_trees(native), n_columns)

    def _check_start(self, start: Self) -> None:
        if (
            type(start) is not type(self)
            or start.schema != self.schema
            or any(getattr(start.params, p) != getattr(self.params, p) for p in _START_PARAMS)
        ):
            raise ForecasterError(
                f"{self.name} cannot continue this {start.name}: model, feature schema,"
                f" {', '.join(f'`{p}`' for p in _START_PARAMS)} must be the same. Set `refit: full` for it"
                " once."
            )
        n_trees = len(start.parse_trees(start.native)[0]) if start.native else 0
        if n_trees + self.params.more_trees > self.params.max_trees:
            raise ForecasterError(
                f"{self.name} has {n_trees} trees, and {self.params.more_trees} more (`more_trees`) exceed"
                f" `max_trees: {self.params.max_trees}`. Set `refit: full` for it once, or raise `max_trees`;"
                " each tree adds to the time of every forecast."
            )


def count_rows_in_reach(z: np.ndarray) -> int:
    """Number of rows before a cut that have targets after it: those of H origins of all series.

    z: (n, H), rows in order of time. At the window's end the purge has left newer origins fewer
        steps: the rows after the last one with a whole horizon are those of H - 1 origins (or more,
        where values arrive late).
    """
    n_steps = z.shape[1]
    whole = np.flatnonzero(np.isfinite(z[:, -1]))
    behind = len(z) - 1 - whole[-1] if len(whole) else len(z)
    return int(np.ceil(behind * n_steps / max(1, n_steps - 1)))
