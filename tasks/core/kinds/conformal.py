"""Conformal quantiles, and the point forecast for the primary score, from residuals of the past.

Only residuals known by the cutoff are used. There is one pool of the newest scaled residuals r = (z
- base) / scale for each cell (group, step). The base is the point forecast z_hat, or, for
conformalized quantile regression (CQR), the quantile that the members forecast themselves: then
each quantile has a pool of its own.
Source: Romano, Patterson & Candes 2019, arXiv:1905.03222, theorem 2 (each end by itself).

The level of each quantile is where in the pool it is read. With `adapt_rate` above 0 it moves:
after each outcome up by rate x (q - 1) when the value was below the issued quantile, by rate x q
when above, so that the share below returns to q whatever the errors do.
Source: Gibbs & Candes 2021, arXiv:2106.00170, applied to each quantile. At 0 this is split
conformal with a sliding pool.

Residuals that resemble their neighbours in time are worth less than their number: quantiles of such
a pool are too narrow on average. With `block` b the pool is read as b sets of residuals b apart,
nearly independent within each, and the b quantiles are averaged.
Source: independent blocks of Yu 1994, doi:10.1214/aop/1176988849; conformal by blocks:
Chernozhukov, Wuthrich & Zhu 2018, arXiv:1802.06300.
"""

from typing import Literal

import numpy as np

from tasks.core.blocks import split_blocks
from tasks.core.kinds.pools import compute_known_mean, compute_quantiles, update_sorted

Functional = Literal["mean_square", "mean", "median"]

_BLOCK_SERIES = 16  # bounds the memory of many series that share a large pool
# An entry set in its place takes 1 us, sorting 15 ns for each entry of the pool: with more than a
# 64th new, sorting is faster
_SORT_AGAIN = 64
# Residuals of its own before a cell stops borrowing from all groups; .1 and .9 quantiles of fewer
# are extremes
ENOUGH = 20


class Conformal:
    """Pools and levels; a Calibrator.

    n_bases: 1 when every quantile is read from the residuals of z_hat; 1 + Q for CQR, the first
      still being z_hat's, for the point.
    functional, transform: what the point is of y, and y's transform.
    """

    is_interval = True

    def __init__(
        self,
        n_groups: int,
        horizon_steps: int,
        quantiles: tuple[float, ...],
        n_residuals: int,
        adapt_rate: float,
        block: int = 1,
        n_bases: int = 1,
        functional: Functional = "median",
        transform: str = "none",
    ) -> None:
        self.functional, self.transform = functional, transform
        self.quantiles = np.asarray(quantiles)
        self.adapt_rate, self.block = adapt_rate, block
        size = max(1, n_residuals // block)
        # The newest is at count - 1, around the end
        self.pool = np.full((n_groups, horizon_steps, n_bases, size * block), np.nan)
        self.count = np.zeros((n_groups, horizon_steps), dtype=np.int64)
        self.levels = np.tile(self.quantiles, (n_groups, horizon_steps, 1))
        # The same in ascending order, every block-th slot a row of its own; infinite where there is
        # none yet.
        self._rows = np.full((n_groups * horizon_steps * n_bases * block, size), np.inf)
        self._base_of = np.arange(1, n_bases) if n_bases > 1 else np.zeros(len(quantiles), dtype=np.int64)
        self._all_residuals: np.ndarray | None = None

    @property
    def n_kept(self) -> int:
        """One offset for each quantile."""
        return len(self.quantiles)

    @property
    def nbytes(self) -> int:
        """Memory that a copy takes."""
        return self.pool.nbytes + self._rows.nbytes

    def issue(self, group: np.ndarray) -> np.ndarray:
        """Quantiles (m, H, Q) of the scaled residual for series of these groups (m,).

        NaN where nothing is known. Of one base they never cross.
        """
        groups, which = np.unique(group, return_inverse=True)
        levels = np.where(groups[:, None, None] >= 0, self.levels[groups], self.levels.mean(axis=0))
        out = self._read(groups, self._base_of, levels)
        return (np.sort(out, axis=-1) if self.pool.shape[2] == 1 else out)[which]

    def compute_points(self, group: np.ndarray, z_hat: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """See Calibrator: z_hat and the shift of the group's residuals."""
        return z_hat + self.compute_shift(group, scale)

    def compute_further(
        self, kept: np.ndarray, z_hat: np.ndarray, scale: np.ndarray, bases: np.ndarray | None
    ) -> np.ndarray:
        """See Calibrator: quantiles from those of the scaled residual.

        Of several bases they are put in order, which never makes them worse.
        Source: Chernozhukov, Fernandez-Val & Galichon 2010, doi:10.3982/ECTA7880.
        """
        if bases is None:
            return z_hat[:, :, None] + kept * scale[:, None, None]
        out: np.ndarray = np.sort(bases + kept * scale[:, None, None], axis=-1)
        return out

    def compute_shift(self, group: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """(m, H) what to add to z_hat so that its inverse transform is the wanted functional of y.

        group, scale: (m,) of each series.
        With logs, mean: log mean exp(e); mean square: half the log of mean exp(2e). Without, mean
        and median of e. 0 for an empty pool.
        """
        groups, which = np.unique(group, return_inverse=True)
        if self.functional == "median" and self.block == 1:
            middle = self._read(
                groups, np.zeros(1, dtype=np.int64), np.full((len(groups), self.pool.shape[1], 1), 0.5)
            )[..., 0]
            return np.nan_to_num(middle)[which] * scale[:, None]
        is_own = self._has_own(groups)
        out = np.zeros((len(group), self.pool.shape[1]))
        for of_own in (True, False):
            here = is_own[which] == of_own
            if here.any():
                residuals = (
                    self.pool[groups[is_own], :, 0] if of_own else self._sort_all_residuals()[None, :, 0]
                )
                place = (
                    (np.cumsum(is_own) - 1)[which[here]] if of_own else np.zeros(here.sum(), dtype=np.int64)
                )
                out[here] = compute_point_shift(
                    residuals, place, scale[here], self.functional, self.transform
                )
        return out

    def learn(self, group: np.ndarray, step: np.ndarray, residual: np.ndarray, issued: np.ndarray) -> None:
        """Learn outcomes (m,): scaled residuals (m, n_bases).

        step: counted from 0.
        issued: (m, Q) the quantiles that had been issued for them.
        """
        if not len(group):
            return
        self._all_residuals = None
        cell = group * self.pool.shape[1] + step
        self._update_levels(cell, residual, issued)
        order = np.argsort(cell, kind="stable")
        cell, residual = cell[order], residual[order]
        rank = np.arange(len(cell)) - np.searchsorted(cell, cell)
        count, size = self.count.reshape(-1), self.pool.shape[3]
        n_new = np.bincount(cell, minlength=len(count))
        newest = rank >= n_new[cell] - size  # more than fit into a pool: the last ones stay
        cell, residual, rank = cell[newest], residual[newest], rank[newest]
        self._update_pool(cell, count[cell] + rank, rank - rank.min(), residual)
        count += n_new

    def _update_pool(
        self, cell: np.ndarray, place: np.ndarray, rank: np.ndarray, residual: np.ndarray
    ) -> None:
        """Put residuals (m, n_bases) at *place*, which is counted without end.

        rank: of one rank each cell has one at most.
        """
        n_bases, size = self.pool.shape[2:]
        pool, slot = self.pool.reshape(-1, n_bases, size), place % size
        n_rows = len(np.unique(cell))
        if len(cell) * _SORT_AGAIN > n_rows * size:
            pool[cell, :, slot] = residual
            changed = np.unique(cell)
            parts = pool[changed].reshape(len(changed), n_bases, -1, self.block).swapaxes(2, 3)
            ordered = np.sort(np.where(np.isnan(parts), np.inf, parts), axis=-1)
            self._rows.reshape(-1, n_bases, self.block, ordered.shape[-1])[changed] = ordered
            return
        for r in range(int(rank.max()) + 1):
            here = rank == r
            old = pool[cell[here], :, slot[here]]
            old[np.isnan(old)] = np.inf
            pool[cell[here], :, slot[here]] = residual[here]
            rows = (cell[here, None] * n_bases + np.arange(n_bases)) * self.block + slot[
                here, None
            ] % self.block
            update_sorted(self._rows, rows.ravel(), old.ravel(), residual[here].ravel())

    def _update_levels(self, cell: np.ndarray, residual: np.ndarray, issued: np.ndarray) -> None:
        if self.adapt_rate == 0 or not issued.size:
            return
        judged = np.isfinite(issued).all(axis=1)
        below = (residual[judged][:, self._base_of] <= issued[judged]).astype(np.float64)
        n_cells = self.count.size
        n = np.bincount(cell[judged], minlength=n_cells)
        for q, target in enumerate(self.quantiles):
            share = np.bincount(cell[judged], below[:, q], minlength=n_cells) / np.maximum(n, 1)
            level = self.levels.reshape(n_cells, -1)[:, q]
            level += np.where(n > 0, self.adapt_rate * (target - share), 0.0)
            np.clip(level, 0.0, 1.0, out=level)

    def _has_own(self, groups: np.ndarray) -> np.ndarray:
        """(C,) whether a group uses its own residuals.

        The only one always does, others once each step has enough of them.
        """
        if len(self.pool) == 1:
            return groups >= 0
        return (groups >= 0) & (self.count[groups].min(axis=1) >= ENOUGH)

    def _sort_all_residuals(self) -> np.ndarray:
        """(H, n_bases, W) residuals of all groups, ascending, NaN last.

        They are kept until the next outcome.
        """
        if self._all_residuals is None:
            filled = max(1, min(int(self.count.max()), self.pool.shape[3]))
            by_step = self.pool[..., :filled].transpose(1, 2, 0, 3)
            self._all_residuals = np.sort(by_step.reshape(*by_step.shape[:2], -1), axis=-1)
        return self._all_residuals

    def _read(self, groups: np.ndarray, base: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Quantiles (C, H, Q) of the residuals of distinct groups (C,).

        base: (Q,) whose residuals each quantile is read from.
        """
        (_, n_steps, n_bases, size), is_own = self.pool.shape, self._has_own(groups)
        out = np.empty(levels.shape)
        if is_own.any():
            cell = groups[is_own, None] * n_steps + np.arange(n_steps)
            row = (cell[..., None] * n_bases + base) * self.block
            filled = np.minimum(self.count.reshape(-1)[cell], size)[..., None]
            parts = [
                compute_quantiles(
                    self._rows,
                    row + b,
                    np.broadcast_to((filled - b + self.block - 1) // self.block, row.shape),
                    levels[is_own],
                )
                for b in range(self.block)
            ]
            out[is_own] = parts[0] if self.block == 1 else compute_known_mean(np.stack(parts))
        if not is_own.all():
            all_residuals = self._sort_all_residuals()
            n = np.isfinite(all_residuals).sum(axis=-1)
            row = np.arange(n_steps)[:, None] * n_bases + base
            wanted = levels[~is_own]
            out[~is_own] = compute_quantiles(
                all_residuals.reshape(n_steps * n_bases, -1),
                np.broadcast_to(row, wanted.shape),
                np.broadcast_to(n.reshape(-1)[row], wanted.shape),
                wanted,
            )
        return out


def compute_point_shift(
    residuals: np.ndarray, which: np.ndarray, scale: np.ndarray, functional: Functional, transform: str
) -> np.ndarray:
    """`Conformal.compute_shift` from pools (C, H, N), NaN where none.

    which: (m,) the pool of each series; many may share one.
    """
    n = np.isfinite(residuals).sum(axis=-1)
    if functional == "median":
        ordered = np.sort(residuals, axis=-1).reshape(-1, residuals.shape[-1])
        middle = compute_quantiles(
            ordered, np.arange(len(ordered)), n.ravel(), np.full(len(ordered), 0.5)
        ).reshape(n.shape)
        shift = middle[which] * scale[:, None]
    elif transform == "none":
        shift = (np.nansum(residuals, axis=-1) / np.maximum(n, 1))[which] * scale[:, None]
    else:
        power = 2.0 if functional == "mean_square" else 1.0
        parts = [
            _compute_log_mean_exp(power * scale[b, None, None] * residuals[which[b]])
            for b in split_blocks(len(scale), _BLOCK_SERIES)
        ]
        shift = np.concatenate(parts) / power
    out: np.ndarray = np.where(n[which] > 0, shift, 0.0)
    return out


def _compute_log_mean_exp(e: np.ndarray) -> np.ndarray:
    """log of the mean of exp(e) over the last axis, NaN ignored; 0 where there is nothing."""
    n = np.isfinite(e).sum(axis=-1)
    top = np.max(np.where(np.isfinite(e), e, -np.inf), axis=-1, initial=-1e300)
    mean = np.nansum(np.exp(e - top[..., None]), axis=-1) / np.maximum(n, 1)
    out: np.ndarray = np.where(n > 0, top + np.log(np.where(n > 0, mean, 1.0)), 0.0)
    return out
