"""All streams together: how far they are from moving as they did.

The error of a reconstruction from the principal components of the reference's innovations, as a
share of their power: it changes when a relation between streams does, although each stream alone
looks like its past. The innovations come by groups of streams and are read by steps.
Why not a classifier of reference and current rows: it needs a fit for each window.
"""

import numpy as np

from tasks.edges.column_file import ColumnFile
from tasks.monitor.signals import (
    DETECTORS,
    LEVEL,
    Whitening,
    compute_block_means,
    compute_innovations,
)

MAX_STREAMS = 200
JOINT_INFLATION = 1.15  # of its standard deviation: the components were drawn by the reference, too
_CLIP_SD = 4.0
_N_FOLDS = 5
_LEAST, _LEAST_SHARE = 1e-12, 1e-6


def standardize(whitening: Whitening, reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """(T, N) innovations in standard deviations of the reference's, 0 where missing.

    whitening: of each stream, whose season is shown by many seasons.
    reference, current: values as they are watched, NaN where missing; one follows the other.
    """
    past = np.nan_to_num(compute_innovations(whitening, reference, 0))
    sd = np.sqrt(np.square(past).sum(axis=0) / max(1, len(past)))
    scale = np.where(sd > whitening.least_sd, sd, np.inf)  # a constant moves with no other
    now = np.nan_to_num(compute_innovations(whitening, current, len(reference)))
    return np.clip(np.concatenate([past, now]) / scale, -_CLIP_SD, _CLIP_SD)


def compute_joint_figures(
    innovations: ColumnFile, n_reference: int, block_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """(B, K, 1) figures of whole blocks, of the reference and of the data since.

    Of DETECTORS the level alone, the log of the share. The reference's own are each fifth's by the
    components of the others.
    innovations: (T, N) of `standardize`.
    """
    edges = [fold[0] for fold in np.array_split(np.arange(n_reference), _N_FOLDS) if len(fold)]
    folds = list(zip(edges, [*edges[1:], n_reference], strict=True))
    products = [_sum_products(innovations, *fold) for fold in folds]
    total = sum(products, np.zeros((innovations.n_columns, innovations.n_columns)))
    basis = _find_basis(total / max(1, n_reference))
    power = np.empty((innovations.n_rows, 2))
    for (start, stop), product in zip(folds, products, strict=True):
        n_others = max(1, n_reference - (stop - start))
        _fill_power(
            power, innovations, start, stop, _find_basis((total - product) / n_others, basis.shape[1])
        )
    _fill_power(power, innovations, n_reference, innovations.n_rows, basis)
    return (
        _build_figures(power[:n_reference], block_steps),
        _build_figures(power[n_reference:], block_steps),
    )


def _sum_products(innovations: ColumnFile, start: int, stop: int) -> np.ndarray:
    total = np.zeros((innovations.n_columns, innovations.n_columns))
    for _, rows in innovations.iterate_rows(start, stop):
        total += rows.T @ rows
    return total


def _find_basis(products: np.ndarray, n_components: int | None = None) -> np.ndarray:
    """(N, k) components, by default those that explain more than one stream; one is left out."""
    power, vectors = np.linalg.eigh(products)
    if n_components is None:
        n_components = min(len(power) - 1, int((power > power.mean()).sum()))
    out: np.ndarray = vectors[:, len(power) - n_components :]
    return out


def _fill_power(power: np.ndarray, innovations: ColumnFile, start: int, stop: int, basis: np.ndarray) -> None:
    """Of each step what *basis* does not explain, and all."""
    for first, rows in innovations.iterate_rows(start, stop):
        rest = rows - (rows @ basis) @ basis.T
        power[first : first + len(rows)] = np.column_stack([np.square(v).sum(axis=1) for v in (rest, rows)])


def _build_figures(power: np.ndarray, block_steps: int) -> np.ndarray:
    unexplained, total = compute_block_means(power, block_steps).T
    figures = np.zeros((len(total), len(DETECTORS), 1))
    figures[:, LEVEL, 0] = np.log(unexplained / np.maximum(total, _LEAST) + _LEAST_SHARE)
    return figures
