"""A small net of dense layers with ReLU over all columns, with one output for each step."""

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
        """All columns that the normalizer fills."""
        return list_dispensable_columns(self.schema)

    def build_initial_weights(self, n_statics: int, draw: WeightInitializer) -> Weights:
        """Weights of all layers."""
        return build_dense_weights(draw, (n_statics, *self.params.hidden_sizes, self.schema.horizon_steps))

    def forward(self, weights: Weights, inputs: NetInputs, hooks: TrainingHooks) -> Value:
        """See the class."""
        out, last = inputs.statics, len(self.params.hidden_sizes)
        for layer in range(last + 1):
            out = out @ weights[f"weights_{layer}"] + weights[f"intercept_{layer}"]
            out = hooks.drop(relu(out)) if layer < last else out
        return out
