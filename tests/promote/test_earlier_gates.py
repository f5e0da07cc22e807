"""The level of a gate whose rows earlier gates have earlier at."""

from contextlib import nullcontext
from datetime import timedelta

import numpy as np
import pytest
from homes import at_home, put_release, small_root
from reports import AS_OF
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
def test_evenly_spaced_looks_spend_no_more_than_the_level_in_the_time_of_one_gate(n_gates):
    every = N_GATE // n_gates
    earlier_gates, spent = [], []
    for start in range(0, 2 * N_GATE + 1, every):
        cutoffs = CUTOFFS[start : start + N_GATE]
        spent.append(spend_alpha(0.05, compute_overlap(earlier_gates, cutoffs)))
        earlier_gates.append(gate_at(start))
    steady = spent[n_gates:]
    assert all(sum(steady[i : i + n_gates]) <= 0.05 + 1e-12 for i in range(len(steady) - n_gates + 1))
    assert spent[0] == 0.05


def test_looks_at_the_same_rows_spend_less_than_two_levels_however_many_come():
    spent = [spend_alpha(0.05, compute_overlap([gate_at(0)] * k, CUTOFFS[:N_GATE])) for k in range(60)]
    assert sum(spent) < np.pi**2 / 6 * 0.05
    assert compute_overlap([gate_at(0)], CUTOFFS[N_GATE : 2 * N_GATE]) == 0


def test_equal_releases_pass_one_of_many_overlapping_gates_no_more_often_than_the_level_says():
    """Twelve gates, each with a challenger of its own and a sixth of the rows new."""
    rng = np.random.default_rng(0)
    n_runs, every = 1500, N_GATE // 6
    shared = rng.normal(size=(n_runs, N_GATE + 11 * every))
    passed, naive = np.zeros(n_runs, dtype=bool), np.zeros(n_runs, dtype=bool)
    earlier_gates, spent = [], []
    for start in range(0, 12 * every, every):
        level = spend_alpha(0.05, compute_overlap(earlier_gates, CUTOFFS[start : start + N_GATE]))
        own = shared[:, start : start + N_GATE] + rng.normal(size=(n_runs, N_GATE))
        p = compute_cosine_tests(own)[1]
        passed, naive = passed | (p <= level), naive | (p <= 0.05)
        earlier_gates.append(gate_at(start))
        spent.append(level)
    assert naive.mean() > 0.2
    assert sum(spent) < 3 * 0.05  # a first gate, and the time of two gates
    assert passed.mean() < sum(spent) + 3 * np.sqrt(0.15 / n_runs)


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
    assert alphas == pytest.approx([0.05, 0.05 / 4, 0.05 / 9])
    assert len(earlier_gates) == 3
    reason = read_report(root / GateDecision.PATH, GateDecision).reason
    assert "earlier gates at the same rows have left" in reason
