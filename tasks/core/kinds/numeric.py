"""A number: a point by the primary score, and quantiles by conformal prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tasks.core.about import About, Bounds, Target
from tasks.core.errors import ParamsError
from tasks.core.frames import format_quantile_columns
from tasks.core.kinds.base import Array, CalibrationSpec, Loss
from tasks.core.kinds.conformal import Conformal, Functional
from tasks.core.score_table import INTERVAL_SCORES, score_elements
from tasks.core.scores import ScalingErrors, compute_primary_loss, coverage, select_loss
from tasks.core.transform import inverse_transform_target, transform_target, transform_target_array

# What the point must be, so that the score is least: QLIKE asks for the root of the mean square,
# squared error for the mean
_FUNCTIONALS: dict[str, Functional] = {
    "qlike": "mean_square",
    "rmse": "mean",
    "mae": "median",
    "smape": "median",
    "mase": "median",
    "owa": "median",
}


_WHOLE_DECIMALS = 6  # 4.9999999 is 5


def compute_limits(target: Target) -> tuple[float, float]:
    """The least and the largest value that the contract of *target* allows.

    Above a strict bound by the smallest step of float64, or to the next whole number.
    """
    bounds = target.bounds or Bounds()
    low = -np.inf if bounds.min is None else bounds.min
    high = np.inf if bounds.max is None else bounds.max
    if bounds.strict_min:
        low = np.floor(low) + 1 if target.integer else np.nextafter(low, np.inf)
    return (float(np.ceil(low)), float(np.floor(high))) if target.integer else (float(low), float(high))


class NumericKind:
    """Columns y_hat and q_<quantile>; models, combination and calibration all work on z."""

    name = "numeric"
    baselines = ("last_value", "window_mean", "seasonal_naive")
    combiners = (
        "mean",
        "median",
        "voting",
        "weighted",
        "blending",
        "greedy",
        "per_step",
        "per_regime",
        "per_series",
        "stacking",
        "recent",
        "stacking_trees",
    )
    train_scores = ("mae", "rmse", "bias")
    calibration_scores = INTERVAL_SCORES
    charts = ("ensemble", "intervals")

    def check(self, about: About) -> None:
        """See Kind."""
        score = about.primary_score
        if score not in _FUNCTIONALS:
            raise ParamsError(
                f"`about.primary_score` is {score!r}; a numeric target has {', '.join(_FUNCTIONALS)}."
            )
        if about.target.transform == "box_cox" and not self.is_absolute(about):
            raise ParamsError(
                f"`about.primary_score` is {score!r}, which asks for a mean, and none passes through"
                " box_cox. Take mae, smape, mase or owa, or another transform."
            )

    def list_columns(self, about: About) -> tuple[str, ...]:
        """See Kind."""
        return ("y_hat", *format_quantile_columns(about.quantiles))

    def get_level(self, about: About) -> float | None:
        """See Kind."""
        return about.quantiles[-1] - about.quantiles[0]

    def encode(self, target: Target, column: str = "y") -> pl.Expr:
        """See Kind."""
        return transform_target(target, column)

    def decode_outcome(self, target: Target, z: Array) -> Array:
        """See Kind."""
        return inverse_transform_target(target, z)

    def link(self, z_hat: Array) -> Array:
        """See Kind: members are combined as they are."""
        return z_hat

    def encode_point(self, target: Target, point: Array) -> Array:
        """See Kind."""
        return transform_target_array(target, point)

    def decode(self, target: Target, columns: Array) -> Array:
        """See Kind: a transform rises, so it takes quantiles to quantiles.

        A value that the contract does not allow becomes the nearest one that it does.
        """
        values = inverse_transform_target(target, columns)
        return values if target.bounds is None else np.clip(values, *compute_limits(target))

    def decode_columns(self, about: About, columns: Array) -> Array:
        """See Kind.

        Where the target is whole numbers, quantiles below .5 are rounded down, those above it up,
        and the median to the nearest, so that no interval covers less; the point is not rounded.
        """
        values = self.decode(about.target, columns)
        if not about.target.integer:
            return values
        values = np.array(values)
        point, quantiles = values[..., 0], values[..., 1:]
        for i, q in enumerate(about.quantiles):
            to_whole = np.floor if q < 0.5 else np.ceil if q > 0.5 else np.rint
            quantiles[..., i] = to_whole(quantiles[..., i].round(_WHOLE_DECIMALS))
        if len(about.quantiles) > 1:
            quantiles[..., 0] = np.minimum(quantiles[..., 0], np.floor(point))
            quantiles[..., -1] = np.maximum(quantiles[..., -1], np.ceil(point))
        return values

    def compute_member_error(self, z: Array, z_hat: Array) -> Array:
        """See Kind."""
        return z_hat - z

    def is_absolute(self, about: About) -> bool:
        """See Kind: where the primary score is least at the median."""
        return _FUNCTIONALS[about.primary_score] == "median"

    def build_lessons(self, z: Array, z_hat: Array, scale: Array, bases: Array | None) -> Array:
        """See Kind: scaled residuals of z_hat and, with CQR, of the members' own quantiles."""
        started = z_hat[..., None] if bases is None else np.concatenate([z_hat[..., None], bases], axis=-1)
        out: Array = (z[..., None] - started) / scale[..., None, None]
        return out

    def build_calibrator(
        self, about: About, spec: CalibrationSpec, n_pools: int, horizon_steps: int
    ) -> Conformal:
        """See Kind."""
        return Conformal(
            n_pools,
            horizon_steps,
            about.quantiles,
            spec.n_outcomes,
            spec.adapt_rate,
            spec.block,
            1 + len(about.quantiles) if spec.has_bases else 1,
            _FUNCTIONALS[about.primary_score],
            about.target.transform,
        )

    def select_loss(self, about: About, model_params: Mapping[str, Any]) -> tuple[str, Loss]:
        """See Kind: the pinball loss of a model that forecasts a quantile."""
        return select_loss(about.primary_score, model_params.get("quantile"))

    def compute_loss(
        self, about: About, y: Array, point: Array, scaling_errors: ScalingErrors | None = None
    ) -> Array:
        """See Kind."""
        return compute_primary_loss(about.primary_score, y, point, scaling_errors)

    def compute_error(self, about: About, y: Array, point: Array) -> Array:
        """See Kind."""
        del about  # used by other kinds
        return point - y

    def compute_coverage(self, forecasts: pl.DataFrame) -> float | None:
        """See Kind."""
        levels = sorted(
            (c for c in forecasts.columns if c.startswith("q_")), key=lambda c: float(c.removeprefix("q_"))
        )
        if len(levels) < 2:
            return None
        y, low, high = (
            forecasts[c].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            for c in ("y", levels[0], levels[-1])
        )
        share = coverage(y, low, high)
        return share if np.isfinite(share) else None

    def score_elements(
        self,
        about: About,
        forecasts: pl.DataFrame,
        names: Sequence[str],
        scaling_errors: ScalingErrors | None = None,
    ) -> pl.DataFrame:
        """See Kind."""
        return score_elements(
            forecasts,
            [name for name in names if name != "primary"],
            primary=about.primary_score if "primary" in names else None,
            quantiles=about.quantiles if set(names) & set(INTERVAL_SCORES) else (),
            scaling_errors=scaling_errors,
        )

    def score_outcomes(
        self, about: About, forecasts: pl.DataFrame, scaling_errors: ScalingErrors | None = None
    ) -> pl.DataFrame:
        """See Kind."""
        y, y_hat = (forecasts[c].fill_null(float("nan")).to_numpy() for c in ("y", "y_hat"))
        loss = self.compute_loss(about, y, y_hat, scaling_errors) if forecasts.height else np.empty(0)
        _, *quantiles = self.list_columns(about)
        low, high = quantiles[0], quantiles[-1]
        is_covered = (
            pl.col("y").is_between(low, high)
            if {low, high} <= set(forecasts.columns)
            else pl.lit(None, dtype=pl.Boolean)
        )
        return forecasts.with_columns(
            loss=pl.Series(loss, dtype=pl.Float64).fill_nan(None),
            error=pl.col("y_hat") - pl.col("y"),
            is_covered=is_covered,
        )

    def build_answer(self, about: About, row: Mapping[str, Any]) -> dict[str, Any]:
        """See Kind."""
        columns = format_quantile_columns(about.quantiles)
        quantiles = {f"{q:g}": row[column] for q, column in zip(about.quantiles, columns, strict=True)}
        return {"y_hat": row["y_hat"], "quantiles": quantiles}
