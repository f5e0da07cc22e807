"""Columns of texts: which categories come, and how often."""

from typing import NamedTuple

import numpy as np

from tasks.monitor.signals import DETECTORS, LEVEL, MISSING, RANGE

MAX_CATEGORIES = 100  # of a column; one with more holds free text


class CategoryShares(NamedTuple):
    """The reference's categories.

    shares: of each column, by code; 0 of a category that the reference does not have.
    is_rare: whether the reference has it once at most.
    """

    shares: tuple[np.ndarray, ...]
    is_rare: tuple[np.ndarray, ...]


def fit_categories(codes: np.ndarray) -> CategoryShares:
    """From the reference's *codes* (T, C): whole numbers from 0 on, NaN where missing."""
    counts = [np.bincount(column[np.isfinite(column)].astype(int)) for column in codes.T]
    shares = [n / max(1, n.sum()) for n in counts]
    return CategoryShares(tuple(shares), tuple(n <= 1 for n in counts))


def compute_category_figures(fitted: CategoryShares, codes: np.ndarray, block_steps: int) -> np.ndarray:
    """(B, K, C) figures of whole blocks, in the order of DETECTORS.

    level: how far the shares are from the reference's (root of chi-square per step), NaN where less
      than half of a block is known.
    missing: share of steps without a value.
    range: share of steps with a category that the reference has not, or once: as often as one comes
      once, a new one comes (Good & Turing).
    """
    n_blocks = len(codes) // block_steps
    figures = np.zeros((n_blocks, len(DETECTORS), codes.shape[1]))
    for i, (share, is_rare) in enumerate(zip(fitted.shares, fitted.is_rare, strict=True)):
        blocks = codes[: n_blocks * block_steps, i].reshape(n_blocks, block_steps)
        is_known = np.isfinite(blocks)
        n_known = is_known.sum(axis=1)
        n = max(len(share), int(np.max(blocks, initial=0, where=is_known)) + 1)
        flat = (np.arange(n_blocks)[:, None] * n + np.where(is_known, blocks, 0).astype(int))[is_known]
        counts = np.bincount(flat, minlength=n_blocks * n).reshape(n_blocks, n)
        new = np.ones(n, dtype=bool)
        new[: len(share)] = is_rare
        expected = np.zeros(n)
        expected[: len(share)] = share
        found = counts / np.maximum(n_known, 1)[:, None]
        distance = np.square(found - expected) / (expected + 1 / block_steps)
        figures[:, LEVEL, i] = np.where(2 * n_known >= block_steps, np.sqrt(distance.sum(axis=1)), np.nan)
        figures[:, MISSING, i] = 1 - n_known / block_steps
        figures[:, RANGE, i] = counts[:, new].sum(axis=1) / block_steps
    return figures
