"""The mean of the last window, for every step."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value, fill_nan, take
from tasks.forecasters.parts.normalizer import get_level_column, select_last_values


class WindowMeanParams(Strict):
    """window_steps: length of the mean; the feature `z_mean_<window_steps>` must be declared."""

    window_steps: Annotated[int, Field(ge=1)] = 22


class WindowMean(Formula):
    """z_hat = mean of z over the window, the last value where it is unknown."""

    Params = WindowMeanParams

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self.column = get_level_column(schema, self.params.window_steps, self.name)

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Nothing to learn."""

    def formula(self, x: Value) -> Value:
        """See the class."""
        mean = take(x, [self.schema.index(self.column)] * self.schema.horizon_steps)
        return fill_nan(mean, select_last_values(self.schema, x))
