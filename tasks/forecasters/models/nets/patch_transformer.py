"""A small transformer over patches of the sequence, one series at a time.

Source: Nie et al. 2023, arXiv:2211.14730 (PatchTST). Inputs of layers are normalised before
attention (Xiong et al. 2020, arXiv:2002.04745), and by row instead of by batch, so that a row's
forecast does not depend on other rows of its batch.
"""

from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.forecasters.graph.graph_ops import Value, layer_norm, relu, reshape, softmax, take, transpose
from tasks.forecasters.parts.net import Net, SequenceParams, join_net_inputs
from tasks.forecasters.parts.net_layers import (
    NetInputs,
    TrainingHooks,
    WeightInitializer,
    Weights,
    Width,
    build_dense_weights,
)
from tasks.forecasters.parts.recurrent import build_skip_weights, compute_skip


class PatchTransformerParams(SequenceParams):
    """The parameters of the transformer.

    patch_steps, stride_steps: length and distance of the patches; the last one ends at the last
        step.
    size: length of a patch's vector. heads: parallel attention heads.
    layers: of attention and two dense maps, with *inside_size* numbers between these.
    """

    patch_steps: Width = 4
    stride_steps: Width = 2
    size: Width = 16
    heads: Width = 4
    layers: Width = 2
    inside_size: Width = 32
    warmup_frac: Annotated[float, Field(ge=0, lt=1)] = 0.1
    learning_rate: Annotated[float, Field(gt=0)] = 0.003

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.size % self.heads:
            raise ValueError("`size` must be a multiple of `heads`")
        return self


class PatchTransformer(Net):
    """(patches after all layers, other columns) . A + a + (sequence, other columns) . C."""

    Params = PatchTransformerParams

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        n_steps, length = len(self.steps), self.params.patch_steps
        if length > n_steps:
            raise ForecasterError(
                f"{self.name} has patches of {length} steps, but its sequence has {n_steps}. Set"
                f" `patch_steps` to at most {n_steps}."
            )
        starts = range(
            (n_steps - length) % self.params.stride_steps, n_steps - length + 1, self.params.stride_steps
        )
        self.patches = [[start + k for k in range(length)] for start in starts]

    def build_initial_weights(self, n_statics: int, draw: WeightInitializer) -> Weights:
        """Weights of the patches, each layer, the head, and the skip connection."""
        size, inside = self.params.size, self.params.inside_size
        weights = {
            "patch": draw.draw_matrix(self.params.patch_steps, size),
            "place": draw.uniform((len(self.patches), size), 2500),
        }
        for layer in range(self.params.layers):
            weights |= {
                f"{name}_{layer}": draw.draw_matrix(size, size) for name in ("query", "key", "value", "mix")
            }
            weights |= {
                f"in_{layer}": draw.draw_matrix(size, inside),
                f"out_{layer}": draw.draw_matrix(inside, size),
            }
            weights |= {
                f"in_shift_{layer}": np.zeros(inside, np.float32),
                f"out_shift_{layer}": np.zeros(size, np.float32),
            }
        for norm in range(2 * self.params.layers + 1):
            weights |= {
                f"norm_gain_{norm}": np.ones(size, np.float32),
                f"norm_shift_{norm}": np.zeros(size, np.float32),
            }
        head = build_dense_weights(draw, (len(self.patches) * size + n_statics, self.schema.horizon_steps))
        return weights | head | build_skip_weights(self, n_statics, draw)

    def forward(self, weights: Weights, inputs: NetInputs, hooks: TrainingHooks) -> Value:
        """See the class."""
        n_patches = len(self.patches)
        cut = reshape(
            take(inputs.sequence, [step for patch in self.patches for step in patch]),
            n_patches,
            self.params.patch_steps,
        )
        seen = hooks.drop(cut @ weights["patch"] + weights["place"])
        for layer in range(self.params.layers):
            seen = hooks.run_layer(lambda x, layer=layer: self._apply_layer(weights, x, layer, hooks), seen)
        flat = reshape(self._apply_norm(weights, seen, 2 * self.params.layers), n_patches * self.params.size)
        return (
            hooks.drop(join_net_inputs(inputs, flat)) @ weights["weights_0"]
            + weights["intercept_0"]
            + compute_skip(weights, inputs)
        )

    def _apply_layer(self, weights: Weights, seen: Value, layer: int, hooks: TrainingHooks) -> Value:
        """Attention over all patches, then dense maps of each; both are added to the input."""
        seen = seen + hooks.drop(
            self._apply_attention(weights, self._apply_norm(weights, seen, 2 * layer), layer)
        )
        inside = relu(
            self._apply_norm(weights, seen, 2 * layer + 1) @ weights[f"in_{layer}"]
            + weights[f"in_shift_{layer}"]
        )
        return seen + hooks.drop(hooks.drop(inside) @ weights[f"out_{layer}"] + weights[f"out_shift_{layer}"])

    def _apply_attention(self, weights: Weights, seen: Value, layer: int) -> Value:
        heads, n_patches, size = self.params.heads, len(self.patches), self.params.size
        query, key, value = (
            reshape(seen @ weights[f"{name}_{layer}"], n_patches, heads, size // heads)
            for name in ("query", "key", "value")
        )
        alike = transpose(query, 0, 2, 1, 3) @ transpose(key, 0, 2, 3, 1)
        gathered = softmax(alike * float(np.float32((size // heads) ** -0.5))) @ transpose(value, 0, 2, 1, 3)
        return reshape(transpose(gathered, 0, 2, 1, 3), n_patches, size) @ weights[f"mix_{layer}"]

    def _apply_norm(self, weights: Weights, seen: Value, norm: int) -> Value:
        return layer_norm(seen, weights[f"norm_gain_{norm}"], weights[f"norm_shift_{norm}"])
