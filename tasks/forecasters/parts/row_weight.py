"""The weight of a training row in a loss: a parameter, so that the loss can follow the score."""

import numpy as np

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.parts.normalizer import Normalizer


class RowWeight(Strict):
    """constant + factor * column, at least 0; an unknown column has its median over the window.

    column: a feature, for example the level over the in-sample error of the seasonal naive
        forecast, which with `loss: absolute` on logs makes a loss of sMAPE and MASE together.
    in_z: multiply by the scale of the residuals, so that errors are weighted in the space of z.
    """

    constant: float = 1.0
    factor: float = 1.0
    column: str | None = None
    in_z: bool = False

    def compute(self, schema: FeatureSchema, normalizer: Normalizer, x: np.ndarray) -> np.ndarray:
        """Weight of each row of x (n, F): (n,) float32, mean 1 over the rows.

        Raises ForecasterError for a missing column, or when all weights are 0.
        """
        weight = np.full(len(x), self.constant, dtype=np.float64)
        if self.column is not None:
            if self.column not in schema.names:
                raise ForecasterError(
                    f"`weight.column` is {self.column!r}, which the feature table has not. Declare it in"
                    " `features.list`, or leave it out."
                )
            values = x[:, schema.index(self.column)].astype(np.float64)
            known = values[np.isfinite(values)]
            weight += self.factor * np.where(
                np.isfinite(values), values, np.median(known) if len(known) else 0.0
            )
        if self.in_z:
            weight *= np.broadcast_to(normalizer.scale(x), (len(x), 1))[:, 0]
        weight = np.maximum(weight, 0.0)
        if not weight.sum() > 0:
            raise ForecasterError(
                f"With `weight` {self.model_dump()} no training row has a positive weight. Raise"
                " `weight.constant`, or correct its column."
            )
        return (weight / weight.mean()).astype(np.float32)
