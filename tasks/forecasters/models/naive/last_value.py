"""The last known value, for every step: what any forecast must beat."""

import numpy as np

from tasks.forecasters.graph.arithmetic import Value
from tasks.forecasters.graph.formula import Formula
from tasks.forecasters.parts.preamble import select_last_values


class LastValue(Formula):
    """z_hat = z at the origin."""

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Nothing to learn."""

    def formula(self, x: Value) -> Value:
        """See the class."""
        return select_last_values(self.schema, x)
