"""Drift of the inputs.

CUSUM on whitened block means, with a budget of false alarms, over all series and columns.
Whitening uses the reference alone: the mean of each place in the season goes, then an AR(1). Values
that are positive throughout are looked at in logs; a column whose AR(1) is nearly a random walk in
its changes. A block is one season (a day of hours, a week of days), so what repeats within it
cannot alarm. Why not Evidently's daily rule: it alarms on each column each day of a stationary
seasonal stream.
Source: Page 1954, doi:10.1093/biomet/41.1-2.100; figures in the design's findings.
"""

from typing import NamedTuple

import numpy as np

SHORT_BLOCK = 5  # steps of a block where there is no season
UNIT_ROOT = 0.98  # an AR(1) coefficient from which on changes are watched
CLIP_SD = 3.0  # a block mean further out counts as that far: a single outlier is no drift
MIN_BLOCKS = 20  # of the reference; fewer give no standard deviation to measure by
FALSE_PER_BLOCK = 0.001  # budget: .03 alarms per stream and 30 daily blocks


class StreamWhitener(NamedTuple):
    """What the reference gives for each stream (N,).

    season: (P, N) mean of each season phase.
    phi: AR(1) coefficient.
    mean, sd: of the whitened block means.
    """

    is_log: np.ndarray
    season: np.ndarray
    phi: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    block_steps: int


class DriftAlarms(NamedTuple):
    """Alarms of each stream (N,).

    first: index of the block of the first alarm, -1 for none.
    statistic: the larger of both sums now.
    n_blocks: number of blocks that were watched.
    is_watched: False for a stream without a standard deviation.
    """

    first: np.ndarray
    statistic: np.ndarray
    n_blocks: int
    is_watched: np.ndarray


def fit_whitener(reference: np.ndarray, season_steps: int) -> StreamWhitener:
    """Fit on *reference* (T, N): rows are grid steps, NaN where missing.

    The first row has season phase 0.
    """
    is_log = np.all(np.isnan(reference) | (reference > 0), axis=0)
    values = _transform_to_logs(reference, is_log)
    season = np.stack([_compute_nanmean(values[phase::season_steps]) for phase in range(season_steps)])
    deseasonalized = values - _build_repeated_season(season, len(values), 0)
    phi = _fit_phi(deseasonalized)
    block_steps = season_steps if season_steps > 1 else SHORT_BLOCK
    means = _compute_block_means(_compute_innovations(deseasonalized, phi), block_steps)
    enough = np.isfinite(means).sum(axis=0) >= MIN_BLOCKS
    sd = np.where(enough, np.sqrt(_compute_nanmean(np.square(means - _compute_nanmean(means)))), np.nan)
    return StreamWhitener(
        is_log, season, phi, _compute_nanmean(means), np.where(sd > 0, sd, np.nan), block_steps
    )


def compute_alarms(
    whitener: StreamWhitener, current: np.ndarray, season_phase: int, slack: float, limit: float
) -> DriftAlarms:
    """Run both CUSUMs over *current* (T, N).

    season_phase: of the first row.
    slack, limit: in standard deviations of a block mean.
    """
    deseasonalized = _transform_to_logs(current, whitener.is_log) - _build_repeated_season(
        whitener.season, len(current), season_phase
    )
    means = _compute_block_means(_compute_innovations(deseasonalized, whitener.phi), whitener.block_steps)
    scaled = np.nan_to_num(np.clip((means - whitener.mean) / whitener.sd, -CLIP_SD, CLIP_SD))
    n_streams = current.shape[1]
    up, down, first = np.zeros(n_streams), np.zeros(n_streams), np.full(n_streams, -1)
    for block, z in enumerate(scaled):
        up, down = np.maximum(0.0, up + z - slack), np.maximum(0.0, down - z - slack)
        first = np.where((first < 0) & (np.maximum(up, down) > limit), block, first)
    return DriftAlarms(first, np.maximum(up, down), len(scaled), np.isfinite(whitener.sd))


def compute_chance_alarms(n_streams: int, n_blocks: int) -> int:
    """How many streams alarm at most without drift, in 99 of 100 cases (Poisson)."""
    from math import exp

    expected = n_streams * n_blocks * FALSE_PER_BLOCK
    n, term = 0, exp(-expected)
    below = term
    while below < 0.99:
        n += 1
        term *= expected / n
        below += term
    return n


def _transform_to_logs(values: np.ndarray, is_log: np.ndarray) -> np.ndarray:
    positive = np.where(values > 0, values, np.nan)
    out: np.ndarray = np.where(is_log, np.log(positive), values)
    return out


def _build_repeated_season(season: np.ndarray, n_steps: int, season_phase: int) -> np.ndarray:
    return season[(np.arange(n_steps) + season_phase) % len(season)]


def _fit_phi(deseasonalized: np.ndarray) -> np.ndarray:
    both = np.isfinite(deseasonalized[1:]) & np.isfinite(deseasonalized[:-1])
    now, before = np.where(both, deseasonalized[1:], 0.0), np.where(both, deseasonalized[:-1], 0.0)
    power = np.square(before).sum(axis=0)
    phi = np.where(power > 0, (now * before).sum(axis=0) / np.where(power > 0, power, 1.0), 0.0)
    out: np.ndarray = np.where(phi >= UNIT_ROOT, 1.0, np.clip(phi, -UNIT_ROOT, UNIT_ROOT))
    return out


def _compute_innovations(deseasonalized: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """deseasonalized[t] - phi deseasonalized[t-1]; the first row is NaN."""
    before = np.vstack([np.full((1, deseasonalized.shape[1]), np.nan), deseasonalized[:-1]])
    return deseasonalized - phi * before


def _compute_block_means(values: np.ndarray, block_steps: int) -> np.ndarray:
    """Means of whole blocks, NaN where less than half of a block is known."""
    n_blocks = len(values) // block_steps
    blocks = values[: n_blocks * block_steps].reshape(n_blocks, block_steps, values.shape[1])
    n_known = np.isfinite(blocks).sum(axis=1)
    out: np.ndarray = np.where(
        2 * n_known >= block_steps, np.nansum(blocks, axis=1) / np.maximum(n_known, 1), np.nan
    )
    return out


def _compute_nanmean(values: np.ndarray) -> np.ndarray:
    n_known = np.isfinite(values).sum(axis=0)
    out: np.ndarray = np.where(n_known > 0, np.nansum(values, axis=0) / np.maximum(n_known, 1), np.nan)
    return out
