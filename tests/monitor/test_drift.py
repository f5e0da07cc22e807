"""Drift: a budget of false alarms on stationary seasonal streams, and a shift that is found."""

import math
from itertools import pairwise

import numpy as np
import pytest

from tasks.monitor.drift import FALSE_PER_BLOCK, compute_alarms, compute_chance_alarms, fit_whitener

DAYS, REFERENCE_DAYS, N_STREAMS, WEEK = 305, 60, 40, 168


@pytest.fixture(scope="module")
def streams():
    """Hourly: daily and weekly sine, AR(1) with .9 and sd 1; (hours, streams)."""
    rng = np.random.default_rng(29)
    hours = (REFERENCE_DAYS + DAYS) * 24
    noise = np.empty((hours, N_STREAMS))
    noise[0] = rng.normal(size=N_STREAMS)
    shocks = rng.normal(0, np.sqrt(1 - 0.9**2), (hours, N_STREAMS))
    for t in range(1, hours):
        noise[t] = 0.9 * noise[t - 1] + shocks[t]
    clock = np.arange(hours)[:, None]
    return noise + np.sin(2 * np.pi * clock / 24) + 0.5 * np.sin(2 * np.pi * clock / WEEK)


def watched(streams, season_steps=24):
    start = REFERENCE_DAYS * 24
    return compute_alarms(
        fit_whitener(streams[:start], season_steps), streams[start:], start % season_steps, 0.5, 8.0
    )


def test_false_alarms_stay_within_the_budget(streams):
    """A season of a week is unknown to it here: only the day is taken out, and the budget holds
    all the same."""
    alarms = watched(streams)
    per_30_days = np.mean(alarms.first >= 0) / DAYS * 30
    assert per_30_days <= 0.05
    assert int((alarms.first >= 0).sum()) <= compute_chance_alarms(N_STREAMS, alarms.n_blocks)


def test_a_shift_of_one_standard_deviation_is_found_within_ten_days(streams):
    """One standard deviation of the stream, its season included; median delay over those that
    had been silent until then."""
    at = 150
    shifted = streams.copy()
    shifted[(REFERENCE_DAYS + at) * 24 :] += streams.std()
    first = watched(shifted).first
    honest = first[(first < 0) | (first >= at)]
    assert (honest >= 0).mean() == 1.0
    assert np.median(honest - at + 1) <= 10


def test_a_random_walk_is_watched_in_its_changes():
    rng = np.random.default_rng(4)
    walk = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (3000, 30)), axis=0))
    alarms = compute_alarms(fit_whitener(walk[:2000], 1), walk[2000:], 0, 0.5, 8.0)
    assert (alarms.first >= 0).sum() <= compute_chance_alarms(30, alarms.n_blocks)


def test_missing_values_and_a_single_blow_are_no_drift():
    rng = np.random.default_rng(6)
    values = rng.normal(size=(2000, 1))
    values[rng.random((2000, 1)) < 0.2] = np.nan
    values[1500] = 1000.0
    assert compute_alarms(
        fit_whitener(values[:1000], 7), values[1000:], 1000 % 7, 0.5, 8.0
    ).first.tolist() == [-1]


def test_a_stream_without_a_past_is_not_watched():
    values = np.column_stack(
        [np.random.default_rng(1).normal(size=400), np.full(400, np.nan), np.full(400, 3.0)]
    )
    assert compute_alarms(
        fit_whitener(values[:300], 7), values[300:], 300 % 7, 0.5, 8.0
    ).is_watched.tolist() == [True, False, False]


def test_the_cusum_is_that_of_a_slow_twin():
    rng = np.random.default_rng(9)
    reference, current = rng.normal(5, 2, (700, 1)) - 20, rng.normal(6.5, 2, (200, 1)) - 20
    whitener = fit_whitener(reference, 1)
    left = [float(v - whitener.season[0, 0]) for v in current[:, 0]]
    innovations = [float("nan"), *(b - whitener.phi[0] * a for a, b in pairwise(left))]
    up = down = 0.0
    first = -1
    for block in range(len(current) // 5):
        there = [v for v in innovations[5 * block : 5 * block + 5] if not math.isnan(v)]
        z = min(3.0, max(-3.0, (sum(there) / len(there) - whitener.mean[0]) / whitener.sd[0]))
        up, down = max(0.0, up + z - 0.5), max(0.0, down - z - 0.5)
        first = block if first < 0 and max(up, down) > 8 else first
    alarms = compute_alarms(whitener, current, 0, 0.5, 8.0)
    assert first > 0
    assert alarms.first.tolist() == [first]
    assert alarms.statistic[0] == pytest.approx(max(up, down))


def test_alarms_by_luck_follow_the_budget():
    assert compute_chance_alarms(1, 30) == 1
    assert compute_chance_alarms(414, 30) >= 414 * 30 * FALSE_PER_BLOCK
