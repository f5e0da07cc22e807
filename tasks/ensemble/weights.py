"""Weights: prune, fit non-negative weights that sum to 1, shrink them toward equal ones. Only from outcomes known by then."""

import numpy as np
from scipy.optimize import nnls

from tasks.ensemble.align import Aligned
from tasks.ensemble.params import EnsembleParams

_SUM_WEIGHT = 1e3  # how strongly the row that makes weights sum to 1 counts beside rows of unit scale


def weights_at(aligned: Aligned, k: int, params: EnsembleParams, *, absolute: bool) -> np.ndarray:
    """Weights (M,) as of the cutoff with index *k*; equal ones while nothing is known.

    absolute: prune by mean absolute instead of mean squared scaled error, as the primary score asks.
    """
    known = aligned.known_by(k) & np.isfinite(aligned.z_hat).all(axis=0)
    n_members = len(aligned.models)
    if not known.any():
        return np.full(n_members, 1.0 / n_members)
    scale = np.broadcast_to(aligned.scale[:, :, None], known.shape)[known]
    z_hat, z = aligned.z_hat[:, known] / scale, aligned.z[known] / scale
    losses = np.abs(z_hat - z).mean(axis=1) if absolute else np.square(z_hat - z).mean(axis=1)
    kept = np.flatnonzero(losses <= losses.min() * (1 + params.prune_above_frac))
    weights = np.zeros(n_members)
    fitted = _simplex_least_squares(z_hat[kept], z)
    weights[kept] = (1 - params.shrink_frac) * fitted + params.shrink_frac / len(kept)
    return weights


def weights_over_time(aligned: Aligned, params: EnsembleParams, *, absolute: bool) -> np.ndarray:
    """Weights (K, M): new ones every `reweight_every_cutoffs` along the walk; the gate's rows keep those of seen_until."""
    out = np.empty((len(aligned.origins), len(aligned.models)))
    for k in range(0, aligned.n_walk, params.reweight_every_cutoffs):
        out[k:] = weights_at(aligned, k, params, absolute=absolute)
    out[aligned.n_walk - 1 :] = weights_at(aligned, aligned.n_walk - 1, params, absolute=absolute)
    return out


def combine(aligned: Aligned, weights: np.ndarray) -> np.ndarray:
    """Weighted sum (K, S, H) of the members with weights (K, M); NaN where a weighted member says nothing."""
    weighted = np.where(weights.T[:, :, None, None] > 0, aligned.z_hat, 0.0)
    out: np.ndarray = np.einsum("km,mksh->ksh", weights, weighted)
    return out


def _simplex_least_squares(z_hat: np.ndarray, z: np.ndarray) -> np.ndarray:
    # On the Cholesky factor of the Gram matrix, so that the work does not grow with the rows; common level taken out for conditioning.
    centre = z_hat.mean(axis=0)
    a, b = z_hat - centre, z - centre
    gram = a @ a.T / len(z)
    gram += (1e-6 * np.trace(gram) / len(gram) + 1e-12) * np.eye(len(gram))
    unit = np.sqrt(np.trace(gram) / len(gram))
    factor = np.linalg.cholesky(gram).T / unit
    right = np.linalg.solve(factor.T, a @ b / len(z) / unit**2)
    weights, _ = nnls(np.vstack([factor, np.full(len(gram), _SUM_WEIGHT)]), np.append(right, _SUM_WEIGHT))
    out: np.ndarray = weights / weights.sum()
    return out
