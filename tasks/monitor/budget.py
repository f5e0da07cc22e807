"""Limits of the CUSUM by a budget of false alarms.

A stream has K detectors, which share its budget: all are run over the same paths of its reference,
and the limits are those at which as many paths as the budget allows pass any of them. A detector
whose reference never varies passes on no path, so it takes nothing from the others. A path is drawn
from the blocks of the reference in runs of a season, so what is left of autocorrelation stays, and
it is scaled by the mean and deviation of a second draw as long as the reference, so a short
reference raises the limit. All streams share the draws, so streams that move together alarm
together.
Source: circular block bootstrap, Politis & Romano 1992.
"""

from typing import NamedTuple

import numpy as np

CLIP_SD = 3.0  # a block mean further out counts as that far: a single outlier is no drift
N_PATHS = 200
MAX_BLOCKS = 400  # of a path
MAX_FRAC = 0.5  # share of paths that may pass the limit; beyond it, a path is shorter
MIN_LIMIT = 2 * CLIP_SD  # more than one block can add, and more than two with the default slack
SHORT_BLOCKS = 15.0  # a short reference shows less chance than there is: 1 - 15/n of the budget is aimed at,
LEAST_AIM = 0.3  # and at least this part
CHANCE = 0.99
_DRAWN_CELLS = 500_000  # in memory; a matter of cost alone
FIRST_SHARE = 0.8  # of a budget, for the first detector: the level's, which most drift shows in


class ScaledReference(NamedTuple):
    """The reference's whitened block means.

    mean, sd: (K, N) of each detector and stream; sd is NaN without enough blocks.
    z: (B, K, N) in standard deviations from the mean, NaN where missing.
    n_known: (N,) blocks whose first detector is not missing.
    run_blocks: blocks of a season.
    """

    mean: np.ndarray
    sd: np.ndarray
    z: np.ndarray
    n_known: np.ndarray
    run_blocks: int


class _Draws(NamedTuple):
    """Paths of block means: (R, H) rows of *z* (B, D); (R, D) mean and sd of a second draw."""

    z: np.ndarray
    rows: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def compute_limits(
    scaled: ScaledReference, slack: float, alarms_per_block: float, first_share: float = FIRST_SHARE
) -> np.ndarray:
    """(K, N) limits of both sums; NaN for a stream that cannot be watched.

    first_share: of a stream's budget that its first detector has; the others share the rest.
    """
    n_detectors, n_streams = scaled.mean.shape
    limit = np.full((n_detectors, n_streams), np.nan)
    is_fitted = np.isfinite(scaled.sd).all(axis=0)
    if not is_fitted.any():
        return limit
    least = MIN_LIMIT - 2 * slack
    limit[:, is_fitted] = least
    is_varied = _find_varied(scaled)
    aim = alarms_per_block * max(LEAST_AIM, 1 - SHORT_BLOCKS / len(scaled.z))
    n_blocks = int(np.clip(round(MAX_FRAC / aim), 1, MAX_BLOCKS))
    share = min(MAX_FRAC, aim * n_blocks)
    if is_varied.any():
        draws = _draw(scaled.z[:, is_varied], scaled.run_blocks, n_blocks)
        peaks = np.zeros((N_PATHS, n_detectors, n_streams))
        peaks[:, is_varied] = _run(draws, slack, np.full(int(is_varied.sum()), np.inf))[0]
        weight = np.full(n_detectors, (1 - first_share) / max(1, n_detectors - 1))
        weight[0] = first_share
        found = _share_budget(peaks, is_varied, weight, share)
        limit[is_varied] = np.maximum(least, found[is_varied])
    return limit


def _find_varied(scaled: ScaledReference) -> np.ndarray:
    """(K, N) detectors of fitted streams whose reference varies."""
    varies = np.nanmax(np.abs(np.nan_to_num(scaled.z)), axis=0, initial=0.0) > 0
    out: np.ndarray = varies & np.isfinite(scaled.sd).all(axis=0)
    return out


def _share_budget(peaks: np.ndarray, is_varied: np.ndarray, weight: np.ndarray, share: float) -> np.ndarray:
    """(K, N) limits that *share* of the paths pass in any detector of a stream.

    peaks: (R, K, N) largest sum of each path.
    weight: (K,) how the share is divided where detectors alarm apart.
    """
    n_paths = len(peaks)
    ordered = np.sort(peaks, axis=0)
    rank = np.empty(peaks.shape)
    np.put_along_axis(rank, np.argsort(-peaks, axis=0), np.arange(1, n_paths + 1)[:, None, None], axis=0)
    cost = np.where(is_varied, rank / n_paths / weight[:, None], np.inf).min(axis=1)
    common = np.quantile(np.nan_to_num(cost, posinf=1.0), share, axis=0)
    level = np.clip(1 - common * weight[:, None], 0, 1)
    row = np.minimum(n_paths - 1, (level * n_paths).astype(int))
    out: np.ndarray = np.take_along_axis(ordered, row[None], axis=0)[0]
    return out


def count_chance_alarms(
    scaled: ScaledReference, limit: np.ndarray, slack: float, n_blocks: int
) -> np.ndarray:
    """(R,) streams of each path with an alarm that is open after *n_blocks* without drift.

    The counts of other streams with as many blocks of reference are of the same paths.
    """
    is_varied = _find_varied(scaled)
    is_open = np.zeros((N_PATHS, *limit.shape), dtype=bool)
    if is_varied.any() and n_blocks > 0:
        draws = _draw(scaled.z[:, is_varied], scaled.run_blocks, min(n_blocks, MAX_BLOCKS))
        is_open[:, is_varied] = _run(draws, slack, limit[is_varied])[1]
    out: np.ndarray = is_open.any(axis=1).sum(axis=1)
    return out


def summarize_chance_alarms(n_open: np.ndarray) -> tuple[float, int]:
    """How many are open by chance, from the counts of the paths.

    Returns their number on average, and in 99 of 100 cases at most.
    """
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
    rows = _draw_rows(generator.integers(0, n, (N_PATHS, -(-n_blocks // run))), n, run, n_blocks)
    starts, squares = generator.integers(0, n, (N_PATHS, -(-n // run))), np.square(z)
    mean, square = np.empty((N_PATHS, z.shape[1])), np.empty((N_PATHS, z.shape[1]))
    size = max(1, _DRAWN_CELLS // n)
    for first in range(0, N_PATHS, size):
        paths = slice(first, first + size)
        second = _draw_rows(starts[paths], n, run, n)
        n_paths = len(second)
        second += n * np.arange(n_paths)[:, None]
        counts = np.bincount(second.ravel(), minlength=n_paths * n).reshape(n_paths, n) / n
        mean[paths], square[paths] = counts @ z, counts @ squares
    variance = np.maximum(square - np.square(mean), 0)
    return _Draws(z, rows, mean, np.where(variance > 0, np.sqrt(variance), 1.0))


def _draw_rows(starts: np.ndarray, n: int, run: int, n_blocks: int) -> np.ndarray:
    """(R, n_blocks) rows in circular runs of *run*, which begin at *starts* (R, ...)."""
    rows = (starts[:, :, None] + np.arange(run)) % n
    return rows.reshape(len(starts), -1)[:, :n_blocks]


def _fill_by_repetition(z: np.ndarray) -> np.ndarray:
    """A missing block is one of the stream's own others, since a draw of none shows no chance."""
    filled = z.copy()
    for stream in np.flatnonzero(np.isnan(z).any(axis=0)):
        is_missing = np.isnan(z[:, stream])
        filled[is_missing, stream] = np.resize(z[~is_missing, stream], is_missing.sum())
    return filled


def _run(draws: _Draws, slack: float, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, D) the largest sum of each path, and whether an alarm is open at its end."""
    shape = draws.mean.shape
    sums, is_open, peak = np.zeros((2, *shape)), np.zeros((2, *shape), dtype=bool), np.zeros(shape)
    for rows in draws.rows.T:
        z = (draws.z[rows] - draws.mean) / draws.sd
        _, sums, is_open = advance(sums, is_open, z, slack, limit)
        np.maximum(peak, sums.max(axis=0), out=peak)
    return peak, is_open[0] | is_open[1]
