"""The last known value, for every step: the baseline of all models."""

import numpy as np

from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value
from tasks.forecasters.parts.normalizer import select_last_values


class LastValue(Formula):
    """z_hat = z at the origin."""

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Nothing to learn."""

    def formula(self, x: Value) -> Value:
        """See the class."""
        return select_last_values(self.schema, x)
