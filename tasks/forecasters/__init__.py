"""One file per model, one protocol.

A forecaster maps feature rows at origins to the horizon in the space of z. FORECASTERS names them;
heavy imports stay inside functions, so that a stage pays only for the model it runs.
"""

import difflib
import json
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.edges.extensions import import_extension_class

FORECASTERS = {
    "last_value": "tasks.forecasters.models.naive.last_value:LastValue",
    "window_mean": "tasks.forecasters.models.naive.window_mean:WindowMean",
    "seasonal_naive": "tasks.forecasters.models.naive.seasonal_naive:SeasonalNaive",
    "har": "tasks.forecasters.models.linear.har:Har",
    "ridge": "tasks.forecasters.models.linear.ridge:Ridge",
    "lightgbm": "tasks.forecasters.models.trees.lightgbm:LightGbm",
    "xgboost": "tasks.forecasters.models.trees.xgboost:XgBoost",
    "catboost": "tasks.forecasters.models.trees.catboost:CatBoost",
    "sklearn": "tasks.forecasters.models.trees.sklearn:Estimator",
    "mlp": "tasks.forecasters.models.nets.mlp:Mlp",
    "nlinear": "tasks.forecasters.models.nets.nlinear:NLinear",
    "gru": "tasks.forecasters.models.nets.gru:Gru",
    "lstm": "tasks.forecasters.models.nets.lstm:Lstm",
    "patch_transformer": "tasks.forecasters.models.nets.patch_transformer:PatchTransformer",
    "ets": "tasks.forecasters.models.local.ets:Ets",
    "theta": "tasks.forecasters.models.local.theta:Theta",
    "arima": "tasks.forecasters.models.local.arima:Arima",
    "garch": "tasks.forecasters.models.local.garch:Garch",
    "prophet": "tasks.forecasters.models.local.prophet:Prophet",
}

SKLEARN = "sklearn:"  # what follows is a regressor of scikit-learn
METHODS = ("fit", "predict", "save", "load", "to_onnx")
DERIVE_FROM_FORMULA = "Derive it from tasks.forecasters.graph.graph_definition.Formula (add-a-model.md)."


@runtime_checkable
class Forecaster(Protocol):
    """What each model has: fit, predict, save, load, to_onnx.

    x: (n, F) float32 in the order of the schema, NaN where unknown; the schema's `last` column is
    always finite.
    z: (n, H) float32, the horizon's values in the space of z, NaN where the fold may not use them
    or they are missing.
    """

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        """Raises ForecasterError for unknown or impossible parameters."""

    def fit(self, x: np.ndarray, z: np.ndarray, start: Self | None = None) -> Self:
        """Learn from the pairs of one fold, from the earlier fit *start* on if there is one.

        Inputs are not changed; same seed, same result.
        """

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n, H) float32 in the space of z; finite for every row.

        A model with parameters for each series returns NaN for a series that is not in its fit.
        """

    def save(self, folder: Path) -> None:
        """Write the fit into an existing folder; no pickle."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""

    def to_onnx(self, path: Path) -> None:
        """Write one graph: input `x` (n, F) float32, output `z_hat` (n, H) float32, any n."""


def build_forecaster(name: str, schema: FeatureSchema, seed: int, params: dict[str, Any]) -> Forecaster:
    """The forecaster *name*, unfitted. Raises ForecasterError with the known names."""
    estimator = {"estimator": name.removeprefix(SKLEARN)} if name.startswith(SKLEARN) else {}
    if estimator and "estimator" in params:
        raise ForecasterError(
            f"`forecaster: {name}` names its estimator, and `estimator: {params['estimator']}` another."
            " Remove one of them."
        )
    return get_forecaster_class(name)(schema, seed, **estimator, **params)


def load_forecaster(folder: Path) -> Forecaster:
    """The fit that `save` wrote into *folder*, of any known class.

    Raises ForecasterError when there is none of a known class.
    """
    path = folder / "forecaster.json"
    saved = json.loads(path.read_text())["class"] if path.exists() else ""
    names = {path.rpartition(":")[2]: name for name, path in FORECASTERS.items()}
    if saved not in names and ":" not in saved:
        raise ForecasterError(
            f"{folder} holds no fit of a known forecaster (class {saved!r}). Train it again:"
            " `dvc repro train`."
        )
    loaded: Forecaster = get_forecaster_class(names.get(saved, saved)).load(folder)
    return loaded


def get_forecaster_class(name: str) -> type[Any]:
    """The class of the forecaster *name*.

    name: one of FORECASTERS, `sklearn:<module>.<Class>`, or your own as `<module>:<Class>`, found
    in `tasks/extensions` or installed.
    Raises ForecasterError with the known names, or with what is missing in the class.
    """
    known = "sklearn" if name.startswith(SKLEARN) else name
    if known not in FORECASTERS and ":" not in known:
        near = difflib.get_close_matches(name, FORECASTERS, n=1)
        raise ForecasterError(
            f"No forecaster {name!r}"
            + (f" (did you mean {near[0]!r}?)" if near else "")
            + f"; there are {sorted(FORECASTERS)}, `sklearn:<module>.<Class>` and your own as"
            " `<module>:<Class>`. Correct `models` in params.yaml, or write one"
            " (docs/how-to/add-a-model.md)."
        )
    module, _, attribute = FORECASTERS.get(known, known).partition(":")
    if known not in FORECASTERS:
        return import_extension_class(module, attribute, METHODS, DERIVE_FROM_FORMULA, ForecasterError)
    loaded: type[Any] = getattr(import_module(module), attribute)
    return loaded
