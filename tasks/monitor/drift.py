"""Drift of the inputs.

CUSUM on whitened block means over all series and columns, with a budget of false alarms (see
`budget`). Whitening uses the reference alone: the mean of each place in the season goes, then an
AR(1). Values that are positive throughout are looked at in logs; a column whose AR(1) is nearly a
random walk in its changes. A block is a day, or one season where that is shorter or no whole number
of days; a short reference has shorter blocks. Why not Evidently's daily rule: it alarms on each
column each day of a stationary seasonal stream.
Source: Page 1954, doi:10.1093/biomet/41.1-2.100; figures in the design's findings.
"""

from typing import NamedTuple

import numpy as np

from tasks.monitor.budget import ScaledReference, advance, compute_limits

SHORT_BLOCK = 5  # steps of a block where there is no season
UNIT_ROOT = 0.98  # an AR(1) coefficient from which on changes are watched
MIN_BLOCKS = 20  # of the reference; fewer give no standard deviation to measure by
MIN_SEASONS = 4  # of the reference; fewer give no means of the places in the season
SPIKE_RANGES = 3.0  # the reference is clipped this many 98 % ranges beyond that range
_N_DRAWN = 5000  # rows of the reference that show its range
_SAME_FRAC = 1e-9  # of the level: a reference that differs by less is constant


class DriftDetector(NamedTuple):
    """What the reference gives for each stream (N,).

    is_log: whether logs are watched.
    floor: least value of the current data in logs.
    season: (P, N) mean of each season phase.
    phi: AR(1) coefficient.
    scaled: of the whitened block means.
    limit: of both sums; NaN for a stream that cannot be watched.
    block_steps: steps of a block.
    slack: taken from each block's deviation, in standard deviations of a block mean.
    """

    is_log: np.ndarray
    floor: np.ndarray
    season: np.ndarray
    phi: np.ndarray
    scaled: ScaledReference
    limit: np.ndarray
    block_steps: int
    slack: float


class DriftAlarms(NamedTuple):
    """Alarms of each stream (N,).

    first: index of the block of the first alarm, -1 for none.
    opened: index of the block that raised the alarm that is open now, -1 for none.
    statistic: the larger of both sums now.
    n_blocks: number of blocks that were watched.
    """

    first: np.ndarray
    opened: np.ndarray
    statistic: np.ndarray
    n_blocks: int


def fit_detector(
    reference: np.ndarray, season_steps: int, day_steps: int, slack: float, alarms_per_step: float
) -> DriftDetector:
    """Fit on *reference* (T, N): rows are grid steps, NaN where missing.

    The first row has season phase 0.
    day_steps: steps of a day, 1 for steps of a day and longer ones.
    alarms_per_step: budget of false alarms of a stream.
    """
    values = _hide_infinite(reference)
    floor = _compute_least(values) / 10
    is_log = floor > 0
    values = _clip_spikes(_transform_to_logs(values, is_log, floor))
    phases = find_season_steps(len(values), season_steps, day_steps)
    season = np.stack([_compute_nanmean(values[phase::phases]) for phase in range(phases)])
    deseasonalized = values - _build_repeated_season(season, len(values), 0)
    level = np.abs(_compute_nanmean(season))
    least_sd = _SAME_FRAC * (1 + np.nan_to_num(level))
    phi = _fit_phi(deseasonalized, least_sd)
    block_steps = find_block_steps(len(values), season_steps, day_steps)
    means = _compute_block_means(_compute_innovations(deseasonalized, phi), block_steps)
    # A phase's mean includes the block itself: the reference's blocks vary less than later ones
    n_seasons = max(2.0, len(values) / phases)
    inflation = np.sqrt((n_seasons + 1) / (n_seasons - 1)) if phases > block_steps else 1.0
    scaled = _scale_reference(means, inflation, least_sd, max(1, -(-season_steps // block_steps)))
    limit = compute_limits(scaled, slack, alarms_per_step * block_steps)
    return DriftDetector(is_log, floor, season, phi, scaled, limit, block_steps, slack)


def find_season_steps(n_steps: int, season_steps: int, day_steps: int) -> int:
    """Steps of the season that *n_steps* of reference show: the season, a day, or 1 for neither."""
    shown = [steps for steps in (season_steps, day_steps) if steps * MIN_SEASONS <= n_steps]
    return max((steps for steps in shown if season_steps % steps == 0), default=1)


def find_block_steps(n_steps: int, season_steps: int, day_steps: int) -> int:
    """Steps of a block, of which *n_steps* of reference hold MIN_BLOCKS: a day, a season, or less.

    A shorter block divides them.
    """
    natural = season_steps if season_steps > 1 else SHORT_BLOCK
    if natural > day_steps > 1 and natural % day_steps == 0:
        natural = day_steps
    most = max(1, n_steps // MIN_BLOCKS)
    return max(steps for steps in range(1, natural + 1) if natural % steps == 0 and steps <= most)


def compute_alarms(detector: DriftDetector, current: np.ndarray, first_row: int) -> DriftAlarms:
    """Run both CUSUMs over *current* (T, N), whose first row is grid step *first_row*."""
    values = _transform_to_logs(_hide_infinite(current), detector.is_log, detector.floor)
    phase = first_row % len(detector.season)
    deseasonalized = values - _build_repeated_season(detector.season, len(values), phase)
    innovations = _compute_innovations(deseasonalized, detector.phi)
    means = _compute_block_means(innovations, detector.block_steps)
    scaled = np.nan_to_num((means - detector.scaled.mean) / detector.scaled.sd)
    limit = np.where(np.isfinite(detector.limit), detector.limit, np.inf)
    n_streams = current.shape[1]
    sums, is_open = np.zeros((2, n_streams)), np.zeros((2, n_streams), dtype=bool)
    first, opened = np.full(n_streams, -1), np.full(n_streams, -1)
    for block, z in enumerate(scaled):
        was_open = is_open.any(axis=0)
        _, sums, is_open = advance(sums, is_open, z, detector.slack, limit)
        now_open = is_open.any(axis=0)
        first = np.where((first < 0) & now_open, block, first)
        opened = np.where(now_open, np.where(was_open, opened, block), -1)
    return DriftAlarms(first, opened, sums.max(axis=0), len(scaled))


def _scale_reference(
    means: np.ndarray, inflation: float, least_sd: np.ndarray, run_blocks: int
) -> ScaledReference:
    n_known, mean = np.isfinite(means).sum(axis=0), _compute_nanmean(means)
    sd = np.maximum(inflation * np.sqrt(_compute_nanmean(np.square(means - mean))), least_sd)
    sd = np.where(n_known >= MIN_BLOCKS, sd, np.nan)
    return ScaledReference(mean, sd, (means - mean) / sd, n_known, run_blocks)


def _clip_spikes(values: np.ndarray) -> np.ndarray:
    """The reference without single blows, by which no later value would be far out."""
    if not len(values):
        return values
    rows = values
    if len(values) > _N_DRAWN:
        rows = values[np.random.default_rng(1).choice(len(values), _N_DRAWN, replace=False)]
    ordered, n_known = np.sort(rows, axis=0), np.isfinite(rows).sum(axis=0)
    columns = np.arange(values.shape[1])
    low, high = (ordered[np.maximum(0, (q * (n_known - 1)).astype(int)), columns] for q in (0.01, 0.99))
    reach = np.where(high > low, SPIKE_RANGES * (high - low), np.inf)
    out: np.ndarray = np.clip(values, low - reach, high + reach)
    return out


def _hide_infinite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(values), np.nan, values) if np.isinf(values).any() else values


def _compute_least(values: np.ndarray) -> np.ndarray:
    """Of each stream; NaN for one without a value."""
    least: np.ndarray = np.fmin.reduce(values, axis=0, initial=np.nan)
    return least


def _transform_to_logs(values: np.ndarray, is_log: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Logs where *is_log*; a value below *floor* counts as that, so its sign hides none."""
    if is_log.any():
        values = values.copy()
        values[:, is_log] = np.log(np.maximum(values[:, is_log], floor[is_log]))
    return values


def _build_repeated_season(season: np.ndarray, n_steps: int, season_phase: int) -> np.ndarray:
    return season[(np.arange(n_steps) + season_phase) % len(season)]


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


def _compute_innovations(deseasonalized: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """deseasonalized[t] - phi deseasonalized[t-1]; the first row is NaN."""
    out = np.full(deseasonalized.shape, np.nan)
    np.subtract(deseasonalized[1:], phi * deseasonalized[:-1], out=out[1:])
    return out


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
