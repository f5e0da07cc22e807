"""A small net of rectified layers over all columns, pooled over all series, all steps at once."""

from tasks.forecasters.graph.graph_ops import Value, relu
from tasks.forecasters.parts.net import Net, NetParams
from tasks.forecasters.parts.net_layers import (
    NetInputs,
    TrainingHooks,
    WeightInitializer,
    Weights,
    Width,
    build_dense_weights,
)
from tasks.forecasters.parts.normalizer import list_dispensable_columns


class MlpParams(NetParams):
    """hidden_sizes: outputs of each hidden layer."""

    hidden_sizes: tuple[Width, ...] = (64, 64)


class Mlp(Net):
    """network = layers of relu(inputs . weights + intercept), the last one without relu."""

    Params = MlpParams
    reads_sequence = False

    @property
    def dispensable(self) -> tuple[str, ...]:
        """All that the preamble fills."""
        return list_dispensable_columns(self.schema)

    def build_initial_weights(self, n_statics: int, draw: WeightInitializer) -> Weights:
        """Of all layers."""
        return build_dense_weights(draw, (n_statics, *self.params.hidden_sizes, self.schema.horizon_steps))

    def forward(self, weights: Weights, inputs: NetInputs, aid: TrainingHooks) -> Value:
        """See the class."""
        out, last = inputs.statics, len(self.params.hidden_sizes)
        for layer in range(last + 1):
            out = out @ weights[f"weights_{layer}"] + weights[f"intercept_{layer}"]
            out = aid.drop(relu(out)) if layer < last else out
        return out
