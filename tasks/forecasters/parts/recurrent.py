"""What GRU and LSTM share: units along the sequence, a hidden layer over the last state and the
other columns, and a linear way past both.
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
    """hidden_size: of the state, and of the layer over it. layers: units above each other."""

    hidden_size: Width = 32
    layers: Width = 1


class Recurrent(Net):
    """network = relu((state, other columns) .

    A + a) . B + b + (sequence, other columns) . C + c; state: the last of the units along the
    sequence.
    """

    Params = RecurrentParams
    n_gates: ClassVar[int]
    unit: ClassVar[Any]

    def build_initial_weights(self, n_statics: int, draw: WeightInitializer) -> Weights:
        """Of the units, the head, and the way past, which starts at 0."""
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

    def forward(self, weights: Weights, inputs: NetInputs, aid: TrainingHooks) -> Value:
        """See the class."""
        n_steps = len(self.steps)
        states = reshape(inputs.sequence, n_steps, 1)
        for layer in range(self.params.layers):
            own = (weights[f"{name}_{layer}"] for name in ("inner", "outer", "shift", "outer_shift"))
            states = aid.drop(aid.run_layer(type(self).unit, states, *own))
        hidden = relu(
            join_net_inputs(inputs, take_last_step(states, n_steps)) @ weights["weights_0"]
            + weights["intercept_0"]
        )
        return (
            aid.drop(hidden) @ weights["weights_1"] + weights["intercept_1"] + compute_skip(weights, inputs)
        )


def build_skip_weights(net: Net, n_statics: int, draw: WeightInitializer) -> Weights:
    """Of the linear way past all layers: most of what there is to learn is linear, and the
    layers need not learn it again.
    """
    return {"past": 0 * draw.draw_matrix(len(net.steps) + n_statics, net.schema.horizon_steps)}


def compute_skip(weights: Weights, inputs: NetInputs) -> Value:
    """(n, H) of that way."""
    return join_net_inputs(inputs, inputs.sequence) @ weights["past"]
