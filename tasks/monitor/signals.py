"""What the detectors of a stream look at: figures of its blocks.

All are relative to the reference alone: the mean of each place in the season goes, then an AR(1).
Values that are positive throughout are looked at in logs; a column whose AR(1) is nearly a random
walk in its changes. An infinite value is beyond the range, and counts as missing for the level.
"""

from typing import NamedTuple

import numpy as np

LEVEL, SPREAD, MISSING, RANGE, ZEROS = range(5)
DETECTORS = ("level", "spread", "missing", "range", "zeros")
UNIT_ROOT = 0.98  # an AR(1) coefficient from which on changes are watched
SPIKE_RANGES = 3.0  # this many 98 % ranges beyond that range a value is out of range
_N_DRAWN = 5000  # rows of the reference that show its range
_SAME_FRAC = 1e-9  # of the level: a reference that differs by less is constant


class Whitening(NamedTuple):
    """What the reference gives for each stream (N,).

    is_log: whether logs are watched.
    floor: least value of the current data in logs.
    low, high: the range, in logs where these are watched.
    season: (P, N) mean of each season phase.
    phi: AR(1) coefficient.
    least_sd: a smaller deviation is rounding.
    """

    is_log: np.ndarray
    floor: np.ndarray
    low: np.ndarray
    high: np.ndarray
    season: np.ndarray
    phi: np.ndarray
    least_sd: np.ndarray


def fit_whitening(reference: np.ndarray, season_steps: int) -> Whitening:
    """From *reference* (T, N), whose first row has season phase 0; NaN where missing."""
    values = _hide_infinite(reference)
    least: np.ndarray = np.fmin.reduce(values, axis=0, initial=np.nan)
    is_log, floor = least > 0, least / 10
    values = _transform_to_logs(values, is_log, floor)
    low, high = _find_range(values)
    values = np.clip(values, low, high)
    season = np.stack([compute_nanmean(values[phase::season_steps]) for phase in range(season_steps)])
    deseasonalized = values - repeat_season(season, len(values), 0)
    least_sd = _SAME_FRAC * (1 + np.nan_to_num(np.abs(compute_nanmean(season))))
    return Whitening(is_log, floor, low, high, season, _fit_phi(deseasonalized, least_sd), least_sd)


def transform_values(whitening: Whitening, values: np.ndarray) -> np.ndarray:
    """In logs where these are watched; NaN where missing or infinite."""
    return _transform_to_logs(_hide_infinite(values), whitening.is_log, whitening.floor)


def clip_spikes(whitening: Whitening, transformed: np.ndarray) -> np.ndarray:
    """Without values beyond the range; a random walk has none."""
    is_walk = whitening.phi == 1
    low, high = np.where(is_walk, -np.inf, whitening.low), np.where(is_walk, np.inf, whitening.high)
    out: np.ndarray = np.clip(transformed, low, high)
    return out


def compute_innovations(whitening: Whitening, transformed: np.ndarray, first_row: int) -> np.ndarray:
    """(T, N) what neither the season nor the value before explains; the first row is NaN.

    first_row: grid step of the first row.
    """
    out = transformed - repeat_season(whitening.season, len(transformed), first_row)
    out[1:] -= whitening.phi * out[:-1]
    out[:1] = np.nan
    return out


def compute_block_figures(
    whitening: Whitening, values: np.ndarray, innovations: np.ndarray, block_steps: int
) -> np.ndarray:
    """(B, K, N) figures of whole blocks, in the order of DETECTORS.

    level, spread: mean of the innovations and of their size, NaN where less than half of a block is
      known.
    missing, range, zeros: shares of the steps without a value, beyond the range, and at zero.
    """
    n_blocks = len(values) // block_steps
    figures = np.zeros((n_blocks, len(DETECTORS), values.shape[1]))
    figures[:, LEVEL] = compute_block_means(innovations, block_steps)
    figures[:, SPREAD] = compute_block_means(np.abs(innovations), block_steps)

    def compute_share(mask: np.ndarray) -> np.ndarray:
        blocks = mask[: n_blocks * block_steps].reshape(n_blocks, block_steps, -1)
        out: np.ndarray = np.count_nonzero(blocks, axis=1) / block_steps
        return out

    is_missing = np.isnan(values)
    if is_missing.any():
        figures[:, MISSING] = compute_share(is_missing)
    low, high = find_limits(whitening)
    is_beyond = (values < low) | (values > high)
    if is_beyond.any():
        figures[:, RANGE] = compute_share(is_beyond)
    is_zero = values == 0
    if is_zero.any():
        figures[:, ZEROS] = compute_share(is_zero)
    return figures


def find_limits(whitening: Whitening) -> tuple[np.ndarray, np.ndarray]:
    """(N,) lowest and highest value of the range, in units of the values.

    A random walk has none, but a finite value only.
    """
    is_walk = whitening.phi == 1
    low, high = (
        np.where(whitening.is_log, np.exp(np.where(whitening.is_log, limit, 0.0)), limit)
        for limit in (whitening.low, whitening.high)
    )
    most = np.finfo(float).max
    return (
        np.where(is_walk | np.isinf(low) | np.isnan(low), -most, low),
        np.where(is_walk | np.isinf(high) | np.isnan(high), most, high),
    )


def compute_block_means(values: np.ndarray, block_steps: int) -> np.ndarray:
    """Means of whole blocks, NaN where less than half of a block is known."""
    n_blocks = len(values) // block_steps
    blocks = values[: n_blocks * block_steps].reshape(n_blocks, block_steps, values.shape[1])
    n_known = np.isfinite(blocks).sum(axis=1)
    total = np.where(np.isfinite(blocks), blocks, 0.0).sum(axis=1)
    out: np.ndarray = np.where(2 * n_known >= block_steps, total / np.maximum(n_known, 1), np.nan)
    return out


def compute_nanmean(values: np.ndarray) -> np.ndarray:
    """Over the first axis; NaN without a value."""
    n_known = np.isfinite(values).sum(axis=0)
    out: np.ndarray = np.where(n_known > 0, np.nansum(values, axis=0) / np.maximum(n_known, 1), np.nan)
    return out


def repeat_season(season: np.ndarray, n_steps: int, first_row: int) -> np.ndarray:
    """(n_steps, N) the season from the grid step *first_row* on."""
    out: np.ndarray = season[(np.arange(n_steps) + first_row) % len(season)]
    return out


def _find_range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) between these all values are that are no single blow."""
    if not len(values):
        return np.full(values.shape[1], -np.inf), np.full(values.shape[1], np.inf)
    rows = values
    if len(values) > _N_DRAWN:
        rows = values[np.random.default_rng(1).choice(len(values), _N_DRAWN, replace=False)]
    ordered, n_known = np.sort(rows, axis=0), np.isfinite(rows).sum(axis=0)
    columns = np.arange(values.shape[1])
    low, high = (ordered[np.maximum(0, (q * (n_known - 1)).astype(int)), columns] for q in (0.01, 0.99))
    reach = np.where(high > low, SPIKE_RANGES * (high - low), np.inf)
    return low - reach, high + reach


def _hide_infinite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(values), np.nan, values) if np.isinf(values).any() else values


def _transform_to_logs(values: np.ndarray, is_log: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Logs where *is_log*; a value below *floor* counts as that, so its sign hides none."""
    if is_log.any():
        values = values.copy()
        values[:, is_log] = np.log(np.maximum(values[:, is_log], floor[is_log]))
    return values


def _fit_phi(deseasonalized: np.ndarray, least_sd: np.ndarray) -> np.ndarray:
    """0 for a constant, of which only the rounding is left."""
    is_known = np.isfinite(deseasonalized)
    filled = np.where(is_known, deseasonalized, 0.0)
    before = filled[:-1] * is_known[1:]
    power = np.einsum("tn,tn->n", before, before)
    varies = power > len(before) * np.square(least_sd)
    phi = np.where(varies, np.einsum("tn,tn->n", filled[1:], before) / np.where(varies, power, 1.0), 0.0)
    out: np.ndarray = np.where(phi >= UNIT_ROOT, 1.0, np.clip(phi, -UNIT_ROOT, UNIT_ROOT))
    return out
