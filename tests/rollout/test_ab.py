"""The rule of A/B tests: how often it stops equal releases, how soon the better one wins."""

import numpy as np
import pytest
from gate_runs import draw_losses
from pydantic import ValidationError

from tasks.core.reports.rollout import RolloutComparison
from tasks.core.rollout import RolloutEvidence, RolloutParams
from tasks.rollout.decide import Guardrails, decide_move
from tasks.rollout.evidence import PairedLosses, build_evidence, compare_losses, compute_bets

PARAMS = RolloutParams(steps_frac=(0.5, 1), rule="ab", min_outcomes=20, max_steps=120)
HORIZON, N_BEFORE = 5, 126
LIKELY = RolloutComparison(better_probability=0.98, gain_low_frac=0.01, gain_high_frac=0.2)
NOTHING = RolloutEvidence(n_cutoffs=30, n_blocks=6, gain_frac=0.0, better=1.0, worse=1.0)


def run_test(challenger, opponent):
    """(action, cutoffs until then, whether before the end) of a test that is judged each day."""
    before = (challenger[:N_BEFORE], opponent[:N_BEFORE])
    for n in range(5, PARAMS.max_steps + 1, 5):  # bets change where a block ends
        live = slice(N_BEFORE, N_BEFORE + n)
        losses = PairedLosses(challenger[live], opponent[live], *before)
        evidence = build_evidence(losses, compute_bets(losses, HORIZON, 0.0))
        comparison = compare_losses(losses) if n == PARAMS.max_steps else None
        move = decide_move(PARAMS, 0, evidence, n, Guardrails(), comparison=comparison)
        if move.action != "wait":
            return move.action, n, "time is over" not in move.reason
    raise AssertionError("it ends")


def run_tests(n_tests, rho, gain_frac):
    """Shares: stopped early for either side, won early or at the end; cutoffs (median)."""
    drawn = draw_losses(n_tests, rho, gain_frac)
    runs = [run_test(*pair) for pair in zip(*drawn, strict=True)]
    return {
        "stopped early": np.mean([early for _, _, early in runs]),
        "lost early": np.mean([early and action == "back" for action, _, early in runs]),
        "won": np.mean([action == "promote" for action, _, _ in runs]),
        "cutoffs": int(np.median([n for _, n, _ in runs])),
    }


def test_equal_releases_are_rarely_stopped_and_a_better_one_wins_early():
    assert run_tests(60, 0.5, 0.0)["stopped early"] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)
    better = run_tests(20, 0.5, 0.4)
    assert better["won"] == 1
    assert better["cutoffs"] < 100


@pytest.mark.chaos
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 0.7])
def test_equal_releases_are_stopped_no_more_often_than_stated_over_500_tests(rho):
    figures = run_tests(500, rho, 0.0)
    print(f"\nrho {rho}: {figures}")
    assert figures["stopped early"] <= 0.05


@pytest.mark.bench
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 0.7])
def test_the_table_is_printed(rho):
    for gain_frac in (-0.2, -0.1, 0.0, 0.05, 0.1, 0.2, 0.4):
        print(f"\nrho {rho}, gain {gain_frac:.0%}: {run_tests(200, rho, gain_frac)}", end="")


@pytest.mark.parametrize(
    ("change", "guardrails", "comparison", "action"),
    [
        ({}, Guardrails(), LIKELY, "wait"),
        ({"better": 39.0}, Guardrails(), LIKELY, "wait"),
        ({"better": 40.0}, Guardrails(), None, "promote"),
        ({"better": 99.0, "n_cutoffs": 19}, Guardrails(), None, "wait"),
        ({"worse": 39.0}, Guardrails(), None, "wait"),
        ({"worse": 40.0}, Guardrails(), None, "back"),
        ({"worse": 99.0, "n_cutoffs": 19}, Guardrails(), None, "wait"),
        ({"better": 99.0}, Guardrails(n_errors=4), None, "back"),
        ({"n_cutoffs": 19}, Guardrails(latency_ratio=9.0), None, "back"),
        ({"n_cutoffs": 120}, Guardrails(), LIKELY, "promote"),
        ({"n_cutoffs": 120}, Guardrails(), LIKELY.model_copy(update={"better_probability": 0.97}), "back"),
        ({"n_cutoffs": 120}, Guardrails(), None, "back"),
    ],
)
def test_each_fact_has_its_move(change, guardrails, comparison, action):
    evidence = NOTHING.model_copy(update=change)
    move = decide_move(PARAMS, 0, evidence, 9, guardrails, comparison=comparison)
    assert move.action == action, move.reason


def test_an_ab_test_has_one_share():
    assert PARAMS.bet_alpha == 0.025
    for steps in ((), (0.1, 0.5, 1)):
        with pytest.raises(ValidationError, match="an A/B test has one share"):
            RolloutParams(steps_frac=steps, rule="ab")
