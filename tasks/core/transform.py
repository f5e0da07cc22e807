"""The space in which models work: z = transform(y). Invertible, stateless, in float64."""

import numpy as np
import polars as pl

from tasks.core.about import Target


def to_z(target: Target, column: str = "y") -> pl.Expr:
    """z of the target *column*; null where y is null, not finite, or below the floor (log needs y > 0, log1p y > -1)."""
    y = pl.col(column).cast(pl.Float64)
    least = target.floor if target.floor is not None else {"none": -np.inf, "log": 0.0, "log1p": -1.0}[target.transform]
    usable = y.is_finite() & ((y > least) if target.transform != "none" and target.floor is None else (y >= least))
    z = {"none": y, "log": y.log(), "log1p": y.log1p()}[target.transform]
    return pl.when(usable).then(z)


def to_z_array(target: Target, y: np.ndarray) -> np.ndarray:
    """The same for an array of any shape; NaN where undefined."""
    return pl.DataFrame({"y": np.ravel(y)}).select(to_z(target)).to_series().fill_null(np.nan).to_numpy().reshape(np.shape(y))


def from_z(target: Target, z: np.ndarray) -> np.ndarray:
    """y of z, in the target's unit."""
    z = np.asarray(z, dtype=np.float64)
    if target.transform == "none":
        return z
    return np.exp(z) if target.transform == "log" else np.expm1(z)
