"""The cosine test: by hand, against a slow twin, and its size and power by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from tasks.core.cosine import compute_cosine_test, compute_cosine_tests


def test_cosine_test_of_two_values_by_hand():
    """Differences 0 and 2: one weight, coefficient -sqrt 2, variance 2, standard error 1, so t =
    1 with one degree of freedom: p = 1/4."""
    found = compute_cosine_test(np.array([0.0, 2.0]))
    assert (found.t, found.p, found.n_terms) == (pytest.approx(1.0), pytest.approx(0.25), 1)


def test_cosine_test_agrees_with_a_slow_twin():
    values = np.random.default_rng(3).normal(0.2, 1, size=150).tolist()
    n, mean = len(values), sum(values) / len(values)
    n_terms = int(0.41 * n ** (2 / 3))
    total = 0.0
    for j in range(1, n_terms + 1):
        coefficient = sum(
            math.sqrt(2 / n) * math.cos(math.pi * j * (i + 0.5) / n) * (v - mean)
            for i, v in enumerate(values)
        )
        total += coefficient**2
    t = mean / math.sqrt(total / n_terms / n)
    found = compute_cosine_test(np.array(values))
    assert found.n_terms == n_terms
    assert found.t == pytest.approx(t, rel=1e-9)
    assert found.p == pytest.approx(stats.t.sf(t, n_terms), rel=1e-9)


@pytest.mark.parametrize(("level", "p"), [(1.0, 0.0), (0.0, 1.0), (-1.0, 1.0)])
def test_differences_without_spread_are_decided_by_their_sign(level, p):
    assert compute_cosine_test(np.full(80, level)).p == p


@pytest.mark.parametrize(("rho", "size", "power"), [(0.0, 0.051, 0.84), (0.5, 0.063, 0.52)])
def test_cosine_test_keeps_its_level_and_its_power(rho, size, power):
    """Shares measured before with 4,000 pairs of 60 days (findings, 5): equal models, and one
    better by .4 sd.

    Three standard errors of room.
    """
    equal = autoregressive(np.random.default_rng(11), 4000, 60, rho)
    assert np.mean(compute_cosine_tests(equal)[1] <= 0.05) == pytest.approx(
        size, abs=3 * math.sqrt(2 * size * (1 - size) / 4000)
    )
    assert np.mean(compute_cosine_tests(equal + 0.4)[1] <= 0.05) == pytest.approx(
        power, abs=3 * math.sqrt(2 * power * (1 - power) / 4000)
    )


def autoregressive(rng, n_pairs, n, rho):
    """(n_pairs, n) AR(1) with sd 1."""
    out = np.empty((n_pairs, n))
    out[:, 0] = rng.normal(size=n_pairs)
    for t in range(1, n):
        out[:, t] = rho * out[:, t - 1] + math.sqrt(1 - rho**2) * rng.normal(size=n_pairs)
    return out
