"""Transforms of the target: z = transform(y), the space in which models work.

A transform is one object that goes both ways, in float64, and has its laws in tests/core. There are
`none`, `log`, `log1p` and `box_cox` with the target's `power` (Box & Cox 1964, J. of the Royal
Statistical Society B 26(2)). Differences are no transform of y: models learn the distance from the
last or the seasonal value (`base`), and size is taken out by `features.scale`; both are in
tasks/forecasters/parts/normalizer.py.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from tasks.core.about import Target


@dataclass(frozen=True)
class Transform:
    """y to z and back, both rising.

    least: y must be above it (at or above it with *closed*), else z is null.
    power: None is the identity, 0 the logarithm of y + shift, else z = (y^power - 1) / power.
    """

    least: float
    closed: bool
    # None: the identity; 0: the logarithm of y + shift; else (y^power - 1) / power
    power: float | None = None
    shift: float = 0.0

    def forward(self, y: pl.Expr) -> pl.Expr:
        """z of y; null where y is null, not finite, or below the least."""
        usable = y.is_finite() & ((y >= self.least) if self.closed else (y > self.least))
        return pl.when(usable).then(self._transform_values(y))

    def _transform_values(self, y: pl.Expr) -> pl.Expr:
        if self.power is None:
            return y
        if self.power == 0:
            return y.log1p() if self.shift else y.log()
        # e^x - 1 = 2 sinh(x/2) e^(x/2): of a small x the difference itself would lose its digits
        half = y.log() * (self.power / 2)
        return half.sinh() * half.exp() * (2 / self.power)

    def backward(self, z: np.ndarray) -> np.ndarray:
        """y of z; a Box-Cox value that no y has, below -1 / power, gives 0."""
        if self.power is None:
            return z
        if self.power == 0:
            return np.expm1(z) if self.shift else np.exp(z)
        with np.errstate(divide="ignore"):  # the end of the range: log 0
            out: np.ndarray = np.exp(np.log1p(np.maximum(self.power * z, -1.0)) / self.power)
        return out


def build_target_transform(target: Target) -> Transform:
    """The target's transform, with its floor."""
    least, power, shift = {
        "none": (-np.inf, None, 0.0),
        "log": (0.0, 0.0, 0.0),
        "log1p": (-1.0, 0.0, 1.0),
        "box_cox": (0.0, target.power, 0.0),
    }[target.transform]
    if target.floor is not None:
        return Transform(target.floor, closed=True, power=power, shift=shift)
    return Transform(least, closed=target.transform == "none", power=power, shift=shift)


def transform_target(target: Target, column: str = "y") -> pl.Expr:
    """z of the target *column*; null where y is null, not finite, or below the floor.

    log and box_cox need y > 0, log1p y > -1.
    """
    return build_target_transform(target).forward(pl.col(column).cast(pl.Float64))


def transform_target_array(target: Target, y: np.ndarray) -> np.ndarray:
    """The same for an array of any shape; NaN where undefined."""
    return (
        pl.DataFrame({"y": np.ravel(y)})
        .select(transform_target(target))
        .to_series()
        .fill_null(np.nan)
        .to_numpy()
        .reshape(np.shape(y))
    )


def inverse_transform_target(target: Target, z: np.ndarray) -> np.ndarray:
    """y of z, in the target's unit."""
    return build_target_transform(target).backward(np.asarray(z, dtype=np.float64))
