"""What is known of the members' errors by a cutoff, as sums of products.

The size of the sums does not depend on the length of the past, and every weighting is computed from
them: with weights w that sum to 1 the error of the combination is the same weighted sum of the
members' errors e, so its squared error is w' E[ee'] w. Errors are scaled; only forecasts count for
which every member has a value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tasks.core.blocks import split_blocks
from tasks.ensemble.align import AlignedForecasts

N_REGIMES = 3  # terciles: calm, usual, wild where the target is a volatility
_BLOCK_SERIES = 256  # bounds the memory of the products of many series


class KnownErrors(NamedTuple):
    """Sums over the forecasts whose outcome was known by a cutoff, M members.

    by_step: (H, M, M).
    by_series: (S, M, M).
    by_regime: (N_REGIMES, M, M).
    newest: (M, M) of the last slice of the past.
    n_*: how many forecasts each sums over.
    absolute: (M,) summed |e|.
    above: thresholds of the regimes as of the cutoff.
    """

    by_step: np.ndarray
    n_step: np.ndarray
    by_series: np.ndarray
    n_series: np.ndarray
    by_regime: np.ndarray
    n_regime: np.ndarray
    newest: np.ndarray
    n_newest: int
    absolute: np.ndarray
    above: tuple[float, ...]

    @property
    def pooled(self) -> np.ndarray:
        """(M, M) over everything."""
        out: np.ndarray = self.by_step.sum(axis=0)
        return out

    @property
    def n(self) -> int:
        """How many forecasts in all."""
        return int(self.n_step.sum())


@dataclass(frozen=True)
class MemberErrors:
    """Errors of the members of *aligned*, summed between refits.

    refits: indices of cutoffs, ascending.
    newest_frac: share of the past that is its last slice.
    """

    aligned: AlignedForecasts
    refits: tuple[int, ...]
    newest_frac: float

    def get_known(self, k: int) -> KnownErrors:
        """The errors that the cutoff with index *k*, one of refits, knows."""
        r = self.refits.index(k)
        sums = self._sums
        pooled, n = sums["by_step"].sum(axis=1), sums["n_step"].sum(axis=1)
        total, count = pooled[: r + 1].sum(axis=0), int(n[: r + 1].sum())
        # Number of newest parts that hold this share
        first = int(np.searchsorted(np.cumsum(n[r::-1]), self.newest_frac * count)) + 1
        newest = slice(max(0, r + 1 - first), r + 1)
        totals = {name: part[: r + 1].sum(axis=0) for name, part in sums.items()}
        return KnownErrors(
            **totals,
            newest=pooled[newest].sum(axis=0) if count else total,
            n_newest=int(n[newest].sum()),
            above=self.above[r],
        )

    @cached_property
    def above(self) -> list[tuple[float, ...]]:
        """Thresholds of the regimes as of each refit.

        They are the terciles of the last known values at the cutoffs so far.
        """
        out = []
        for k in self.refits:
            past = self.last[: k + 1]
            known = past[np.isfinite(past)]
            cuts = (
                np.quantile(known, np.arange(1, N_REGIMES) / N_REGIMES)
                if len(known)
                else np.zeros(N_REGIMES - 1)
            )
            out.append(tuple(float(c) for c in cuts))
        return out

    @cached_property
    def last(self) -> np.ndarray:
        """(K, S) last known z at the cutoff."""
        panel = self.aligned.panel
        values: np.ndarray = panel.x[self.aligned.origins][
            :, :, panel.schema.index(panel.schema.last)
        ].astype(np.float64)
        return values

    @cached_property
    def regime(self) -> np.ndarray:
        """(K, S) regime of each forecast, by the thresholds of the last refit before it.

        Later refits do not change it.
        """
        which = np.searchsorted(self.refits, np.arange(len(self.aligned.origins)), side="right") - 1
        cuts = np.array(self.above)[np.maximum(which, 0)]
        out: np.ndarray = (self.last[:, :, None] > cuts[:, None, :]).sum(axis=2)
        return out

    @cached_property
    def _sums(self) -> dict[str, np.ndarray]:
        aligned = self.aligned
        n_members, n_cutoffs, n_series, n_steps = aligned.z_hat.shape
        usable = (
            np.isfinite(aligned.z)
            & np.isfinite(aligned.z_hat).all(axis=0)
            & np.isfinite(aligned.scale)[:, :, None]
        )
        first = np.maximum(aligned.known_k, np.arange(1, n_cutoffs + 1)[:, None, None])
        part_of = np.where(usable, np.searchsorted(self.refits, first), len(self.refits))
        shapes = {"step": n_steps, "series": n_series, "regime": N_REGIMES}
        sums = {
            f"by_{name}": np.zeros((len(self.refits), n, n_members, n_members)) for name, n in shapes.items()
        }
        sums |= {f"n_{name}": np.zeros((len(self.refits), n), dtype=np.int64) for name, n in shapes.items()}
        sums["absolute"] = np.zeros((len(self.refits), n_members))
        for r in range(len(self.refits)):
            rows = np.flatnonzero((part_of == r).any(axis=(1, 2)))
            for columns in split_blocks(n_series, _BLOCK_SERIES):
                self._add_products(sums, r, rows, columns, part_of)
        return sums

    def _add_products(
        self, sums: dict[str, np.ndarray], r: int, rows: np.ndarray, columns: slice, part_of: np.ndarray
    ) -> None:
        aligned = self.aligned
        is_in_part = part_of[rows, columns] == r
        error = aligned.kind.compute_member_error(aligned.z[rows, columns], aligned.z_hat[:, rows, columns])
        error = np.where(is_in_part, error / aligned.scale[rows, columns, None], 0.0)
        by_row = error.transpose(2, 3, 0, 1)  # (S, H, M, k)
        products = by_row @ by_row.transpose(0, 1, 3, 2)
        sums["by_step"][r] += products.sum(axis=0)
        sums["by_series"][r, columns] += products.sum(axis=1)
        sums["n_step"][r] += is_in_part.sum(axis=(0, 1))
        sums["n_series"][r, columns] += is_in_part.sum(axis=(0, 2))
        sums["absolute"][r] += np.abs(error).sum(axis=(1, 2, 3))
        for g in range(N_REGIMES):
            of_regime = error * (self.regime[rows, columns] == g)[:, :, None]
            flat = of_regime.reshape(len(error), -1)
            sums["by_regime"][r, g] += flat @ flat.T
            sums["n_regime"][r, g] += (is_in_part & (self.regime[rows, columns] == g)[:, :, None]).sum()


def list_refits(n_walk: int, every: int, required: Sequence[int]) -> tuple[int, ...]:
    """Indices of the cutoffs at which combiners are fitted along the walk.

    every: distance between them; reduced so that there are at least eight.
    required: indices that are always in the result.
    """
    return tuple(sorted({*range(0, n_walk, max(1, min(every, n_walk // 8))), *required}))
