"""The season of rows without times: evidence at a lag and its multiples, and none by chance."""

import numpy as np
import pytest

from tasks.ingest.wizard.inspect.season import find_season

SEEDS = range(20)


def seasons_of(n_steps, make):
    """The season found in a series of each seed."""
    steps = np.arange(n_steps)
    drawn = (np.random.default_rng(seed) for seed in SEEDS)
    return [find_season([make(rng, steps)], None, "continuous")[0] for rng in drawn]


def walk(rng, steps):
    return rng.normal(size=len(steps)).cumsum()


def autoregressive(rng, steps):
    values = rng.normal(size=len(steps))
    for i in range(1, len(steps)):
        values[i] += 0.8 * values[i - 1]
    return values


NO_SEASON = {"noise": lambda rng, steps: rng.normal(size=len(steps)), "walk": walk, "ar": autoregressive}


@pytest.mark.parametrize("n_steps", [200, 600, 2000])
@pytest.mark.parametrize("kind", NO_SEASON)
def test_no_season_is_found_by_chance(kind, n_steps):
    assert seasons_of(n_steps, NO_SEASON[kind]) == [1] * len(SEEDS)


@pytest.mark.parametrize("noise", [0.5, 1.0])
@pytest.mark.parametrize("n_steps", [600, 2000])
def test_a_wave_with_noise_is_found(n_steps, noise):
    def make(rng, steps):
        return np.sin(2 * np.pi * steps / 24) + rng.normal(0, noise, len(steps))

    assert seasons_of(n_steps, make) == [24] * len(SEEDS)


@pytest.mark.parametrize(("season", "noise"), [(7, 0.7), (12, 0.7), (24, 1.0)])
def test_a_shape_that_repeats_on_a_walk_is_found(season, noise):
    def make(rng, steps):
        shape = np.resize(rng.normal(size=season), len(steps))
        return shape + rng.normal(0, noise, len(steps)) + 0.1 * walk(rng, steps)

    assert seasons_of(600, make) == [season] * len(SEEDS)
