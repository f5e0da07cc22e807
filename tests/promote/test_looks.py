"""Looks at rows as they come in: the level of each, how often all together are wrong, and power."""

import math
from contextlib import nullcontext
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from gate_runs import LOOKS, draw_losses, run_looks
from homes import PROMOTE, at_home, small_root, write_clean
from reports import gate_decision
from scipy.stats import norm
from small_release import START, small_rows

from tasks.core.reports.promote import GateDecision
from tasks.edges.artifacts import read_report
from tasks.edges.registry import apply_promotion
from tasks.promote.__main__ import main
from tasks.promote.looks import compute_look_level, spend_level


def test_four_even_looks_have_the_levels_of_the_tables():
    """Lan & DeMets' O'Brien-Fleming, one-sided .05: z of 3.750, 2.540, 2.016, 1.720."""
    fractions = [0.25, 0.5, 0.75, 1.0]
    z = [norm.isf(compute_look_level(0.05, fractions[: k + 1])) for k in range(4)]
    assert z == pytest.approx([3.7496, 2.5396, 2.0162, 1.7200], abs=2e-3)


def test_one_look_at_all_rows_has_the_whole_level_and_another_at_the_same_rows_none():
    assert compute_look_level(0.05, [1.0]) == compute_look_level(0.05, [1.7]) == 0.05
    assert compute_look_level(0.05, [1.0, 1.2]) == compute_look_level(0.05, [0.5, 0.5]) == 0
    assert [spend_level(0.05, t) for t in (0, 1, 2)] == [0, 0.05, 0.05]


def test_looks_at_very_few_rows_have_no_level_and_take_none_from_later_ones():
    early = [0.0001, 0.002, 0.003, 0.03, 0.035]
    assert all(compute_look_level(0.05, early[: k + 1]) < 1e-9 for k in range(len(early)))
    assert compute_look_level(0.05, [*early, 1.0]) == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("n_looks", [2, 5, 40])
def test_of_any_number_of_looks_one_passes_by_luck_as_often_as_the_level_says(n_looks):
    """Against a simulation of the sums themselves, at looks that are not evenly spaced."""
    n = np.unique((200 * np.linspace(0.2, 1, n_looks) ** 1.5).astype(int))
    sums = np.cumsum(np.random.default_rng(0).normal(size=(40_000, 200)).astype(np.float32), axis=1)
    crossed = np.zeros(len(sums), dtype=bool)
    for k, m in enumerate(n):
        level = compute_look_level(0.05, (n[: k + 1] / 200).tolist())
        crossed |= sums[:, m - 1] / np.sqrt(m) > norm.isf(level)
    assert crossed.mean() == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / len(sums)))


def test_equal_releases_pass_no_more_often_than_stated_and_a_better_one_passes():
    """500 pairs at rho .7; tests/benchmarks/bench_gate.py prints the whole table."""
    for looks in LOOKS.values():
        passed = run_looks(*draw_losses(500, 0.7), looks) > 0
        assert passed.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)
    better = run_looks(*draw_losses(500, 0.7, gain_frac=0.2), LOOKS["four looks"])
    assert (better > 0).mean() > 0.98
    assert np.mean(better < 246) > 0.9, "most of them before all rows are there"


def test_a_release_that_is_better_by_little_is_promoted_when_more_rows_are_there(tmp_path):
    """At 80 of 150 planned cutoffs p is below .05 and above the level of so early a look."""
    rows, cut = small_rows(500, noise=0.4), {"gate_steps": 154}
    challenger = {"weights": {"last_value": 0.95, "ridge": 0.05}, "model": "slightly better", **cut}
    with at_home(tmp_path / "home"):
        root = small_root(tmp_path / "root", rows, challenger, cut, promote={**PROMOTE, **cut})
        apply_promotion("small", root / "models/release/baseline", gate_decision(as_of=START))
        found = {}
        for day in (430, 490):
            write_clean(root, rows.filter(pl.col("event_time") < START + timedelta(days=day)))
            main(root, deliver=nullcontext)
            found[day] = read_report(root / GateDecision.PATH, GateDecision)
    early, late = found.values()
    assert (early.decision, early.n_cutoffs, early.applied) == ("inconclusive", 80, False)
    assert early.alpha < early.p < 0.05
    assert "before 150 cutoffs are there" in early.reason
    assert (late.decision, late.n_cutoffs, late.applied) == ("promote", 140, True)
    assert late.alpha == pytest.approx(compute_look_level(0.05, [80 / 150, 140 / 150]))
