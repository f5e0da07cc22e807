"""Drift of the inputs.

CUSUM of figures of blocks (see `signals`) over all series and columns: level, spread and the shares
of missing values, values out of range and zeros. The detectors of a stream share its budget of
false alarms (see `budget`). A block is a day, or one season where that is shorter or no whole
number of days; a short reference has shorter blocks. Why not Evidently's daily rule: it alarms on
each column each day of a stationary seasonal stream.
Source: Page 1954, doi:10.1093/biomet/41.1-2.100; figures in the design's findings.
"""

from typing import NamedTuple

import numpy as np

from tasks.edges.column_file import ColumnFile
from tasks.monitor.budget import ScaledReference, advance, compute_limits
from tasks.monitor.categories import CategoryShares, compute_category_figures, fit_categories
from tasks.monitor.joint import JOINT_INFLATION, compute_joint_figures, standardize
from tasks.monitor.signals import (
    LEVEL,
    SPREAD,
    Whitening,
    clip_spikes,
    compute_block_figures,
    compute_innovations,
    compute_nanmean,
    fit_whitening,
    transform_values,
)

SHORT_BLOCK = 5  # steps of a block where there is no season
MIN_BLOCKS = 20  # of the reference; fewer give no standard deviation to measure by
SILENT_BLOCKS = 5  # without a value, or with a single one
MIN_SEASONS = 4  # of the reference; fewer give no means of the places in the season
_LEAST_SD = 1e-9  # of a share


class DriftDetector(NamedTuple):
    """What the reference gives. Streams: N of numbers, then C of categories.

    whitening: of the streams of numbers.
    categories: of the streams of categories.
    scaled: of the figures of the reference's blocks.
    limit: (K, N + C) of both sums; NaN for a stream that cannot be watched.
    block_steps: steps of a block.
    slack: taken from each block's deviation, in standard deviations of a block.
    alarms_per_block: budget of false alarms of a stream.
    """

    whitening: Whitening
    categories: CategoryShares
    scaled: ScaledReference
    limit: np.ndarray
    block_steps: int
    slack: float
    alarms_per_block: float


class DriftAlarms(NamedTuple):
    """Alarms of each detector and stream (K, N).

    first: index of the block of the first alarm, -1 for none.
    opened: index of the block that raised the alarm that is open now, -1 for none.
    since: index of the block from which on the sum that is open has risen, -1 for none.
    statistic: the larger of both sums now.
    n_blocks: number of blocks that were watched.
    """

    first: np.ndarray
    opened: np.ndarray
    since: np.ndarray
    statistic: np.ndarray
    n_blocks: int


def fit_detector(
    reference: np.ndarray,
    season_steps: int,
    day_steps: int,
    slack: float,
    alarms_per_step: float,
    codes: np.ndarray | None = None,
    block_steps: int = 0,
) -> DriftDetector:
    """Fit on *reference* (T, N): rows are grid steps, NaN where missing.

    The first row has season phase 0.
    codes: (T, C) of the categories, whole numbers from 0 on, NaN where missing.
    day_steps: steps of a day, 1 for steps of a day and longer ones.
    alarms_per_step: budget of false alarms of a stream.
    block_steps: see `MonitorParams`.
    """
    phases = find_season_steps(len(reference), season_steps, day_steps)
    whitening = fit_whitening(reference, phases)
    block_steps = find_block_steps(len(reference), season_steps, day_steps, block_steps)
    innovations = compute_innovations(whitening, _clip_reference(whitening, reference), 0)
    codes = np.empty((len(reference), 0)) if codes is None else codes
    categories = fit_categories(codes)
    parts = [
        compute_block_figures(whitening, reference, innovations, block_steps),
        compute_category_figures(categories, codes, block_steps),
    ]
    figures = np.concatenate(parts, axis=2)
    n_seasons = max(2.0, len(reference) / phases)
    inflation = float(np.sqrt((n_seasons + 1) / (n_seasons - 1))) if phases > 1 else 1.0
    figures[:, SPREAD, : reference.shape[1]] *= (
        inflation  # a phase's mean includes the reference's own values, no later one's
    )
    run_blocks = max(1, -(-season_steps // block_steps))
    least_sd = np.full(figures.shape[2], _LEAST_SD)
    least_sd[: reference.shape[1]] = whitening.least_sd
    scaled = _scale_reference(figures, inflation if phases > block_steps else 1.0, least_sd, run_blocks)
    alarms_per_block = alarms_per_step * block_steps
    limit = compute_limits(scaled, slack, alarms_per_block)
    return DriftDetector(whitening, categories, scaled, limit, block_steps, slack, alarms_per_block)


def standardize_streams(
    detector: DriftDetector, values: np.ndarray, n_reference: int, season_steps: int, day_steps: int
) -> np.ndarray:
    """(T, N) innovations of the streams of numbers for the detector of all together.

    values: (T, N), of which *n_reference* rows are the reference.
    """
    reference, current = values[:n_reference], values[n_reference:]
    whitening = detector.whitening
    # Means of few seasons make each season of the reference a mirror of the others
    steps = find_season_steps(n_reference, season_steps, day_steps, MIN_BLOCKS)
    of_seasons = whitening if steps == len(whitening.season) else fit_whitening(reference, steps)
    return standardize(
        of_seasons,
        _clip_reference(whitening, reference),
        clip_spikes(whitening, transform_values(whitening, current)),
    )


def fit_joint_detector(
    detector: DriftDetector, innovations: ColumnFile, n_reference: int
) -> tuple[DriftDetector, np.ndarray]:
    """The detector of all streams of numbers together, as one stream, and (B, K, 1) its figures.

    detector: of any of the streams.
    innovations: of `standardize_streams`, of all streams.
    """
    reference, current = compute_joint_figures(innovations, n_reference, detector.block_steps)
    least_sd = np.full(1, _LEAST_SD)
    scaled = _scale_reference(reference, JOINT_INFLATION, least_sd, detector.scaled.run_blocks)
    limit = compute_limits(scaled, detector.slack, detector.alarms_per_block)
    return detector._replace(scaled=scaled, limit=limit), current


def _clip_reference(whitening: Whitening, reference: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.clip(transform_values(whitening, reference), whitening.low, whitening.high)
    return out


def find_season_steps(n_steps: int, season_steps: int, day_steps: int, min_seasons: int = MIN_SEASONS) -> int:
    """Steps of the season that *n_steps* of reference show: the season, a day, or 1 for neither."""
    shown = [steps for steps in (season_steps, day_steps) if steps * min_seasons <= n_steps]
    return max((steps for steps in shown if season_steps % steps == 0), default=1)


def find_block_steps(n_steps: int, season_steps: int, day_steps: int, block_steps: int = 0) -> int:
    """Steps of a block, of which *n_steps* of reference hold MIN_BLOCKS: a day, a season, or less.

    A shorter block divides them. block_steps: what is wished for, 0 for these.
    """
    natural = season_steps if season_steps > 1 else SHORT_BLOCK
    if natural > day_steps > 1 and natural % day_steps == 0:
        natural = day_steps
    natural = block_steps or natural
    most = max(1, n_steps // MIN_BLOCKS)
    return max(steps for steps in range(1, natural + 1) if natural % steps == 0 and steps <= most)


def compute_figures(
    detector: DriftDetector, current: np.ndarray, first_row: int, codes: np.ndarray | None = None
) -> np.ndarray:
    """(B, K, N + C) figures of the blocks, as of the reference's."""
    transformed = clip_spikes(detector.whitening, transform_values(detector.whitening, current))
    innovations = compute_innovations(detector.whitening, transformed, first_row)
    codes = np.empty((len(current), 0)) if codes is None else codes
    parts = [
        compute_block_figures(detector.whitening, current, innovations, detector.block_steps),
        compute_category_figures(detector.categories, codes, detector.block_steps),
    ]
    return np.concatenate(parts, axis=2)


def run_detectors(
    figures: np.ndarray, scaled: ScaledReference, limit: np.ndarray, slack: float
) -> DriftAlarms:
    """Both CUSUMs of each detector over the figures (B, K, N) of the blocks; a missing one is 0."""
    z = np.nan_to_num((figures - scaled.mean) / scaled.sd)
    reach = np.where(np.isfinite(limit), limit, np.inf)
    shape = (2, *limit.shape)
    sums, is_open = np.zeros(shape), np.zeros(shape, dtype=bool)
    first, opened = np.full(limit.shape, -1), np.full(limit.shape, -1)
    risen = np.zeros(shape, dtype=int)
    for block in range(len(z)):
        risen[sums == 0] = block
        was_open = is_open
        _, sums, is_open = advance(sums, is_open, z[block], slack, reach)
        if not (is_open.any() or was_open.any()):
            continue
        now_open = is_open[0] | is_open[1]
        first[(first < 0) & now_open] = block
        opened = np.where(now_open, np.where(was_open[0] | was_open[1], opened, block), -1)
    since = np.where(is_open, risen, -1).max(axis=0)
    return DriftAlarms(first, opened, since, sums.max(axis=0), len(z))


def _scale_reference(
    figures: np.ndarray, inflation: float, least_sd: np.ndarray, run_blocks: int
) -> ScaledReference:
    n_known, mean = np.isfinite(figures[:, LEVEL]).sum(axis=0), compute_nanmean(figures)
    sd = np.sqrt(compute_nanmean(np.square(figures - mean)))
    sd[LEVEL] *= inflation
    sd = np.maximum(sd, _LEAST_SD)
    for detector in (LEVEL, SPREAD):
        sd[detector] = np.maximum(sd[detector], least_sd)
    sd = np.where(n_known >= MIN_BLOCKS, sd, np.nan)
    return ScaledReference(mean, sd, (figures - mean) / sd, n_known, run_blocks)
