"""Has the input changed?

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
CLIP_SD = 3.0  # a block mean further out counts as that far: a single blow is no drift
MIN_BLOCKS = 20  # of the reference; fewer give no standard deviation to measure by
FALSE_PER_BLOCK = 0.001  # budget: .03 alarms per stream and 30 daily blocks


class StreamWhitener(NamedTuple):
    """What the reference said of each stream (N,): season means (P, N), AR(1) coefficient, and
    mean and sd of whitened block means.
    """

    is_log: np.ndarray
    season: np.ndarray
    phi: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    block_steps: int


class DriftAlarms(NamedTuple):
    """first: (N,) index of the block of the first alarm, -1 for none. statistic: (N,) the larger
    of both sums now. n_blocks: watched. sd of NaN streams: not watched.
    """

    first: np.ndarray
    statistic: np.ndarray
    n_blocks: int
    is_watched: np.ndarray


def fit_whitener(reference: np.ndarray, season_steps: int) -> StreamWhitener:
    """From *reference* (T, N), rows being grid steps, NaN where missing; the first row is place
    0 of the season.
    """
    is_log = np.all(np.isnan(reference) | (reference > 0), axis=0)
    values = _transform_to_logs(reference, is_log)
    season = np.stack([_compute_nanmean(values[place::season_steps]) for place in range(season_steps)])
    left = values - _build_repeated_season(season, len(values), 0)
    phi = _fit_phi(left)
    block_steps = season_steps if season_steps > 1 else SHORT_BLOCK
    means = _compute_block_means(_compute_innovations(left, phi), block_steps)
    enough = np.isfinite(means).sum(axis=0) >= MIN_BLOCKS
    sd = np.where(enough, np.sqrt(_compute_nanmean(np.square(means - _compute_nanmean(means)))), np.nan)
    return StreamWhitener(
        is_log, season, phi, _compute_nanmean(means), np.where(sd > 0, sd, np.nan), block_steps
    )


def compute_alarms(
    whitener: StreamWhitener, current: np.ndarray, place: int, slack: float, limit: float
) -> DriftAlarms:
    """Run both CUSUMs over *current* (T, N), whose first row is *place* in the season. limit,
    slack: in sd of a block mean.
    """
    left = _transform_to_logs(current, whitener.is_log) - _build_repeated_season(
        whitener.season, len(current), place
    )
    means = _compute_block_means(_compute_innovations(left, whitener.phi), whitener.block_steps)
    scaled = np.nan_to_num(np.clip((means - whitener.mean) / whitener.sd, -CLIP_SD, CLIP_SD))
    n_streams = current.shape[1]
    up, down, first = np.zeros(n_streams), np.zeros(n_streams), np.full(n_streams, -1)
    for block, z in enumerate(scaled):
        up, down = np.maximum(0.0, up + z - slack), np.maximum(0.0, down - z - slack)
        first = np.where((first < 0) & (np.maximum(up, down) > limit), block, first)
    return DriftAlarms(first, np.maximum(up, down), len(scaled), np.isfinite(whitener.sd))


def compute_chance_alarms(n_streams: int, n_blocks: int) -> int:
    """The most streams that alarm within the budget without any drift, in 99 of 100 cases
    (Poisson).
    """
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


def _build_repeated_season(season: np.ndarray, n_steps: int, place: int) -> np.ndarray:
    return season[(np.arange(n_steps) + place) % len(season)]


def _fit_phi(left: np.ndarray) -> np.ndarray:
    both = np.isfinite(left[1:]) & np.isfinite(left[:-1])
    now, before = np.where(both, left[1:], 0.0), np.where(both, left[:-1], 0.0)
    power = np.square(before).sum(axis=0)
    phi = np.where(power > 0, (now * before).sum(axis=0) / np.where(power > 0, power, 1.0), 0.0)
    out: np.ndarray = np.where(phi >= UNIT_ROOT, 1.0, np.clip(phi, -UNIT_ROOT, UNIT_ROOT))
    return out


def _compute_innovations(left: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """left[t] - phi left[t-1]; the first row has none."""
    before = np.vstack([np.full((1, left.shape[1]), np.nan), left[:-1]])
    return left - phi * before


def _compute_block_means(values: np.ndarray, block_steps: int) -> np.ndarray:
    """Means of whole blocks, NaN where less than half of a block is there."""
    n_blocks = len(values) // block_steps
    blocks = values[: n_blocks * block_steps].reshape(n_blocks, block_steps, values.shape[1])
    there = np.isfinite(blocks).sum(axis=1)
    out: np.ndarray = np.where(
        2 * there >= block_steps, np.nansum(blocks, axis=1) / np.maximum(there, 1), np.nan
    )
    return out


def _compute_nanmean(values: np.ndarray) -> np.ndarray:
    there = np.isfinite(values).sum(axis=0)
    out: np.ndarray = np.where(there > 0, np.nansum(values, axis=0) / np.maximum(there, 1), np.nan)
    return out
