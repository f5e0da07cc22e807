"""Any regressor of scikit-learn by its name, on what a simpler model leaves over.

Kept and served as the graph that skl2onnx makes of it: no pickle, and what was scored is what is
served. An estimator that has no such graph, or whose graph says something else, is refused at the
fit.
"""

import difflib
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
_LEAST_PAIRS = 50  # with fewer, nearest neighbours and cross-validated estimators have nothing to choose from
# Mean difference of graph and estimator: float32 moves a row across a threshold now and then, a
# wrong graph moves many
_APART_SD = 1e-3


class EstimatorParams(ResidualParams):
    """estimator: `<module>.<Class>` under sklearn. params: its own. steps: `column` has a row
    for each step, `outputs` all steps at once, of estimators that can.
    """

    estimator: str
    params: dict[str, Any] = Field(default_factory=dict)
    steps: Literal["column", "outputs"] = "column"


class Estimator(OnResiduals):
    """OnResiduals, where the part is a fitted estimator of scikit-learn."""

    Params: ClassVar[type[Strict]] = EstimatorParams
    groundwork_params: ClassVar[tuple[str, ...]] = (*OnResiduals.groundwork_params, "steps")

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self._build_estimator()  # refuses what is wrong before any data are read

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Fit the base, then the estimator on its residuals, and turn it into a graph.

        Raises ForecasterError when it cannot be fitted or turned.
        """

        def make() -> ResidualPairs:
            self.normalizer.learn(x)
            self.base.fit(x, z)
            return self._build_whole_rows(x, z) if self.params.steps == "outputs" else self.pairs(x, z)

        columns, target, weight = self.get_shared_pairs(make)[:3]
        known = ResidualPairs(columns, target.ravel(), None, {}, 0)
        if len(columns) >= _LEAST_PAIRS and known.is_splittable:
            self.learned["part"] = self._convert_estimator(
                self._fit_library_model(columns, target, weight), columns, target
            )

    def predict_part(self, x: Value, seen: NormalizedInputs, own: Value) -> Value:
        """See OnResiduals; all steps at once for `outputs`."""
        return (
            run_subgraph(self.learned["part"], seen.inputs)
            if self.params.steps == "outputs"
            else super().predict_part(x, seen, own)
        )

    def _build_whole_rows(self, x: np.ndarray, z: np.ndarray) -> ResidualPairs:
        """Inputs, residuals (n, H) as target, and weights of at most `max_rows` pairs in rows
        that know every step.
        """
        target = self.normalizer.target(x, z, self.base.predict(x))
        rows = np.flatnonzero(np.isfinite(target).all(axis=1))
        most = max(1, self.params.max_rows // target.shape[1])
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(self.seed).choice(rows, most, replace=False))
        weight = (
            None
            if self.params.weight is None
            else self.params.weight.of(self.schema, self.normalizer, x)[rows]
        )
        return ResidualPairs(self.normalizer.transform(x[rows]).inputs, target[rows], weight, {}, 0)

    def _build_estimator(self) -> Any:
        """The estimator, unfitted.

        Raises ForecasterError for a name or parameter that it has not, with close matches.
        """
        kind, own = _get_regressor_class(self.params.estimator), dict(self.params.params)
        known = list(signature(kind).parameters)
        if strange := sorted(set(own) - set(known)):
            near = difflib.get_close_matches(strange[0], known, n=3)
            raise ForecasterError(
                f"sklearn's {kind.__name__} has no parameter {strange[0]!r}"
                + (f"; did you mean {near}?" if near else ".")
                + f" Its parameters are {sorted(known)}."
            )
        fixed = {"random_state": self.seed, "n_jobs": 1}  # same seed, same fit; one thread beside others
        try:
            return kind(**{name: value for name, value in fixed.items() if name in known} | own)
        except TypeError as error:  # an estimator around other estimators, which no parameter in YAML can be
            raise ForecasterError(
                f"sklearn's {kind.__name__} cannot be built from params.yaml: {error}. Take an estimator that"
                " stands alone."
            ) from error

    def _fit_library_model(self, columns: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> Any:
        # 1 s: other models do without
        from sklearn.utils.validation import has_fit_parameter

        estimator = self._build_estimator()
        if weight is not None and not has_fit_parameter(estimator, "sample_weight"):
            raise ForecasterError(
                f"sklearn's {self.params.estimator} takes no weights of rows. Remove `weight`, or take"
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
            said = run_subgraph(graph, columns)
        except Exception as error:  # converters raise whatever their estimator's inside makes them
            reason = str(error).strip().split("\n")[0][:300]
            raise ForecasterError(
                f"sklearn's {self.params.estimator} has no graph that we can serve ({type(error).__name__}:"
                f" {reason}). Take another estimator, for example ensemble.ExtraTreesRegressor, or write a"
                " forecaster (docs/how-to/add-a-model.md)."
            ) from error
        apart = float(
            np.mean(np.abs(said.reshape(target.shape) - estimator.predict(columns).reshape(target.shape)))
        ) / float(np.std(target))
        if not apart <= _APART_SD:
            raise ForecasterError(
                f"The graph of sklearn's {self.params.estimator} is {apart:.1e} standard deviations from the"
                f" estimator over the rows it was fitted to; at most {_APART_SD:g} is allowed. Take another"
                " estimator or other parameters."
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
    """`<module>.<Class>` of the regressors in the modules that have most of them; sklearn's own
    list imports everything there is, for 10 s.
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
