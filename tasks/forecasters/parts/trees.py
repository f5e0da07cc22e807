"""What all boosted trees share: one booster for all series and steps, on what a simpler model
leaves over.

On a few thousand rows trees alone lose to a linear model, and on its residuals they do not
(findings: -4.7 % against +5 % QLIKE over HAR). A library grows the trees; what forecasts, here and
served, is their ONNX graph (`tree_graph.py`), held against the library in tests.
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

# What a warm start takes over, since the trees' thresholds are in its units
_KEPT = ("preamble.", "categories.", "identity.", "statistic.")

_SAME = ("base", "strategy", "loss", "quantile", "categorical")  # what the earlier trees answer to


class TreesParams(ResidualParams):
    """As all that learn on residuals.

    n_trees: how many, and at most how many with held_frac. loss: on the residuals in units of the
    scale; `quantile` needs `quantile`.
    held_frac: share of the window's newest rows on which the number of trees is chosen, after
    patience_trees without gain, before all rows are fitted with it; 0 takes n_trees. categorical:
    columns that name and do not measure, `series` for the series themselves. more_trees: grown on
    top of an earlier fit's, never beyond max_trees altogether. strategy: `direct` has the step as a
    column; `recursive` learns the first step alone and repeats it on its own forecasts, from what
    `RecursiveInputs` can move on.
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
            raise ValueError("`quantile` stands with `loss: quantile`, and only there")
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
                "`strategy: recursive` sees what moves on by its own forecasts; leave `columns` and"
                " `aligned_steps` out"
            )
        return self


class FittedBooster(NamedTuple):
    """A booster in its library's own file format; of n_trees, the best number on the held rows
    if there were any.
    """

    native: bytes
    n_trees: int


class BoostedTrees(OnResiduals):
    """OnResiduals, where the part is the sum of trees; `recursive`: of the first step alone,
    repeated.
    """

    Params: ClassVar[type[Strict]] = TreesParams
    groundwork_params: ClassVar[tuple[str, ...]] = (*OnResiduals.groundwork_params, "categorical", "strategy")
    releases_gil: ClassVar[bool] = True
    native_file: ClassVar[str]  # name of the library's own file in the folder of a fit

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self.native = b""  # empty: no tree could be grown
        self.categories = CategoryEncoder(schema, self.learned, self.params.categorical, self.name)
        self.moving = RecursiveInputs(schema) if self.params.strategy == "recursive" else None
        if self.moving:
            check_movable([name for name in self.params.categorical if name != SERIES], schema, self.name)

    @property
    @abstractmethod
    def min_pairs(self) -> int:
        """With fewer pairs no tree is grown."""

    @abstractmethod
    def fit_trees(
        self, pairs: ResidualPairs, n_trees: int, start: bytes = b"", held: ResidualPairs | None = None
    ) -> FittedBooster:
        """Grow *n_trees*, on top of those of *start*; with *held* stop when its loss has not
        fallen for `patience_trees`.
        """

    @abstractmethod
    def parse_trees(self, native: bytes) -> tuple[list[list[TreeNode]], float]:
        """The trees of a booster, and the constant that is added to their sum."""

    @property
    def dispensable(self) -> tuple[str, ...]:
        """As OnResiduals; none where lags are moved on."""
        return () if self.moving else super().dispensable

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Fit the base, then the trees on its residuals over the same rows."""
        n_trees = self._find_n_trees(x, z) if self.params.held_frac else self.params.n_trees
        pairs = self.build_residual_pairs(x, z, count_rows_in_reach(z))
        if self._has_enough_pairs(pairs):
            self._update_learned(self.fit_trees(pairs, n_trees).native, pairs.columns.shape[1])

    def build_residual_pairs(self, x: np.ndarray, z: np.ndarray, reach_rows: int) -> ResidualPairs:
        """Learn everything but the trees; the pairs to grow them on."""

        def make() -> ResidualPairs:
            self.normalizer.learn(x)
            self.categories.learn(x)
            self.base.fit(x, z)
            return self.encode_pairs(self.pairs(x, z, reach_rows))

        return self.get_shared_pairs(make, len(x), reach_rows)

    def learn_on(self, x: np.ndarray, z: np.ndarray, start: Self) -> None:
        """Grow `more_trees` on top of the trees of *start*: its inputs and categories stay as it
        learned them, the base is fitted anew.

        Raises ForecasterError when *start* is another model, has other columns or categories, or
        when there would be too many trees.
        """
        self._check_start(start)
        self.learned.update({name: value for name, value in start.learned.items() if name.startswith(_KEPT)})
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
        return self._predict_recursive(x, self.moving) if self.moving else super().formula(x)

    def encode_categories(self, x: Value) -> list[Value]:
        """What the trees see of the categories of x (n, F): (n, 1) each; their numbers, where a
        library asks for sets of them.
        """
        return self.categories.numbers(x)

    def encode_pairs(self, pairs: ResidualPairs) -> ResidualPairs:
        """*pairs* with what a library sees in place of the categories' numbers; learns the
        coding.
        """
        return pairs

    def save(self, folder: Path) -> None:
        """The booster in its library's own format, the rest as OnResiduals."""
        super().save(folder)
        (folder / self.native_file).write_bytes(self.native)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote. Raises ForecasterError when it is not there."""
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
        """Of every column that measures, and for `recursive` can be moved on."""
        named = {*SERIES_KEY, *self.names}
        columns = (
            self.moving.columns
            if self.moving
            else self.schema.names
            if self.params.columns is None
            else self.params.columns
        )
        return Normalizer(self.schema, self.learned, tuple(name for name in columns if name not in named))

    @property
    def n_steps(self) -> int:
        """One where it is repeated."""
        return 1 if self.moving else self.schema.horizon_steps

    @property
    def names(self) -> tuple[str, ...]:
        """Of the categories."""
        named: tuple[str, ...] = self.params.categorical
        return named

    def _predict_recursive(self, x: Value, moving: RecursiveInputs) -> Value:
        """The first step, again and again, on rows moved on by the forecasts before."""
        ahead: list[Value] = []
        for _ in range(self.schema.horizon_steps):
            moved = moving.build_next_inputs(x, ahead)
            seen = self.normalizer.transform(moved)
            season = moving.season(x, ahead, seen.last)
            base = season if self.params.base == "seasonal" else seen.last
            ahead.append(
                base + self.predict_part(moved, seen, [(season - seen.last) / seen.scale]) * seen.scale
                if self.native
                else base
            )
        return join_columns(ahead)

    def _find_n_trees(self, x: np.ndarray, z: np.ndarray) -> int:
        """How many trees are best on the window's newest rows, grown on those whose targets were
        all known before them.
        """
        cut = int(len(x) * (1 - self.params.held_frac))
        purge = count_rows_in_reach(z)
        if cut <= purge:
            raise ForecasterError(
                f"`held_frac: {self.params.held_frac:g}` leaves {cut} of {len(x)} rows, and the {purge}"
                " before the held ones reach into them. Lower it, or set it to 0 and choose `n_trees`"
                " yourself."
            )
        older = type(self)(self.schema, self.seed, **self.params.model_dump())
        # *x* is without what is ignored, of which *older* does not know
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
            or any(getattr(start.params, p) != getattr(self.params, p) for p in _SAME)
        ):
            raise ForecasterError(
                f"{self.name} cannot go on from this {start.name}: model, feature schema,"
                f" {', '.join(f'`{p}`' for p in _SAME)} must be the same. Set `refit: full` for it once."
            )
        n_there = len(start.parse_trees(start.native)[0]) if start.native else 0
        if n_there + self.params.more_trees > self.params.max_trees:
            raise ForecasterError(
                f"{self.name} has {n_there} trees and {self.params.more_trees} more (`more_trees`) would pass"
                f" `max_trees: {self.params.max_trees}`. Set `refit: full` for it once, or raise `max_trees`;"
                " each tree costs time in every answer."
            )


def count_rows_in_reach(z: np.ndarray) -> int:
    """How many rows before a cut have targets after it, of rows in order of time with z (n, H): H
    origins of all series.

    Read from the window's end, where the purge has left each origin the fewer steps the newer it
    is: the rows behind the last one that knows its whole horizon are those of H - 1 origins (or
    more, where values come late).
    """
    n_steps = z.shape[1]
    whole = np.flatnonzero(np.isfinite(z[:, -1]))
    behind = len(z) - 1 - whole[-1] if len(whole) else len(z)
    return int(np.ceil(behind * n_steps / max(1, n_steps - 1)))
