"""One file per model, one protocol. A forecaster maps feature rows at origins to the horizon in the space of z.

FORECASTERS names them; heavy imports stay inside functions, so that a stage pays only for the model it runs.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema

FORECASTERS = {
    "last_value": "tasks.forecasters.last_value:LastValue",
    "window_mean": "tasks.forecasters.window_mean:WindowMean",
    "seasonal_naive": "tasks.forecasters.seasonal_naive:SeasonalNaive",
    "har": "tasks.forecasters.har:Har",
    "ridge": "tasks.forecasters.ridge:Ridge",
    "lightgbm": "tasks.forecasters.lightgbm:LightGbm",
    "mlp": "tasks.forecasters.mlp:Mlp",
    "nlinear": "tasks.forecasters.nlinear:NLinear",
    "gru": "tasks.forecasters.gru:Gru",
    "lstm": "tasks.forecasters.lstm:Lstm",
    "patch_transformer": "tasks.forecasters.patch_transformer:PatchTransformer",
}

NETS = ("mlp", "nlinear", "gru", "lstm", "patch_transformer")  # trained in torch; their graphs are matrices of weights
BASELINES = ("last_value", "window_mean", "seasonal_naive")  # what a first model must beat


@runtime_checkable
class Forecaster(Protocol):
    """x: (n, F) float32 in the order of the schema, NaN where unknown; the schema's `last` column is always finite.

    z: (n, H) float32, the horizon's values in the space of z, NaN where the fold may not use them or they are missing.
    """

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        """Raises ForecasterError for unknown or impossible parameters."""

    def fit(self, x: np.ndarray, z: np.ndarray, start: Self | None = None) -> Self:
        """Learn from the pairs of one fold, going on from the earlier fit *start* if one is given. Inputs stay untouched; same seed, same result."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(n, H) float32 in the space of z; finite for every row."""

    def save(self, folder: Path) -> None:
        """Write the fit into an existing folder; no pickle."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""

    def to_onnx(self, path: Path) -> None:
        """Write one graph: input `x` (n, F) float32, output `z_hat` (n, H) float32, n free."""


def build_forecaster(name: str, schema: FeatureSchema, seed: int, params: dict[str, Any]) -> Forecaster:
    """The forecaster *name*, unfitted. Raises ForecasterError with the known names."""
    return forecaster_class(name)(schema, seed, **params)


def load_forecaster(folder: Path) -> Forecaster:
    """The fit that `save` wrote into *folder*, whatever model it is of. Raises ForecasterError when there is none of a known class."""
    path = folder / "forecaster.json"
    wrote = json.loads(path.read_text())["class"] if path.exists() else None
    for name, place in FORECASTERS.items():
        if place.rpartition(":")[2] == wrote:
            loaded: Forecaster = forecaster_class(name).load(folder)
            return loaded
    raise ForecasterError(f"{folder} holds no fit of a known forecaster (class {wrote!r}). Train it again: `dvc repro train`.")


def forecaster_class(name: str) -> type[Any]:
    """Class of the forecaster *name*. Raises ForecasterError with the known names."""
    if name not in FORECASTERS:
        raise ForecasterError(f"No forecaster {name!r}; there are {sorted(FORECASTERS)}. Correct `models` in params.yaml, or add it to FORECASTERS.")
    module, _, attribute = FORECASTERS[name].partition(":")
    loaded: type[Any] = getattr(import_module(module), attribute)
    return loaded
