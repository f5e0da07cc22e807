"""The last value subtracted and one linear map: hard to beat on long seasonal histories. Source: Zeng et al. 2023, arXiv:2205.13504 (NLinear)."""

from tasks.forecasters.graph.arithmetic import Value
from tasks.forecasters.parts.net import Net, SequenceParams, beside
from tasks.forecasters.parts.net_layers import Aid, Draw, Inputs, Weights, dense_weights


class NLinearParams(SequenceParams):
    """As every net that reads a sequence; the last value itself is an input only with `sees_level: true`."""

    sees_level: bool | None = False


class NLinear(Net):
    """network = (sequence, other columns) . weights + intercept.

    What ridge with `base: last` is in closed form, with every loss that nets have.
    """

    Params = NLinearParams

    def first_weights(self, n_statics: int, draw: Draw) -> Weights:
        """Of the one map."""
        return dense_weights(draw, (len(self.steps) + n_statics, self.schema.horizon_steps))

    def network(self, weights: Weights, inputs: Inputs, aid: Aid) -> Value:
        """See the class."""
        return aid.drop(beside(inputs, inputs.sequence)) @ weights["weights_0"] + weights["intercept_0"]
