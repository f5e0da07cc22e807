"""The types that nets and their training share: weights, inputs, hooks and the net's protocol."""

import itertools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from tasks.core.schema import FeatureSchema
from tasks.forecasters.graph.graph_ops import Value

Width = Annotated[int, Field(ge=1)]
Weights = dict[str, Any]  # name -> array, or tensor where it is trained


class NetInputs(NamedTuple):
    """The inputs of a net of n rows.

    sequence: (n, L) distances from the last value, oldest first; (n, 0) where a net reads none.
    statics: (n, K), all other columns.
    """

    sequence: Value
    statics: Value


class TrainingHooks:
    """Hooks of training in the layers; these do nothing, as in a forecast."""

    def drop(self, x: Value) -> Value:
        """x, in training with a random part of it set to 0."""
        return x

    def run_layer(self, compute: Callable[..., Value], *values: Value) -> Value:
        """The layer *compute* of *values*; training may compute it twice instead of keeping it."""
        return compute(*values)


class TrainableNet(Protocol):
    """A net as training needs it: its parameters, its seed and its layers."""

    schema: FeatureSchema
    seed: int
    params: Any

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    def forward(self, weights: Weights, inputs: NetInputs, hooks: TrainingHooks) -> Value:
        """(n, H) of *inputs*, by the functions of `graph_ops` for tensors."""
        ...


class WeightInitializer:
    """First weights, drawn in order from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def draw_matrix(self, n_in: int, n_out: int) -> np.ndarray:
        """(n_in, n_out), uniform within 1/sqrt(n_in), torch's rule for a dense layer."""
        return self.uniform((n_in, n_out), n_in)

    def uniform(self, shape: tuple[int, ...], n_in: int) -> np.ndarray:
        """Of any *shape*, within 1/sqrt(n_in)."""
        bound = 1 / np.sqrt(n_in)
        return self.rng.uniform(-bound, bound, shape).astype(np.float32)


def build_dense_weights(draw: WeightInitializer, sizes: tuple[int, ...]) -> Weights:
    """`weights_<layer>` (in, out) and `intercept_<layer>` (out,) of layers of these *sizes*."""
    weights: Weights = {}
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        weights |= {
            f"weights_{layer}": draw.draw_matrix(n_in, n_out),
            f"intercept_{layer}": draw.uniform((n_out,), n_in),
        }
    return weights
