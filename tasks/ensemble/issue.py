"""Points, quantiles and losses of sets of forecasts, as they would have been issued along time.

Points minimise the primary score.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.blocks import split_blocks
from tasks.core.errors import ParamsError
from tasks.core.kinds import get_forecast_schema
from tasks.core.kinds.base import CalibrationSpec, Calibrator
from tasks.core.kinds.timeline import IssuedForecasts, Timeline, calibrate
from tasks.core.scores import ScalingErrors
from tasks.core.seasonal import build_seasonal_from_panel
from tasks.ensemble.align import AlignedForecasts
from tasks.ensemble.known import N_REGIMES
from tasks.ensemble.params import EnsembleParams
from tasks.release.combine import Regime, compute_regime

MIN_POOL_OUTCOMES = 100  # fewer per series and step are too few for .1 and .9 quantiles of its own
_MAX_BATCH_FORECASTS = 2_000_000  # forecasts that are calibrated in one pass: half a GB


@dataclass(frozen=True)
class IntervalIssuer:
    """Issues forecasts (K, S, H) made on *aligned*.

    group: whose residuals a series' intervals use, `series`, `all` or `regime`.
    n_residuals: of each pool.
    regime: assigns regimes; None where no column can.
    """

    aligned: AlignedForecasts
    params: EnsembleParams
    group: str
    n_residuals: int
    regime: Regime | None

    @property
    def about(self) -> About:
        """What the dataset is."""
        return self.aligned.about

    @property
    def adapt_rate(self) -> float:
        """How fast levels follow misses; 0 where the method keeps them constant."""
        return self.params.adapt_rate if self.params.intervals in ("adaptive", "cqr") else 0.0

    @property
    def block(self) -> int:
        """Cutoffs after which residuals count as independent."""
        return self.params.block_cutoffs if self.params.intervals == "block" else 1

    @property
    def quantile_members(self) -> dict[str, tuple[str, ...]]:
        """By quantile, the members whose forecasts of it the intervals start from.

        Empty except for CQR.
        """
        return self.aligned.quantile_members if self.params.intervals == "cqr" else {}

    @cached_property
    def groups(self) -> np.ndarray:
        """(K, S) pool of each series at each cutoff."""
        n_series, shape = len(self.aligned.panel.series_ids), self.aligned.scale.shape
        if self.group == "regime" and self.regime:
            return compute_regimes(self.aligned, self.regime)
        return np.broadcast_to(
            np.arange(n_series) if self.group == "series" else np.zeros(n_series, dtype=np.int64), shape
        )

    @cached_property
    def scaling_errors(self) -> ScalingErrors | None:
        """(K, S, H) of every outcome; None where the primary score needs none."""
        seasonal, y = build_seasonal_from_panel(self.aligned.panel), self.aligned.y
        if seasonal is None:
            return None
        return seasonal.scaling_errors(
            y,
            self.aligned.origins[:, None, None],
            np.arange(y.shape[1])[:, None],
            np.arange(1, y.shape[2] + 1),
        )

    def predict_quantiles(self, z_hat: np.ndarray) -> IssuedForecasts:
        """Quantiles and points of one set."""
        timeline = self.aligned.build_timeline(z_hat, self.groups)
        if self.quantile_members:
            timeline = replace(timeline, base=self.aligned.build_base_quantiles(self.about.quantiles, z_hat))
        return calibrate(timeline, self._build_state(1), len(self.aligned.kind.list_columns(self.about)))

    def predict_points(self, z_hats: Sequence[np.ndarray], is_wanted: np.ndarray) -> list[np.ndarray]:
        """Points (K, S, H) of several sets at the cutoffs *is_wanted* (K,), NaN elsewhere.

        The sets are calibrated in one pass over time, as if they were further series.
        """
        out: list[np.ndarray] = []
        for part in split_blocks(len(z_hats), max(1, _MAX_BATCH_FORECASTS // self.aligned.y.size)):
            out += self._predict_batch(z_hats[part], is_wanted)
        return out

    def compute_loss(self, point: np.ndarray) -> np.ndarray:
        """(K, S, H) primary loss of points, NaN where there is none or y is not known."""
        y, kind = self.aligned.y, self.aligned.kind
        y_hat = kind.decode(self.about.target, point)
        is_known = np.isfinite(y_hat) & np.isfinite(y)
        y, y_hat = np.where(is_known, y, np.nan), np.where(is_known, y_hat, np.nan)
        return kind.compute_loss(self.about, y, y_hat, self.scaling_errors)

    def _predict_batch(self, z_hats: Sequence[np.ndarray], is_wanted: np.ndarray) -> list[np.ndarray]:
        n, end, aligned = len(z_hats), int(np.flatnonzero(is_wanted).max(initial=-1)) + 1, self.aligned
        groups = self.groups[:end]
        timeline = Timeline(
            np.concatenate([z_hat[:end] for z_hat in z_hats], axis=1),
            np.tile(aligned.scale[:end], n),
            np.tile(aligned.z[:end], (1, n, 1)),
            np.minimum(np.tile(aligned.known_k[:end], (1, n, 1)), end),
            aligned.learns[:end],
            np.concatenate([groups + i * self._n_groups for i in range(n)], axis=1),
            aligned.kind,
        )
        point = calibrate(timeline, self._build_state(n), 1, is_wanted[:end]).point
        out = np.full((len(is_wanted), *point.shape[1:]), np.nan)
        out[:end] = point
        return np.split(out, n, axis=1)

    def _build_state(self, n_sets: int) -> Calibrator:
        # For several sets only points are needed
        has_bases = n_sets == 1 and bool(self.quantile_members)
        spec = CalibrationSpec(self.n_residuals, self.adapt_rate, self.block, has_bases)
        n_pools, n_steps = n_sets * self._n_groups, self.aligned.y.shape[2]
        return self.aligned.kind.build_calibrator(self.about, spec, n_pools, n_steps)

    @property
    def _n_groups(self) -> int:
        by_regime = len(self.regime.above) + 1 if self.regime else 1
        return {"all": 1, "regime": by_regime}.get(self.group, len(self.aligned.panel.series_ids))


def build_issuer(aligned: AlignedForecasts, params: EnsembleParams, burn_in: int) -> IntervalIssuer:
    """An issuer with the pools that `interval_groups` names.

    With `auto`, intervals use a series' own residuals when each series has enough outcomes, else
    those of all series. Regimes are fitted on the first *burn_in* cutoffs, which are not scored.
    Raises ParamsError for a way to make intervals that these members, series or features do not
    allow.
    """
    n_series = len(aligned.panel.series_ids)
    known = (
        np.isfinite(aligned.z[: aligned.n_walk]) & np.isfinite(aligned.scale[: aligned.n_walk, :, None])
    ).sum(axis=0)
    has_own_pool = bool(known.size) and int(known.min()) >= MIN_POOL_OUTCOMES
    group = (
        params.interval_groups if params.interval_groups != "auto" else "series" if has_own_pool else "all"
    )
    regime = _fit_regime(aligned, params, burn_in)
    if group == "regime" and regime is None:
        raise ParamsError(
            f"`ensemble.interval_groups` is regime, but {burn_in} cutoffs of burn-in and `regime_column`"
            f" {params.regime_column!r} distinguish none. Name a feature column that varies there, such as a"
            " rolling standard deviation."
        )
    if params.intervals == "block" and group != "series" and n_series > 1:
        raise ParamsError(
            "`ensemble.intervals` is block, which needs a pool for each series, but the pools are by"
            f" {group}. Set `interval_groups: series`, or another method."
        )
    if params.intervals == "cqr" and not aligned.quantile_members:
        raise ParamsError(
            "`ensemble.intervals` is cqr, but no model forecasts one of the quantiles"
            f" {list(aligned.about.quantiles)}. Add models with `loss: quantile`, or another method."
        )
    return IntervalIssuer(
        aligned,
        params,
        group,
        params.residuals if group == "series" else min(10 * n_series + params.residuals, 5000),
        regime,
    )


def compute_regimes(aligned: AlignedForecasts, regime: Regime) -> np.ndarray:
    """(K, S) regime at each origin."""
    return compute_regime(regime, aligned.panel.x[aligned.origins], aligned.panel.schema)


def build_issued_frame(
    name: str, issued: IssuedForecasts, aligned: AlignedForecasts, rows: np.ndarray
) -> pl.DataFrame:
    """FORECAST frame as the candidate *name* would have issued it.

    It has all columns of the kind, and y.
    rows: (K,) True for cutoffs that are included.
    """
    k, about, kind = np.flatnonzero(rows), aligned.about, aligned.kind
    names, values = kind.list_columns(about), kind.decode_columns(about, issued.columns[k])
    columns = {"y": aligned.y[k], **{column: values[..., i] for i, column in enumerate(names)}}
    frame = aligned.build_keys(k).with_columns(
        model=pl.lit(name), **{c: pl.Series(values.ravel()).fill_nan(None) for c, values in columns.items()}
    )
    return get_forecast_schema(about).conform(frame.filter(pl.col(names[0]).is_not_null()))


def _fit_regime(aligned: AlignedForecasts, params: EnsembleParams, burn_in: int) -> Regime | None:
    schema = aligned.panel.schema
    spread = schema.scale or next((c.name for c in schema.columns if c.role == "spread"), None)
    column = params.regime_column or spread
    if column is None:
        return None
    if column not in schema.names:
        close = difflib.get_close_matches(column, schema.names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ParamsError(
            f"`ensemble.regime_column` is {column!r}, which is no feature; see"
            f" data/features/schema.json.{hint}"
        )
    values = aligned.panel.x[aligned.origins[:burn_in], :, schema.index(column)].astype(np.float64)
    values_known = values[np.isfinite(values)]
    if len(values_known) < N_REGIMES:
        return None
    above = np.unique(np.quantile(values_known, np.arange(1, N_REGIMES) / N_REGIMES))
    return Regime(column=column, above=tuple(float(a) for a in above))
