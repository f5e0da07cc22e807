"""A second kind of target, for tests: whether the value rises.

A forecast is the probability of it. Members are combined by the mean of their logits, the result is
divided by a temperature that earlier outcomes chose, and the loss is logarithmic. The naive
forecast is the climatology: how often it rose.
"""

import numpy as np
import polars as pl

from tasks.core.errors import ParamsError
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import take

LEAST = 0.01  # a model's output is a probability after clipping
TEMPERATURES = np.geomspace(0.5, 4.0, 25)


class Climatology(Formula):
    """z_hat = the mean of z over all that was learned from."""

    def learn(self, x, z):
        self.learned["mean"] = np.nanmean(z, axis=0).astype(np.float32)

    def formula(self, x):
        mean = self.learned["mean"]
        return take(x, [self.schema.index(self.schema.last)] * len(mean)) * np.zeros_like(mean) + mean


class Temperature:
    """A Calibrator: the logarithmic loss of each pool and step at each temperature."""

    n_kept = 0
    is_interval = False

    def __init__(self, n_pools, horizon_steps):
        self.loss = np.zeros((n_pools, horizon_steps, len(TEMPERATURES)))

    @property
    def nbytes(self):
        return self.loss.nbytes

    def issue(self, pool):
        return np.empty((len(pool), self.loss.shape[1], 0))

    def learn(self, pool, step, lesson, kept):
        logit, z = lesson[:, :1], lesson[:, 1:]
        loss = np.logaddexp(0.0, np.where(z > 0, -logit, logit) / TEMPERATURES)
        np.add.at(self.loss, (pool, step), loss)

    def compute_points(self, pool, z_hat, scale):
        loss = np.where((pool >= 0)[:, None, None], self.loss[pool], self.loss.sum(axis=0))
        chosen = np.where(loss.any(axis=-1), TEMPERATURES[loss.argmin(axis=-1)], 1.0)
        return z_hat / chosen

    def compute_further(self, kept, z_hat, scale, bases):
        return np.empty((*z_hat.shape, 0))


class SignKind:
    """z is 1 where y is above 0, else 0; the one column is p_up."""

    name = "sign"
    baselines = ("climatology",)
    combiners = ("mean",)
    train_scores = ("brier",)
    calibration_scores = ("brier",)
    charts = ("ensemble",)

    def check(self, about):
        if about.primary_score != "log_loss":
            raise ParamsError(f"`about.primary_score` is {about.primary_score!r}; a sign has log_loss.")

    def list_columns(self, about):
        return ("p_up",)

    def get_level(self, about):
        return None

    def encode(self, target, column="y"):
        return pl.when(pl.col(column).is_finite()).then((pl.col(column) > 0).cast(pl.Float64))

    def decode_outcome(self, target, z):
        return np.asarray(z, dtype=np.float64)

    def link(self, z_hat):
        p = np.clip(np.asarray(z_hat, dtype=np.float64), LEAST, 1 - LEAST)
        return np.log(p / (1 - p))

    def encode_point(self, target, point):
        return np.log(point / (1 - point))

    def decode(self, target, columns):
        return 1 / (1 + np.exp(-np.asarray(columns, dtype=np.float64)))

    def decode_columns(self, about, columns):
        return self.decode(about.target, columns)

    def compute_member_error(self, z, z_hat):
        return self.decode(None, z_hat) - z

    def is_absolute(self, about):
        return False

    def build_lessons(self, z, z_hat, scale, bases):
        return np.stack([z_hat, z], axis=-1)

    def build_calibrator(self, about, spec, n_pools, horizon_steps):
        return Temperature(n_pools, horizon_steps)

    def select_loss(self, about, model_params):
        return "log_loss", lambda y, point, _: self.compute_loss(about, y, point)

    def compute_loss(self, about, y, point, scaling_errors=None):
        return np.where(np.isfinite(y), -np.log(np.where(y > 0, point, 1 - point)), np.nan)

    def compute_error(self, about, y, point):
        return np.where(np.isfinite(y), point - (y > 0), np.nan)

    def compute_coverage(self, forecasts):
        return None

    def score_elements(self, about, forecasts, names, scaling_errors=None):
        known = forecasts.filter(pl.col("y").is_finite()).with_columns(year=pl.col("cutoff").dt.year())
        y, point = known["y"].to_numpy(), known["p_up"].to_numpy()
        scores = {
            "brier": np.square(self.compute_error(about, y, point)),
            "primary": self.compute_loss(about, y, point),
        }
        return known.with_columns(pl.Series(name, scores[name]) for name in names)

    def score_outcomes(self, about, forecasts, scaling_errors=None):
        y, point = (forecasts[c].cast(pl.Float64).fill_null(np.nan).to_numpy() for c in ("y", "p_up"))
        figures = {
            "loss": self.compute_loss(about, y, point),
            "error": self.compute_error(about, y, point),
            "is_covered": np.full(len(y), np.nan),
        }
        return forecasts.with_columns(
            pl.Series(name, values).fill_nan(None) for name, values in figures.items()
        )

    def build_answer(self, about, row):
        return {"p_up": row["p_up"]}
