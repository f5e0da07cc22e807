"""Drift: a budget of false alarms on stationary seasonal streams, and a shift that is found."""

import math
from itertools import pairwise

import numpy as np
import pytest
from seasonal_streams import WEEK, build_streams, compute_alarms, measure_alarms

from tasks.monitor.budget import count_chance_alarms, summarize_chance_alarms
from tasks.monitor.drift import find_block_steps, find_season_steps, fit_detector
from tasks.monitor.signals import LEVEL

BUDGET = 0.05
HOURLY = BUDGET / 720


def detect(reference, current, season_steps, budget=HOURLY):
    detector = fit_detector(reference, season_steps, 24, 0.5, budget)
    assert np.isfinite(detector.limit).all()
    first = find_first(detector, current, len(reference))
    return np.where(first < 0, -1, (first + 1) * detector.block_steps - 1)


def find_first(detector, current, first_row):
    """The first block in which any detector of each stream alarms, -1 for none."""
    first = compute_alarms(detector, current, first_row).first
    first = np.where(first < 0, np.iinfo(int).max, first).min(axis=0)
    return np.where(first == np.iinfo(int).max, -1, first)


def fit_daily(reference, season_steps, budget=BUDGET / 30):
    return fit_detector(reference, season_steps, 1, 0.5, budget)


@pytest.mark.parametrize(
    ("reference_days", "season_steps", "days"),
    [(60, 24, 7), (60, WEEK, 7), (120, WEEK, 7), (30, WEEK, 9), (21, WEEK, 12)],
)
def test_the_budget_holds_and_a_shift_of_one_standard_deviation_is_found(reference_days, season_steps, days):
    """40 streams and 305 days, four times. The first knows nothing of the week that is in the data;
    references of 30 and 21 days hold less than 20 weeks, so that their blocks are days."""
    rates, delays = zip(
        *(measure_alarms(detect, seed, reference_days, season_steps, 150) for seed in range(29, 33)),
        strict=True,
    )
    assert np.mean(rates) <= BUDGET
    assert np.median(np.concatenate(delays)) <= days


def test_a_smaller_budget_gives_fewer_alarms():
    rates = [
        np.mean([measure_alarms(lambda *a, b=b: detect(*a, b / 720), s, 60, 24, 150)[0] for s in (29, 30)])
        for b in (0.5, 0.05, 0.005)
    ]
    assert rates[0] > rates[1] > rates[2]
    assert rates[2] <= 0.01


def test_the_limit_is_each_streams_own():
    """Of a stream whose block means keep a season that is not taken out, it is higher."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(90 * 24, 2))
    wave = np.repeat(np.sin(2 * np.pi * np.arange(90) / 30), 24)
    noise[:, 1] += 0.4 * wave
    calm, wavy = fit_detector(noise, 24, 24, 0.5, HOURLY).limit[LEVEL]
    assert wavy > 1.5 * calm


def test_streams_that_move_together_alarm_together_by_chance():
    one = np.random.default_rng(8).normal(size=(60 * 24, 1))
    own = np.random.default_rng(8).normal(size=(60 * 24, 30))
    (mean, together), (_, apart) = (
        summarize_chance_alarms(count_chance_alarms(*_parts(values), 60))
        for values in (np.repeat(one, 30, axis=1), own)
    )
    assert (together, apart < 8) == (30, True)
    assert 0 < mean < 3
    assert summarize_chance_alarms(count_chance_alarms(*_parts(own), 0)) == (0.0, 0)


def test_alarms_open_by_chance_do_not_grow_with_time():
    """So a champion of two years is not deaf to drift."""
    streams = build_streams(5, 60)
    detector = fit_detector(streams, 24, 24, 0.5, HOURLY)
    year, years = (
        summarize_chance_alarms(count_chance_alarms(detector.scaled, detector.limit, 0.5, n_blocks))[1]
        for n_blocks in (200, 700)
    )
    assert years <= year + 2 <= 12


def test_an_alarm_ends_when_the_values_are_as_before():
    streams = build_streams(5, 60 + 200)
    start, n_shifted = 60 * 24, 40 * 24
    streams[start : start + n_shifted] += 2 * streams.std()
    detector = fit_detector(build_streams(5, 60), 24, 24, 0.5, HOURLY)
    during = compute_alarms(detector, streams[start : start + n_shifted], start)
    after = compute_alarms(detector, streams[start:], start)
    assert (during.opened[LEVEL] >= 0).all()
    assert (after.opened[LEVEL] >= 0).mean() < 0.2
    assert (after.first[LEVEL] == during.first[LEVEL]).all()
    assert (during.since[LEVEL] < 12).all()


def _parts(values):
    detector = fit_detector(values, 24, 24, 0.5, HOURLY)
    return detector.scaled, detector.limit, 0.5


@pytest.mark.parametrize(
    ("n_steps", "season_steps", "day_steps", "block_steps", "shown_steps"),
    [
        (1440, 24, 24, 24, 24),
        (1440, WEEK, 24, 24, WEEK),
        (500, WEEK, 24, 24, 24),
        (240, 24, 24, 12, 24),
        (50, 24, 24, 2, 1),
        (1000, 7, 1, 7, 7),
        (100, 7, 1, 1, 7),
        (730, 365, 1, 5, 1),
        (2000, 365, 1, 73, 365),
        (300, 1, 1, 5, 1),
        (3, 7, 1, 1, 1),
        (9000, 10, 24, 10, 10),
    ],
)
def test_block_and_season_fit_into_the_reference(n_steps, season_steps, day_steps, block_steps, shown_steps):
    assert find_block_steps(n_steps, season_steps, day_steps) == block_steps
    assert find_season_steps(n_steps, season_steps, day_steps) == shown_steps


def test_a_random_walk_is_watched_in_its_changes():
    rng = np.random.default_rng(4)
    walk = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (3000, 30)), axis=0))
    detector = fit_daily(walk[:2000], 1)
    alarms = compute_alarms(detector, walk[2000:], 0)
    n_open = count_chance_alarms(detector.scaled, detector.limit, 0.5, alarms.n_blocks)
    _, by_luck = summarize_chance_alarms(n_open)
    assert (alarms.opened >= 0).any(axis=0).sum() <= by_luck


def test_missing_values_and_a_single_blow_are_no_drift():
    rng = np.random.default_rng(6)
    values = rng.normal(size=(2000, 1))
    values[rng.random((2000, 1)) < 0.2] = np.nan
    values[1500] = 1000.0
    rare = fit_daily(values[:1000], 7, 0.001 / 30)
    assert find_first(rare, values[1000:], 1000).tolist() == [-1]


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf, 1e9, -1e9])
@pytest.mark.parametrize("position", [5, 700, 1003])
def test_one_bad_value_switches_no_detector_off_and_is_no_drift(fault, position):
    """In the reference or since: a shift of half a standard deviation is found as without it."""
    values = np.random.default_rng(6).normal(size=(2000, 1))
    values[position] = fault
    budget = 0.001 / 30
    assert find_first(fit_daily(values[:1000], 7, budget), values[1000:], 1000).tolist() == [-1]
    values[1500:] += 0.5
    detector = fit_daily(values[:1000], 7, budget)
    assert detector.limit[LEVEL, 0] < 15
    assert 500 // 7 <= compute_alarms(detector, values[1000:], 1000).first[LEVEL, 0] < 600 // 7


def test_a_constant_is_watched_and_alarms_when_it_is_another():
    values = np.full((400, 3), 3.0)
    values[350:, 1] = 3.01
    values[:, 2] = 0.0
    values[395, 2] = 1.0  # in one block alone
    first = find_first(fit_daily(values[:300], 7), values[300:], 300)
    assert first[0] == first[2] == -1
    assert 50 // 7 <= first[1] <= 50 // 7 + 2


def test_values_that_fall_below_zero_drift_although_they_were_watched_in_logs():
    values = np.exp(np.random.default_rng(2).normal(size=(600, 1)))
    values[500:] *= -1
    assert compute_alarms(fit_daily(values[:400], 7), values[400:], 400).first[LEVEL, 0] >= 100 // 7


def test_a_stream_without_a_past_is_not_watched():
    values = np.column_stack([np.random.default_rng(1).normal(size=400), np.full(400, np.nan)])
    values = np.column_stack([values, np.where(np.arange(400) < 250, np.nan, values[:, 0])])
    assert np.isfinite(fit_daily(values[:300], 7).limit).tolist() == [[True, False, False]] * 5
    assert not np.isfinite(fit_daily(values[:0], 7).limit).any()


def test_the_cusum_is_that_of_a_slow_twin():
    rng = np.random.default_rng(9)
    reference, current = rng.normal(5, 2, (700, 1)) - 20, rng.normal(6.5, 2, (200, 1)) - 20
    detector = fit_daily(reference, 1)
    (mean, sd), limit = (part[LEVEL, 0] for part in detector.scaled[:2]), detector.limit[LEVEL, 0]
    left = [float(v - detector.whitening.season[0, 0]) for v in current[:, 0]]
    innovations = [float("nan"), *(b - detector.whitening.phi[0] * a for a, b in pairwise(left))]
    up = down = 0.0
    first = -1
    for block in range(len(current) // 5):
        there = [v for v in innovations[5 * block : 5 * block + 5] if not math.isnan(v)]
        z = min(3.0, max(-3.0, (sum(there) / len(there) - mean) / sd))
        held = limit + 3
        up, down = min(held, max(0.0, up + z - 0.5)), min(held, max(0.0, down - z - 0.5))
        first = block if first < 0 and max(up, down) > limit else first
    alarms = compute_alarms(detector, current, 0)
    assert first > 0
    assert alarms.first[LEVEL].tolist() == [first]
    assert alarms.statistic[LEVEL, 0] == pytest.approx(max(up, down))


def test_the_same_streams_give_the_same_limits():
    streams = build_streams(1, 60, 5)
    assert fit_detector(streams, 24, 24, 0.5, HOURLY).limit.tolist() == (
        fit_detector(streams, 24, 24, 0.5, HOURLY).limit.tolist()
    )
