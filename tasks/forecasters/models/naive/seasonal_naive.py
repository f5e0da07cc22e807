"""The value one season before the forecast step.

The last value where that is unknown, or where there is no season.
"""

import numpy as np

from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value
from tasks.forecasters.parts.normalizer import select_seasonal_values


class SeasonalNaive(Formula):
    """z_hat of a step = z at the newest known time that is whole seasons before the step."""

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Nothing to learn."""

    def formula(self, x: Value) -> Value:
        """See the class."""
        return select_seasonal_values(self.schema, x)
