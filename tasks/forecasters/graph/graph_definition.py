"""The base class of all forecasters.

Parameters that refuse unknown names, one formula for predict and ONNX, files without pickle.
"""

import json
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import ValidationError
from threadpoolctl import ThreadpoolController

from tasks.core.blocks import split_blocks
from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_ops import Value, write_graph

_BLOCK_ROWS = 8192  # bounds the memory of a long prediction: a hundred columns and 48 steps take 160 MB
# Key in `learned`: NaN for each ignored column, 0 for the others; added to x it makes a column
# unknown in numpy and in ONNX
_IGNORED = "ignored"


class NoParams(Strict):
    """A model without parameters."""


class Formula(ABC):
    """A forecaster whose forecast is one formula of x and of the learned numbers.

    Params: its parameters.
    learned: every number that `fit` found, by name; empty before.
    reused: a cache that several fits on the same rows share, set by their caller; it changes the
    cost of a fit and no number.
    """

    Params: ClassVar[type[Strict]] = NoParams
    # Whether fits may run in parallel threads of one process and gain by it: they change nothing
    # global
    releases_gil: ClassVar[bool] = False

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        self.schema, self.seed = schema, seed
        self.params: Any = self._parse_params(params)
        self.learned: dict[str, np.ndarray] = {}
        self.is_fitted = False
        self.reused: dict[str, Any] | None = None

    @abstractmethod
    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Fill `learned` from the pairs of one fold."""

    def learn_on(self, x: np.ndarray, z: np.ndarray, start: Self) -> None:
        """As `learn`, from the earlier fit *start* on.

        Raises ForecasterError for a model that cannot.
        """
        del x, z, start  # used by models that can
        raise ForecasterError(
            f"{self.name} cannot go on from an earlier fit. Set `refit: full` for it under `models` in"
            " params.yaml."
        )

    @abstractmethod
    def formula(self, x: Value) -> Value:
        """z_hat (n, H) of x (n, F), by the functions of `graph_ops` alone."""

    @property
    def dispensable(self) -> tuple[str, ...]:
        """Columns that the model does not need, each by itself; none by default."""
        return ()

    def ignore(self, columns: tuple[str, ...]) -> None:
        """Treat *columns* as unknown, in `fit`, `predict` and the graph.

        Raises ForecasterError for one that the model needs, and after `fit`.
        """
        if self.is_fitted or not set(columns) <= set(self.dispensable):
            needed = sorted(set(columns) - set(self.dispensable))
            raise ForecasterError(
                f"{self.name} cannot ignore {needed or 'anything after its fit'}; it can do without"
                f" {list(self.dispensable)} before it."
            )
        self.learned[_IGNORED] = np.array(
            [np.nan if name in columns else 0.0 for name in self.schema.names], dtype=np.float32
        )

    @property
    def ignored(self) -> tuple[str, ...]:
        """Columns that are treated as unknown."""
        return tuple(
            name
            for name, addend in zip(self.schema.names, self.learned.get(_IGNORED, ()), strict=False)
            if np.isnan(addend)
        )

    def fit(self, x: np.ndarray, z: np.ndarray, start: Self | None = None) -> Self:
        """Learn from x (n, F) and z (n, H), float32, NaN where unknown.

        start: an earlier fit to continue from.
        Raises ForecasterError without rows, for another shape, or for a *start* that the model
        cannot use.
        """
        self._check_columns(x)
        if len(x) == 0 or z.shape != (len(x), self.schema.horizon_steps):
            raise ForecasterError(
                f"{self.name} cannot learn from x {x.shape} and z {z.shape}; it needs at least one row, and z"
                f" of {self.schema.horizon_steps} steps."
            )
        x = self._apply_ignored(x)
        apply_one_blas_thread()
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite and is clipped
            if start is None:
                self.learn(x, z)
            else:
                self.learn_on(x, z, start)
        self.is_fitted = True
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n, H) float32 in the space of z.

        Raises ForecasterError before `fit` or for another number of columns.
        """
        self._check_fitted()
        self._check_columns(x)
        out = np.empty((len(x), self.schema.horizon_steps), dtype=np.float32)
        apply_one_blas_thread()
        with np.errstate(over="ignore"):
            for part in split_blocks(len(x), _BLOCK_ROWS):
                out[part] = self.compute(x[part].astype(np.float32, copy=False))
        return out

    def save(self, folder: Path) -> None:
        """Write forecaster.json and learned.npz into *folder*."""
        self._check_fitted()
        about = {
            "class": self._format_class_name(),
            "schema": self.schema.model_dump(),
            "seed": self.seed,
            "params": self.params.model_dump(mode="json"),
        }
        (folder / "forecaster.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
        np.savez(folder / "learned.npz", allow_pickle=False, **self.learned)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises ForecasterError when it is not there, or is of another class.
        """
        try:
            about = json.loads((folder / "forecaster.json").read_text())
            with np.load(folder / "learned.npz", allow_pickle=False) as arrays:
                learned = dict(arrays)
        except (OSError, ValueError) as error:
            raise ForecasterError(
                f"{folder} holds no readable {cls.__name__}: {error}. Train it again: `dvc repro train`."
            ) from error
        if about["class"] != cls._format_class_name():
            raise ForecasterError(
                f"{folder} holds a {about['class']}, not a {cls._format_class_name()}. Load it with the class"
                " that wrote it."
            )
        loaded = cls(FeatureSchema.model_validate(about["schema"]), about["seed"], **about["params"])
        loaded.learned, loaded.is_fitted = learned, True
        return loaded

    def to_onnx(self, path: Path) -> None:
        """Write the formula as one ONNX graph."""
        self._check_fitted()
        write_graph(path, len(self.schema.columns), self.schema.horizon_steps, self.compute)

    def compute(self, x: Value) -> Value:
        """`formula` with the ignored columns as unknown."""
        return self.formula(self._apply_ignored(x))

    @property
    def name(self) -> str:
        """Its name in messages."""
        return type(self).__name__

    @classmethod
    def _format_class_name(cls) -> str:
        """The class in forecaster.json: as in `models`, with its module unless it is ours."""
        module = cls.__module__.removeprefix("tasks.extensions.")
        return cls.__name__ if module.startswith("tasks.") else f"{module}:{cls.__qualname__}"

    def _parse_params(self, params: dict[str, Any]) -> Strict:
        try:
            return self.Params.model_validate(params)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']} (found {str(e['input'])[:60]!r})"
                for e in error.errors()
            )
            known = sorted(self.Params.model_fields)
            raise ForecasterError(
                f"{self.name}: {problems}. Its parameters are {known}; correct `models` of the dataset in"
                " params.yaml."
            ) from error

    def _apply_ignored(self, x: Value) -> Value:
        return x + self.learned[_IGNORED] if _IGNORED in self.learned else x

    def _check_fitted(self) -> None:
        if not self.is_fitted:
            raise ForecasterError(f"{self.name} has learned nothing yet. Call `fit` or `load` first.")

    def _check_columns(self, x: np.ndarray) -> None:
        if x.ndim != 2 or x.shape[1] != len(self.schema.columns):
            raise ForecasterError(
                f"{self.name} got x {x.shape}; its schema has {len(self.schema.columns)} columns. Build both"
                " from one feature table."
            )


@cache
def apply_one_blas_thread() -> None:
    """Limit this process to one BLAS thread, from the first fit or forecast on.

    Sums depend on the number of threads, and on a busy machine two threads wait for each other. The
    limit is not removed again: OpenBLAS answers each change with a thread that spins, and parallel
    fits then took twice their time.
    """
    ThreadpoolController().limit(limits=1)
