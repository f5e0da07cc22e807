"""All streams together: how far they are from moving as they did.

The error of a reconstruction from the principal components of the reference's innovations, as a
share of their power: it changes when a relation between streams does, although each stream alone
looks like its past.
Why not a classifier of reference and current rows: it needs a fit for each window.
"""

from typing import NamedTuple

import numpy as np

from tasks.monitor.signals import DETECTORS, LEVEL, Whitening, compute_block_means, compute_innovations

MAX_STREAMS = 200
_CLIP_SD = 4.0
_N_FOLDS = 5
_LEAST, _LEAST_SHARE = 1e-12, 1e-6


class JointModel(NamedTuple):
    """What the reference gives.

    whitening: of each stream, whose season is shown by many seasons.
    scale: (N,) standard deviation of each stream's innovations.
    basis: (N, k) components.
    """

    whitening: Whitening
    scale: np.ndarray
    basis: np.ndarray


def fit_joint(whitening: Whitening, transformed: np.ndarray) -> JointModel:
    """From the reference's values (T, N) as they are watched, NaN where missing."""
    innovations = np.nan_to_num(compute_innovations(whitening, transformed, 0))
    sd = np.sqrt(np.square(innovations).sum(axis=0) / max(1, len(innovations)))
    scale = np.where(sd > whitening.least_sd, sd, np.inf)  # a constant moves with no other
    return JointModel(whitening, scale, _find_basis(_standardize(scale, innovations)))


def compute_joint_figures(
    model: JointModel, transformed: np.ndarray, first_row: int, block_steps: int
) -> np.ndarray:
    """(B, K, 1) figures of whole blocks: of DETECTORS the level alone, the log of the share."""
    standardized = _standardize(model.scale, compute_innovations(model.whitening, transformed, first_row))
    return _build_figures(standardized, _reconstruct(standardized, model.basis), block_steps)


def compute_reference_figures(model: JointModel, transformed: np.ndarray, block_steps: int) -> np.ndarray:
    """The same of the reference itself: each fifth by components of the others."""
    standardized = _standardize(model.scale, compute_innovations(model.whitening, transformed, 0))
    explained = np.empty(standardized.shape)
    for fold in np.array_split(np.arange(len(standardized)), _N_FOLDS):
        basis = _find_basis(np.delete(standardized, fold, axis=0), model.basis.shape[1])
        explained[fold] = _reconstruct(standardized[fold], basis)
    return _build_figures(standardized, explained, block_steps)


def _standardize(scale: np.ndarray, innovations: np.ndarray) -> np.ndarray:
    return np.clip(np.nan_to_num(innovations) / scale, -_CLIP_SD, _CLIP_SD)


def _find_basis(standardized: np.ndarray, n_components: int | None = None) -> np.ndarray:
    """Its components, by default those that explain more than a single stream; one is left out."""
    power, vectors = np.linalg.eigh(standardized.T @ standardized / max(1, len(standardized)))
    if n_components is None:
        n_components = min(len(power) - 1, int((power > power.mean()).sum()))
    out: np.ndarray = vectors[:, len(power) - n_components :]
    return out


def _reconstruct(standardized: np.ndarray, basis: np.ndarray) -> np.ndarray:
    return (standardized @ basis) @ basis.T


def _build_figures(standardized: np.ndarray, explained: np.ndarray, block_steps: int) -> np.ndarray:
    power = np.column_stack([np.square(v).sum(axis=1) for v in (standardized - explained, standardized)])
    unexplained, total = compute_block_means(power, block_steps).T
    figures = np.zeros((len(total), len(DETECTORS), 1))
    figures[:, LEVEL, 0] = np.log(unexplained / np.maximum(total, _LEAST) + _LEAST_SHARE)
    return figures
