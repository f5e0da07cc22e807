"""The last value subtracted and one linear map: hard to beat on long seasonal histories.

Source: Zeng et al. 2023, arXiv:2205.13504 (NLinear).
"""

from tasks.forecasters.graph.graph_ops import Value
from tasks.forecasters.parts.net import Net, SequenceParams, join_net_inputs
from tasks.forecasters.parts.net_layers import (
    NetInputs,
    TrainingHooks,
    WeightInitializer,
    Weights,
    build_dense_weights,
)


class NLinearParams(SequenceParams):
    """As every net that reads a sequence, with `sees_level: false` by default."""

    sees_level: bool | None = False


class NLinear(Net):
    """network = (sequence, other columns) . weights + intercept.

    Ridge with `base: last` is this in closed form; here with every loss that nets have.
    """

    Params = NLinearParams

    def build_initial_weights(self, n_statics: int, draw: WeightInitializer) -> Weights:
        """Weights of the one map."""
        return build_dense_weights(draw, (len(self.steps) + n_statics, self.schema.horizon_steps))

    def forward(self, weights: Weights, inputs: NetInputs, hooks: TrainingHooks) -> Value:
        """See the class."""
        return (
            hooks.drop(join_net_inputs(inputs, inputs.sequence)) @ weights["weights_0"]
            + weights["intercept_0"]
        )
