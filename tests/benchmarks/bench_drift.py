"""The drift detector: false alarms and delays on 40 seasonal streams, and its time.

Prints figures; tests/monitor/test_drift.py holds the law.
"""

import time
from itertools import pairwise

import numpy as np
import pytest
from seasonal_streams import WEEK, build_streams, measure_alarms

from tasks.monitor.drift import compute_alarms, fit_detector

pytestmark = pytest.mark.bench
SEEDS, BUDGET, SHIFT_AT = range(29, 37), 0.05, 150


def detect(reference, current, season_steps):
    """Ours."""
    detector = fit_detector(reference, season_steps, 24, 0.5, BUDGET / 720)
    first = compute_alarms(detector, current, len(reference)).first
    return np.where(first < 0, -1, (first + 1) * detector.block_steps - 1)


def detect_by_fixed_limit(reference, current, season_steps):
    """The detector of before: one limit of 8 for all streams, and a block as long as the season."""
    phases = np.arange(len(reference) + len(current)) % season_steps
    season = np.stack([reference[phases[: len(reference)] == p].mean(axis=0) for p in range(season_steps)])
    past = reference - season[phases[: len(reference)]]
    later = current - season[phases[len(reference) :]]
    phi = (past[1:] * past[:-1]).sum(axis=0) / np.square(past[:-1]).sum(axis=0)
    means = [_average(v[1:] - phi * v[:-1], season_steps) for v in (past, later)]
    if len(means[0]) < 20:
        return np.full(current.shape[1], -1)
    z = np.clip((means[1] - means[0].mean(axis=0)) / means[0].std(axis=0), -3, 3)
    up, down, first = (np.zeros(z.shape[1]), np.zeros(z.shape[1]), np.full(z.shape[1], -1))
    for block, value in enumerate(z):
        up, down = np.maximum(0, up + value - 0.5), np.maximum(0, down - value - 0.5)
        first = np.where((first < 0) & (np.maximum(up, down) > 8), block, first)
    return np.where(first < 0, -1, (first + 1) * season_steps - 1)


def _average(values, n):
    return values[: len(values) // n * n].reshape(-1, n, values.shape[1]).mean(axis=1)


@pytest.mark.parametrize("detector", [detect, detect_by_fixed_limit])
@pytest.mark.parametrize(
    ("reference_days", "season_steps"), [(60, 24), (60, WEEK), (30, WEEK), (21, WEEK), (365, WEEK)]
)
def test_false_alarms_and_delay(detector, reference_days, season_steps):
    found = [measure_alarms(detector, seed, reference_days, season_steps, SHIFT_AT) for seed in SEEDS]
    delays = np.concatenate([delays for _, delays in found])
    print(
        f"\n{detector.__name__}: {reference_days} days of reference, season {season_steps}:"
        f" {np.mean([rate for rate, _ in found]):.4f} false alarms per stream and 30 days, delay median"
        f" {np.median(delays):.1f} d, p90 {np.quantile(delays, 0.9, method='lower'):.1f} d,"
        f" {np.isinf(delays).mean():.1%} missed"
    )


@pytest.mark.parametrize("detector", [detect, detect_by_fixed_limit])
def test_time_of_100000_rows_and_40_columns(detector):
    streams = build_streams(1, 8340)
    reference, current = streams[:100_000], streams[100_000:]
    marks = [time.perf_counter()]
    for _ in range(5):
        detector(reference, current, 24)
        marks.append(time.perf_counter())
    times = sorted(b - a for a, b in pairwise(marks))
    print(f"\n{detector.__name__}: 100,000 + 100,160 rows x 40: {times[2]:.2f} s, fastest {times[0]:.2f} s")
