"""Limits of the CUSUM by a budget of false alarms.

Each stream's limit is that which paths of its own reference pass as often as the budget allows. A
path is drawn from the reference's whitened block means in runs of a season, so what is left of
autocorrelation stays, and it is scaled by the mean and deviation of a second draw as long as the
reference, so a short reference raises the limit. All streams share the draws, so streams that move
together alarm together.
Source: circular block bootstrap, Politis & Romano 1992.
"""

from typing import NamedTuple

import numpy as np

CLIP_SD = 3.0  # a block mean further out counts as that far: a single outlier is no drift
N_PATHS = 200
MAX_BLOCKS = 400  # of a path
MAX_FRAC = 0.5  # share of paths that may pass the limit; beyond it, a path is shorter
MIN_LIMIT = 2 * CLIP_SD  # more than one block can add, and more than two with the default slack
SHORT_BLOCKS = 15.0  # a short reference shows less chance than there is: 1 - 15/n of the budget is aimed at
CHANCE = 0.99


class ScaledReference(NamedTuple):
    """The reference's whitened block means.

    mean, sd: (N,) of each stream; sd is NaN without enough blocks.
    z: (B, N) in standard deviations from the mean, NaN where missing.
    n_known: (N,) blocks that are not missing.
    run_blocks: blocks of a season.
    """

    mean: np.ndarray
    sd: np.ndarray
    z: np.ndarray
    n_known: np.ndarray
    run_blocks: int


class _Draws(NamedTuple):
    """Paths of block means: (R, H) rows of *z*; (R, N) mean and sd of a second draw."""

    z: np.ndarray
    rows: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def compute_limits(scaled: ScaledReference, slack: float, alarms_per_block: float) -> np.ndarray:
    """(N,) limit of both sums of each stream; NaN for one that cannot be watched."""
    n_streams = scaled.z.shape[1]
    limit = np.full(n_streams, np.nan)
    is_fitted = np.isfinite(scaled.sd)
    if not is_fitted.any():
        return limit
    aim = alarms_per_block * max(0.5, 1 - SHORT_BLOCKS / len(scaled.z))
    n_blocks = int(np.clip(round(MAX_FRAC / aim), 1, MAX_BLOCKS))
    draws = _draw(scaled.z[:, is_fitted], scaled.run_blocks, n_blocks)
    peak = _run(draws, slack, np.full(int(is_fitted.sum()), np.inf))[0]
    share = min(MAX_FRAC, aim * n_blocks)
    limit[is_fitted] = np.maximum(MIN_LIMIT - 2 * slack, np.quantile(peak, 1 - share, axis=0))
    return limit


def compute_chance_alarms(
    scaled: ScaledReference, limit: np.ndarray, slack: float, n_blocks: int
) -> tuple[float, int]:
    """Streams whose alarm is open after *n_blocks* without drift.

    Returns their number on average, and in 99 of 100 cases at most.
    """
    is_fitted = np.isfinite(limit)
    if not is_fitted.any() or n_blocks == 0:
        return 0.0, 0
    draws = _draw(scaled.z[:, is_fitted], scaled.run_blocks, min(n_blocks, MAX_BLOCKS))
    n_open = _run(draws, slack, limit[is_fitted])[1].sum(axis=1)
    return float(n_open.mean()), int(np.quantile(n_open, CHANCE, method="higher"))


def advance(
    sums: np.ndarray, is_open: np.ndarray, z: np.ndarray, slack: float, limit: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both CUSUMs after one more block.

    sums, is_open: (2, ...) of the upper and the lower sum, and whether its alarm is open.
    z: (...) the block, in standard deviations.
    An alarm opens above *limit* and is open until its sum is 0. A sum is held at a block above the
    limit, so that a recovery shows soon.
    Returns the sums before they are held, the sums, and is_open.
    """
    clipped = np.clip(z, -CLIP_SD, CLIP_SD)
    raised = np.maximum(0.0, sums + np.stack([clipped, -clipped]) - slack)
    return raised, np.minimum(raised, limit + CLIP_SD), (is_open & (raised > 0)) | (raised > limit)


def _draw(z: np.ndarray, run_blocks: int, n_blocks: int) -> _Draws:
    z = _fill_by_repetition(z)
    n = len(z)
    run = min(n, max(run_blocks, round(n ** (1 / 3))))
    generator = np.random.default_rng(1)
    rows = _draw_rows(generator, n, run, n_blocks)
    second = _draw_rows(generator, n, run, n) + n * np.arange(N_PATHS)[:, None]
    counts = np.bincount(second.ravel(), minlength=N_PATHS * n).reshape(N_PATHS, n) / n
    mean = counts @ z
    variance = np.maximum(counts @ np.square(z) - np.square(mean), 0)
    return _Draws(z, rows, mean, np.where(variance > 0, np.sqrt(variance), 1.0))


def _draw_rows(generator: np.random.Generator, n: int, run: int, n_blocks: int) -> np.ndarray:
    """(R, n_blocks) rows in circular runs of *run*."""
    starts = generator.integers(0, n, (N_PATHS, -(-n_blocks // run)))
    rows = (starts[:, :, None] + np.arange(run)) % n
    return rows.reshape(N_PATHS, -1)[:, :n_blocks]


def _fill_by_repetition(z: np.ndarray) -> np.ndarray:
    """A missing block is one of the stream's own others, since a draw of none shows no chance."""
    filled = z.copy()
    for stream in np.flatnonzero(np.isnan(z).any(axis=0)):
        is_missing = np.isnan(z[:, stream])
        filled[is_missing, stream] = np.resize(z[~is_missing, stream], is_missing.sum())
    return filled


def _run(draws: _Draws, slack: float, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, N) the largest sum of each path, and whether an alarm is open at its end."""
    shape = draws.mean.shape
    sums, is_open, peak = np.zeros((2, *shape)), np.zeros((2, *shape), dtype=bool), np.zeros(shape)
    for rows in draws.rows.T:
        z = (draws.z[rows] - draws.mean) / draws.sd
        _, sums, is_open = advance(sums, is_open, z, slack, limit)
        np.maximum(peak, sums.max(axis=0), out=peak)
    return peak, is_open[0] | is_open[1]
