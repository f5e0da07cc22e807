"""Heterogeneous autoregression: least squares on means over a few windows, pooled over series.

One equation for each step. On logs it is the baseline of daily volatility.
Source: Corsi 2009, doi:10.1093/jjfinec/nbp001.
"""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value
from tasks.forecasters.parts.linear import build_normal_equations, fit_coefficients
from tasks.forecasters.parts.normalizer import Normalizer, get_level_column

Window = Annotated[int, Field(ge=1)]


class HarParams(Strict):
    """windows_steps: lengths of the means; 1 is the last value.

    For each other one the feature `z_mean_<window>` must be declared.
    """

    windows_steps: Annotated[tuple[Window, ...], Field(min_length=1)] = (1, 5, 22)


class Har(Formula):
    """z_hat = last value + scale * (a_s + sum of b_sw * (mean of window w - last value)).

    The last value itself is an input too where levels are comparable.
    """

    Params = HarParams
    releases_gil = True

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self.columns = tuple(get_level_column(schema, w, self.name) for w in self.params.windows_steps)

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Least squares of each step on its known pairs."""
        normalizer = self._build_normalizer()
        normalizer.learn(x)
        target = normalizer.target(x, z, normalizer.base(x, "last"))
        self.learned["coefficients"] = fit_coefficients(
            build_normal_equations(normalizer.transform(x).inputs, target), 0.0
        ).astype(np.float32)

    def formula(self, x: Value) -> Value:
        """See the class."""
        normalizer, coefficients = self._build_normalizer(), self.learned["coefficients"]
        seen = normalizer.transform(x)
        return (
            normalizer.base(x, "last")
            + (seen.inputs @ coefficients[:, 1:].T + coefficients[:, 0]) * seen.scale
        )

    def _build_normalizer(self) -> Normalizer:
        return Normalizer(self.schema, self.learned, self.columns)
