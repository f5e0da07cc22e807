"""Any regressor of scikit-learn by its name, on the residuals of a simpler model.

Saved and served as the graph that skl2onnx makes of it: no pickle, and the served model is the
scored one. An estimator without such a graph, or with a graph that differs, is refused at the fit.
"""

import difflib
from collections.abc import Sequence
from importlib import import_module
from inspect import isabstract, signature
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_ops import ML_OPSET, OPSET, Value
from tasks.forecasters.graph.subgraph import build_canonical_subgraph, run_subgraph
from tasks.forecasters.parts.normalizer import NormalizedInputs
from tasks.forecasters.parts.residuals import OnResiduals, ResidualPairs, ResidualParams

_MODULES = (
    "ensemble",
    "gaussian_process",
    "isotonic",
    "kernel_ridge",
    "linear_model",
    "neighbors",
    "neural_network",
    "svm",
    "tree",
)
_MIN_PAIRS = 50  # fewer are not enough for nearest neighbours and cross-validated estimators
# Mean difference of graph and estimator: float32 moves single rows across a threshold, a wrong
# graph moves many
_MAX_DIFFERENCE_SD = 1e-3


class EstimatorParams(ResidualParams):
    """The parameters of a scikit-learn regressor.

    estimator: `<module>.<Class>` under sklearn.
    params: the estimator's own.
    steps: `column`: a row for each step, with the step as a column; `outputs`: an output for each
        step, for estimators that have several.
    """

    estimator: str
    params: dict[str, Any] = Field(default_factory=dict)
    steps: Literal["column", "outputs"] = "column"


class Estimator(OnResiduals):
    """OnResiduals with a fitted estimator of scikit-learn as the part."""

    Params: ClassVar[type[Strict]] = EstimatorParams
    base_fit_params: ClassVar[tuple[str, ...]] = (*OnResiduals.base_fit_params, "steps")

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self._build_estimator()  # raises for wrong parameters before any data are read

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Fit the base, then the estimator on its residuals, and convert it to a graph.

        Raises ForecasterError when it cannot be fitted or converted.
        """

        def make() -> ResidualPairs:
            self.normalizer.learn(x)
            self.base.fit(x, z)
            return self._build_whole_rows(x, z) if self.params.steps == "outputs" else self.pairs(x, z)

        columns, target, weight = self.get_shared_pairs(make)[:3]
        known = ResidualPairs(columns, target.ravel(), None, {}, 0)
        if len(columns) >= _MIN_PAIRS and known.is_splittable:
            self.learned["part"] = self._convert_estimator(
                self._fit_library_model(columns, target, weight), columns, target
            )

    def predict_part(self, x: Value, seen: NormalizedInputs, by_step: Sequence[Value]) -> Value:
        """See OnResiduals; for `outputs` the graph has all steps."""
        return (
            run_subgraph(self.learned["part"], seen.inputs)
            if self.params.steps == "outputs"
            else super().predict_part(x, seen, by_step)
        )

    def _build_whole_rows(self, x: np.ndarray, z: np.ndarray) -> ResidualPairs:
        """Pairs of whole rows in which every step is known, with the residuals (n, H) as target.

        At most `max_rows` pairs.
        """
        target = self.normalizer.target(x, z, self.base.predict(x))
        rows = np.flatnonzero(np.isfinite(target).all(axis=1))
        max_rows = max(1, self.params.max_rows // target.shape[1])
        if len(rows) > max_rows:
            rows = np.sort(np.random.default_rng(self.seed).choice(rows, max_rows, replace=False))
        weight = (
            None
            if self.params.weight is None
            else self.params.weight.compute(self.schema, self.normalizer, x)[rows]
        )
        return ResidualPairs(self.normalizer.transform(x[rows]).inputs, target[rows], weight, {}, 0)

    def _build_estimator(self) -> Any:
        """The estimator, unfitted.

        Raises ForecasterError for an unknown name or parameter, with close matches.
        """
        kind, own_params = _get_regressor_class(self.params.estimator), dict(self.params.params)
        known = list(signature(kind).parameters)
        if unknown := sorted(set(own_params) - set(known)):
            near = difflib.get_close_matches(unknown[0], known, n=3)
            raise ForecasterError(
                f"sklearn's {kind.__name__} has no parameter {unknown[0]!r}"
                + (f"; did you mean {near}?" if near else ".")
                + f" Its parameters are {sorted(known)}."
            )
        fixed = {
            "random_state": self.seed,
            "n_jobs": 1,
        }  # same seed, same fit; one thread, since others run too
        try:
            return kind(**{name: value for name, value in fixed.items() if name in known} | own_params)
        except TypeError as error:  # it needs another estimator, which YAML cannot express
            raise ForecasterError(
                f"sklearn's {kind.__name__} cannot be built from params.yaml: {error}. Use an estimator"
                " that needs no other one."
            ) from error

    def _fit_library_model(self, columns: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> Any:
        # Takes 1 s, and other models do not need it
        from sklearn.utils.validation import has_fit_parameter

        estimator = self._build_estimator()
        if weight is not None and not has_fit_parameter(estimator, "sample_weight"):
            raise ForecasterError(
                f"sklearn's {self.params.estimator} accepts no weights of rows. Remove `weight`, or use"
                " another estimator."
            )
        try:
            return estimator.fit(columns, target, **({} if weight is None else {"sample_weight": weight}))
        except (ValueError, TypeError) as error:
            raise ForecasterError(
                f"sklearn's {self.params.estimator} cannot be fitted with {self.params.params}: {error}"
            ) from error

    def _convert_estimator(self, estimator: Any, columns: np.ndarray, target: np.ndarray) -> np.ndarray:
        from skl2onnx import to_onnx

        try:
            graph = build_canonical_subgraph(
                to_onnx(
                    estimator, columns[:1], target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET}
                ).SerializeToString()
            )
            of_graph = run_subgraph(graph, columns)
        except Exception as error:  # converters raise errors of many types
            reason = str(error).strip().split("\n")[0][:300]
            raise ForecasterError(
                f"sklearn's {self.params.estimator} has no graph that can be served ({type(error).__name__}:"
                f" {reason}). Use another estimator, for example ensemble.ExtraTreesRegressor, or write a"
                " forecaster (docs/how-to/add-a-model.md)."
            ) from error
        expected = estimator.predict(columns).reshape(target.shape)
        difference = float(np.mean(np.abs(of_graph.reshape(target.shape) - expected))) / float(np.std(target))
        if not difference <= _MAX_DIFFERENCE_SD:
            raise ForecasterError(
                f"The graph of sklearn's {self.params.estimator} is {difference:.1e} standard deviations from"
                f" the estimator over the rows of the fit; at most {_MAX_DIFFERENCE_SD:g} is allowed. Use"
                " another estimator or other parameters."
            )
        return graph


def _get_regressor_class(name: str) -> type[Any]:
    """The class `sklearn.<name>`.

    Raises ForecasterError with close matches among sklearn's regressors.
    """
    from sklearn.base import RegressorMixin

    module, _, kind = name.rpartition(".")
    try:
        found = getattr(import_module(f"sklearn.{module}"), kind, None) if module else None
    except ImportError:
        found = None
    if not (isinstance(found, type) and issubclass(found, RegressorMixin)) or isabstract(found):
        names = _list_regressors()
        near = difflib.get_close_matches(name, names, n=3) or [
            n for n in names if n.rpartition(".")[2] == kind
        ]
        raise ForecasterError(
            f"scikit-learn has no regressor {name!r}."
            + (f" Did you mean {near}?" if near else "")
            + " Write `sklearn:<module>.<Class>`."
        )
    return found


def _list_regressors() -> list[str]:
    """`<module>.<Class>` of the regressors in the modules that have most of them.

    sklearn's own list imports all of its modules, which takes 10 s.
    """
    from sklearn.base import RegressorMixin

    names = []
    for module in _MODULES:
        public = {
            name: kind
            for name, kind in vars(import_module(f"sklearn.{module}")).items()
            if isinstance(kind, type) and not name.startswith("_")
        }
        names += [
            f"{module}.{name}"
            for name, kind in public.items()
            if issubclass(kind, RegressorMixin) and kind is not RegressorMixin
        ]
    return names
