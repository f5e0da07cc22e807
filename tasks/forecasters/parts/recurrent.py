"""The base class of GRU and LSTM.

Units along the sequence, a hidden layer over the last state and the other columns, and a linear
skip connection.
"""

from typing import Any, ClassVar

from tasks.forecasters.graph.graph_ops import Value, relu, reshape, take_last_step
from tasks.forecasters.parts.net import Net, SequenceParams, join_net_inputs
from tasks.forecasters.parts.net_layers import (
    NetInputs,
    TrainingHooks,
    WeightInitializer,
    Weights,
    Width,
    build_dense_weights,
)


class RecurrentParams(SequenceParams):
    """hidden_size: of the state, and of the layer over it. layers: number of stacked units."""

    hidden_size: Width = 32
    layers: Width = 1


class Recurrent(Net):
    """relu((state, other columns) . A + a) . B + b + (sequence, other columns) . C + c.

    state: the last state of the units along the sequence.
    """

    Params = RecurrentParams
    n_gates: ClassVar[int]
    unit: ClassVar[Any]

    def build_initial_weights(self, n_statics: int, draw: WeightInitializer) -> Weights:
        """Weights of the units, the head, and the skip connection, which starts at 0."""
        k = self.params.hidden_size
        weights: Weights = {}
        for layer in range(self.params.layers):
            n_in = k if layer else 1
            weights |= {
                f"inner_{layer}": draw.uniform((self.n_gates * k, n_in), k),
                f"outer_{layer}": draw.uniform((self.n_gates * k, k), k),
            }
            weights |= {
                f"{name}_{layer}": draw.uniform((self.n_gates * k,), k) for name in ("shift", "outer_shift")
            }
        return (
            weights
            | build_dense_weights(draw, (k + n_statics, k, self.schema.horizon_steps))
            | build_skip_weights(self, n_statics, draw)
        )

    def forward(self, weights: Weights, inputs: NetInputs, hooks: TrainingHooks) -> Value:
        """See the class."""
        n_steps = len(self.steps)
        states = reshape(inputs.sequence, n_steps, 1)
        for layer in range(self.params.layers):
            of_layer = (weights[f"{name}_{layer}"] for name in ("inner", "outer", "shift", "outer_shift"))
            states = hooks.drop(hooks.run_layer(type(self).unit, states, *of_layer))
        hidden = relu(
            join_net_inputs(inputs, take_last_step(states, n_steps)) @ weights["weights_0"]
            + weights["intercept_0"]
        )
        return (
            hooks.drop(hidden) @ weights["weights_1"] + weights["intercept_1"] + compute_skip(weights, inputs)
        )


def build_skip_weights(net: Net, n_statics: int, draw: WeightInitializer) -> Weights:
    """Weights of the linear skip connection: most of the target is linear, and layers add to it."""
    return {"past": 0 * draw.draw_matrix(len(net.steps) + n_statics, net.schema.horizon_steps)}


def compute_skip(weights: Weights, inputs: NetInputs) -> Value:
    """(n, H) of the skip connection."""
    return join_net_inputs(inputs, inputs.sequence) @ weights["past"]
