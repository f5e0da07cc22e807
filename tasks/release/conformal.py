"""Adaptive conformal quantiles and the point forecast that goes with the primary score, from residuals known by the cutoff.

One pool of the newest scaled residuals r = (z - z_hat) / scale for each cell (group, step), and for each quantile a level that moves:
after each outcome it goes up by rate x (q - 1) when the value lay below the issued quantile, by rate x q when above, so that the
share below returns to q whatever the errors do. Source: Gibbs & Candes 2021, arXiv:2106.00170, applied to each quantile.
The state is a pure function of what was issued and of what was known when; nothing is stored but the forecasts themselves.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tasks.core.about import About
from tasks.core.windows import blocks

Functional = Literal["mean_square", "mean", "median"]

_BLOCK_SERIES = 16  # bounds the memory of many series that share a large pool
ENOUGH = 20  # residuals of its own before a cell stops borrowing from all groups; .1 and .9 quantiles of fewer are extremes


def functional_of(about: About) -> Functional:
    """What the point forecast must be for the primary score: QLIKE is minimised by the mean square, squared error by the mean."""
    by_score: dict[str, Functional] = {"qlike": "mean_square", "rmse": "mean"}
    return "median" if about.is_median else by_score[about.primary_score]


@dataclass(frozen=True)
class Timeline:
    """Forecasts in the order in which they were issued: K cutoffs, S series, H steps.

    z_hat: (K, S, H), NaN where none. scale: (K, S). z: (K, S, H) what came true, NaN where unknown. known_k: (K, S, H) index of the
    first cutoff that knows z, K where none does. learns: (K,) False for cutoffs that are asked for but lie off the stride: they
    are issued, and nothing is learned from them. group: (S,) pool of each series; -1 uses all pools.
    """

    z_hat: np.ndarray
    scale: np.ndarray
    z: np.ndarray
    known_k: np.ndarray
    learns: np.ndarray
    group: np.ndarray


class Issued(NamedTuple):
    """quantiles: (K, S, H, Q) and point: (K, S, H), both in the space of z; NaN before anything is known."""

    quantiles: np.ndarray
    point: np.ndarray


class Pools(NamedTuple):
    """groups: (C,) distinct ones. residuals: (C, H, N) of each, NaN where none. which: (m,) whose pool each series has; many may share one."""

    groups: np.ndarray
    residuals: np.ndarray
    which: np.ndarray


class Conformal:
    """Pools and levels; `issue`, then `learn`, cutoff by cutoff."""

    def __init__(self, n_groups: int, horizon_steps: int, quantiles: tuple[float, ...], n_residuals: int, adapt_rate: float) -> None:
        self.quantiles = np.asarray(quantiles)
        self.adapt_rate = adapt_rate
        self.pool = np.full((n_groups, horizon_steps, n_residuals), np.nan)
        self.count = np.zeros((n_groups, horizon_steps), dtype=np.int64)
        self.levels = np.tile(self.quantiles, (n_groups, horizon_steps, 1))

    def pools(self, group: np.ndarray) -> Pools:
        """The pools that speak for series of these groups (m,)."""
        groups, which = np.unique(group, return_inverse=True)
        pools = [self._pool_of(g) for g in groups]
        width = max(p.shape[1] for p in pools)
        padded = [p if p.shape[1] == width else np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=np.nan) for p in pools]
        return Pools(groups, np.stack(padded), which)

    def issue(self, pools: Pools) -> np.ndarray:
        """Quantiles (m, H, Q) of the scaled residual for the series that *pools* was made for."""
        levels = np.stack([self.levels[g] if g >= 0 else self.levels.mean(axis=0) for g in pools.groups])
        issued: np.ndarray = np.sort(quantiles_at(pools.residuals, levels), axis=-1)[pools.which]
        return issued

    def learn(self, group: np.ndarray, step: np.ndarray, residual: np.ndarray, issued: np.ndarray) -> None:
        """Take in outcomes (m,): scaled residuals, with the quantiles (m, Q) that had been issued for them. *step* counts from 0."""
        if not len(group):
            return
        cell = group * self.pool.shape[1] + step
        self._move_levels(cell, residual, issued)
        order = np.argsort(cell, kind="stable")
        cell, residual = cell[order], residual[order]
        rank = np.arange(len(cell)) - np.searchsorted(cell, cell)
        flat, count = self.pool.reshape(-1, self.pool.shape[2]), self.count.reshape(-1)
        size = flat.shape[1]
        newest = rank >= np.bincount(cell, minlength=len(count))[cell] - size  # more than a pool at once: the last ones stay
        flat[cell[newest], (count[cell[newest]] + rank[newest]) % size] = residual[newest]
        count += np.bincount(cell, minlength=len(count))

    def _move_levels(self, cell: np.ndarray, residual: np.ndarray, issued: np.ndarray) -> None:
        judged = np.isfinite(issued).all(axis=1)
        below = (residual[judged, None] <= issued[judged]).astype(np.float64)
        n_cells = self.count.size
        n = np.bincount(cell[judged], minlength=n_cells)
        for q, target in enumerate(self.quantiles):
            share = np.bincount(cell[judged], below[:, q], minlength=n_cells) / np.maximum(n, 1)
            level = self.levels.reshape(n_cells, -1)[:, q]
            level += np.where(n > 0, self.adapt_rate * (target - share), 0.0)
            np.clip(level, 0.0, 1.0, out=level)

    def _pool_of(self, group: int) -> np.ndarray:
        everyone = self.pool.transpose(1, 0, 2).reshape(self.pool.shape[1], -1)
        if group < 0 or (len(self.pool) > 1 and self.count[group].min() < ENOUGH):
            return everyone
        own: np.ndarray = self.pool[group]
        return own


def quantiles_at(pool: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles of *pool* (..., N), NaN ignored, at *levels* (..., Q): position level x (n + 1), between order statistics; NaN when empty."""
    ordered = np.sort(pool, axis=-1)
    n = np.isfinite(pool).sum(axis=-1)[..., None]
    position = np.clip(levels * (n + 1) - 1, 0, np.maximum(n - 1, 0))
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(n - 1, 0))
    below, above = np.take_along_axis(ordered, low, -1), np.take_along_axis(ordered, high, -1)
    out: np.ndarray = below + (above - below) * (position - low)
    return out


def point_shift(pools: Pools, scale: np.ndarray, functional: Functional, transform: str) -> np.ndarray:
    """What to add to z_hat so that from_z of the sum is the wanted functional of y: (m, H) for series with scales (m,).

    With logs, mean: log mean exp(e); mean square: half the log of mean exp(2e). Without, mean and median of e. 0 for an empty pool.
    """
    residuals = pools.residuals
    n = np.isfinite(residuals).sum(axis=-1)
    if functional == "median":
        shift = quantiles_at(residuals, np.full((*n.shape, 1), 0.5))[pools.which, :, 0] * scale[:, None]
    elif transform == "none":
        shift = (np.nansum(residuals, axis=-1) / np.maximum(n, 1))[pools.which] * scale[:, None]
    else:
        power = 2.0 if functional == "mean_square" else 1.0
        parts = [_log_mean_exp(power * scale[b, None, None] * residuals[pools.which[b]]) for b in blocks(len(scale), _BLOCK_SERIES)]
        shift = np.concatenate(parts) / power
    out: np.ndarray = np.where(n[pools.which] > 0, shift, 0.0)
    return out


def _log_mean_exp(e: np.ndarray) -> np.ndarray:
    """log of the mean of exp(e) over the last axis, NaN ignored; 0 where there is nothing."""
    n = np.isfinite(e).sum(axis=-1)
    top = np.max(np.where(np.isfinite(e), e, -np.inf), axis=-1, initial=-1e300)
    mean = np.nansum(np.exp(e - top[..., None]), axis=-1) / np.maximum(n, 1)
    out: np.ndarray = np.where(n > 0, top + np.log(np.where(n > 0, mean, 1.0)), 0.0)
    return out


def replay(
    line: Timeline, state: Conformal, functional: Functional, transform: str, wanted: np.ndarray | None = None, *, only_points: bool = False
) -> Issued:
    """Walk along *line*: at each cutoff first learn what has become known, then issue. *state* is moved on.

    wanted: (K,) cutoffs whose results are needed; others are issued only as far as learning asks. only_points: no quantiles, several times faster.
    """
    n_cutoffs, n_series, n_steps = line.z_hat.shape
    quantiles = np.full((n_cutoffs, n_series, n_steps, len(state.quantiles)), np.nan)
    point = np.full((n_cutoffs, n_series, n_steps), np.nan)
    residual = (line.z - line.z_hat) / line.scale[:, :, None]
    due = np.where(np.isfinite(residual) & line.learns[:, None, None] & (line.group >= 0)[None, :, None], line.known_k, n_cutoffs).ravel()
    order = np.argsort(due, kind="stable")
    bounds = np.searchsorted(due[order], np.arange(n_cutoffs + 1))
    issued = np.full(quantiles.shape, np.nan)  # of the scaled residual
    for k in range(n_cutoffs):
        items = np.unravel_index(order[bounds[k] : bounds[k + 1]], residual.shape)
        state.learn(line.group[items[1]], items[2], residual[items], issued[items])
        there = np.isfinite(line.z_hat[k]).any(axis=1)
        if not there.any():
            continue
        z_hat, scale, pools = line.z_hat[k, there], line.scale[k, there], state.pools(line.group[there])
        if not only_points:
            issued[k, there] = state.issue(pools)
        if wanted is None or wanted[k]:
            quantiles[k, there] = z_hat[:, :, None] + issued[k, there] * scale[:, None, None]
            point[k, there] = z_hat + point_shift(pools, scale, functional, transform)
    return Issued(quantiles, point)
