"""What sets of forecasts would have issued, walked along time: points that suit the primary score, quantiles, and losses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.core.about import About
from tasks.core.scores import PRIMARY
from tasks.core.transform import from_z
from tasks.core.windows import blocks
from tasks.ensemble.align import Aligned
from tasks.ensemble.params import EnsembleParams
from tasks.release.conformal import Conformal, Issued, Timeline, functional_of, replay

OWN_POOL_CUTOFFS = 100  # fewer outcomes a series and step cannot carry .1 and .9 quantiles of their own
_BESIDE = 2_000_000  # forecasts that are walked along side by side: half a GB


@dataclass(frozen=True)
class Issuer:
    """Issues forecasts (K, S, H) made on *aligned*. group: whose residuals a series' intervals come from, `series` or `all`. n_residuals: of each pool."""

    aligned: Aligned
    about: About
    params: EnsembleParams
    group: str
    n_residuals: int

    @property
    def groups(self) -> np.ndarray:
        """(S,) pool of each series."""
        n = len(self.aligned.panel.series_ids)
        return np.arange(n) if self.group == "series" else np.zeros(n, dtype=np.int64)

    def whole(self, z_hat: np.ndarray) -> Issued:
        """Quantiles and points of one set."""
        state = self._state(1)
        return replay(self.aligned.timeline(z_hat, self.groups), state, functional_of(self.about), self.about.target.transform)

    def points(self, z_hats: Sequence[np.ndarray], wanted: np.ndarray) -> list[np.ndarray]:
        """Points (K, S, H) of several sets at the cutoffs *wanted* (K,), NaN elsewhere. Side by side as if they were further series: one walk over time for all."""
        out: list[np.ndarray] = []
        for part in blocks(len(z_hats), max(1, _BESIDE // self.aligned.y.size)):
            out += self._beside(z_hats[part], wanted)
        return out

    def loss(self, point: np.ndarray) -> np.ndarray:
        """(K, S, H) primary loss of points, NaN where there is none or y is not known."""
        y = self.aligned.y
        y_hat = from_z(self.about.target, point)
        there = np.isfinite(y_hat) & np.isfinite(y)
        loss = np.full(y_hat.shape, np.nan)
        loss[there] = PRIMARY[self.about.primary_score](y[there], y_hat[there])
        return loss

    def _beside(self, z_hats: Sequence[np.ndarray], wanted: np.ndarray) -> list[np.ndarray]:
        n, until, aligned, groups = len(z_hats), int(np.flatnonzero(wanted).max(initial=-1)) + 1, self.aligned, self.groups
        line = Timeline(
            np.concatenate([z_hat[:until] for z_hat in z_hats], axis=1), np.tile(aligned.scale[:until], n), np.tile(aligned.z[:until], (1, n, 1)),
            np.minimum(np.tile(aligned.known_k[:until], (1, n, 1)), until), aligned.learns[:until],
            np.concatenate([groups + i * (groups.max() + 1) for i in range(n)]),
        )  # fmt: skip
        issued = replay(line, self._state(n), functional_of(self.about), self.about.target.transform, wanted[:until], only_points=True)
        out = np.full((len(wanted), *issued.point.shape[1:]), np.nan)
        out[:until] = issued.point
        return np.split(out, n, axis=1)

    def _state(self, n_sets: int) -> Conformal:
        n_groups = n_sets * (int(self.groups.max()) + 1)
        return Conformal(n_groups, self.aligned.y.shape[2], self.about.quantiles, self.n_residuals, self.params.adapt_rate)


def issuer_of(aligned: Aligned, about: About, params: EnsembleParams) -> Issuer:
    """Intervals come from a series' own residuals when each series has enough outcomes, else from a pool that holds several cutoffs of everybody."""
    n_series = len(aligned.panel.series_ids)
    known = (np.isfinite(aligned.z[: aligned.n_walk]) & np.isfinite(aligned.scale[: aligned.n_walk, :, None])).sum(axis=0)
    if known.size and known.min() >= OWN_POOL_CUTOFFS:
        return Issuer(aligned, about, params, "series", params.residuals)
    return Issuer(aligned, about, params, "all", min(10 * n_series + params.residuals, 5000))
