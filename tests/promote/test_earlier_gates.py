"""The level of a gate whose rows earlier gates have earlier at."""

from contextlib import nullcontext
from datetime import timedelta

import numpy as np
import pytest
from homes import at_home, put_release, small_root
from reports import AS_OF
from scipy.stats import norm
from small_release import small_rows

from tasks.core.cosine import compute_cosine_tests
from tasks.core.reports.promote import GateDecision
from tasks.edges.artifacts import read_report
from tasks.promote.__main__ import main
from tasks.promote.earlier_gates import (
    EarlierGate,
    compute_overlap,
    read_earlier_gates,
    spend_alpha,
    write_gate,
)

N_GATE = 120
CUTOFFS = [AS_OF + timedelta(days=k) for k in range(3 * N_GATE)]


def gate_at(start, n=N_GATE):
    first, last = CUTOFFS[start], CUTOFFS[start + n - 1]
    return EarlierGate(challenger=f"c{start}", opponent="o", rows="r", first_cutoff=first, last_cutoff=last)


@pytest.mark.parametrize("n_gates", [1, 2, 3, 4, 6, 12, 40])
def test_of_evenly_spaced_gates_in_the_time_of_one_any_passes_by_luck_as_often_as_the_level_says(n_gates):
    """Means over windows that share rows, computed from the rows themselves."""
    every = N_GATE // n_gates
    starts = range(0, 2 * N_GATE, every)
    earlier = [gate_at(start) for start in starts if start < N_GATE]
    level = spend_alpha(0.05, compute_overlap(earlier[1:], CUTOFFS[N_GATE : 2 * N_GATE]))
    rng = np.random.default_rng(0)
    sums = np.cumsum(rng.normal(size=(40_000, 2 * n_gates - 1)).astype(np.float32), axis=1)
    sums = np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)
    z = (sums[:, n_gates:] - sums[:, :n_gates]) / np.sqrt(n_gates)
    passed = (z > norm.isf(level)).any(axis=1).mean()
    assert passed < 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(z))
    naive = (z > norm.isf(0.05)).any(axis=1).mean()
    assert n_gates == 1 or naive > 1.5 * 0.05


def test_gates_of_refits_pass_by_luck_less_than_half_as_often_as_at_the_whole_level():
    """Twelve gates, a sixth of the rows new in each; the losses of the refits differ a little."""
    rng = np.random.default_rng(0)
    n_runs, every = 1500, N_GATE // 6
    shared = rng.normal(size=(n_runs, N_GATE + 11 * every))
    passed, naive = np.zeros(n_runs, dtype=bool), np.zeros(n_runs, dtype=bool)
    earlier_gates = []
    for start in range(0, 12 * every, every):
        level = spend_alpha(0.05, compute_overlap(earlier_gates, CUTOFFS[start : start + N_GATE]))
        own = shared[:, start : start + N_GATE] + 0.3 * rng.normal(size=(n_runs, N_GATE))
        p = compute_cosine_tests(own)[1]
        passed, naive = passed | (p <= level), naive | (p <= 0.05)
        earlier_gates.append(gate_at(start))
    assert passed.mean() < naive.mean() / 2
    assert passed.mean() < 3 * 0.05  # a first gate, and the time of two


def test_gates_without_common_rows_have_the_whole_level():
    assert compute_overlap([gate_at(0)], CUTOFFS[N_GATE : 2 * N_GATE]) == 0
    assert spend_alpha(0.05, 0.0) == 0.05


def test_a_gate_is_written_once_and_the_next_gate_at_its_rows_has_less(tmp_path):
    rows = small_rows(500)
    with at_home(tmp_path / "home"):
        root = small_root(tmp_path / "root", rows, challenger={"weights": {"ridge": 1.0}, "model": "better"})
        alphas = []
        for weights in (None, {"last_value": 0.5, "ridge": 0.5}, {"last_value": 1.0}):
            if weights is not None:
                put_release(root, rows, weights=weights, model="other")
            main(root, deliver=nullcontext)
            alphas.append(read_report(root / GateDecision.PATH, GateDecision).alpha)
        earlier_gates = read_earlier_gates("small")
        write_gate("small", earlier_gates[-1])
        assert read_earlier_gates("small") == earlier_gates
    assert alphas == pytest.approx([0.05, 0.05 / 2.648, 0.05 / 3.414], rel=1e-3)
    assert len(earlier_gates) == 3
    reason = read_report(root / GateDecision.PATH, GateDecision).reason
    assert "earlier gates at the same rows have left" in reason
