"""The tests of a rollout: how often they are wrong, how soon they are right, and what follows."""

from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.core.rollout import RolloutEvidence, RolloutParams, is_assigned
from tasks.rollout.decide import Guardrails, compute_threshold, decide_move
from tasks.rollout.evidence import MAX_BLOCKS, PairedLosses, build_evidence, compare_losses, compute_bets

PARAMS = RolloutParams(steps_frac=(0.1, 0.25, 0.5, 1), max_steps=250)
HORIZON, N_BEFORE, N_LIVE = 5, 120, 250
NOTHING = RolloutEvidence(n_cutoffs=10, n_blocks=2, gain_frac=0.0, better=1.0, worse=1.0)


def find_evidence(losses, horizon_steps, margin_frac):
    return build_evidence(losses, compute_bets(losses, horizon_steps, margin_frac))


def draw_losses(n_runs, rho, bias=0.0, seed=0):
    """(champion, challenger), each (n_runs, time): AR(1) around 1.

    bias: in sd of the difference."""
    rng = np.random.default_rng(seed)
    n_times = N_BEFORE + N_LIVE
    noise = rng.normal(size=(2, n_runs, n_times))
    for t in range(1, n_times):
        noise[:, :, t] = rho * noise[:, :, t - 1] + np.sqrt(1 - rho**2) * noise[:, :, t]
    champion, challenger = 1 + 0.2 * noise
    challenger[:, N_BEFORE:] += bias * 0.2 * np.sqrt(2)
    return champion, challenger


def run_rollout(champion, challenger, params=PARAMS):
    """(last action, cutoffs until then) of one rollout that is judged after each outcome."""
    before, step, moved = (challenger[:N_BEFORE], champion[:N_BEFORE]), 0, 0
    for n in range(N_LIVE + 1):
        live = slice(N_BEFORE, N_BEFORE + n)
        evidence = find_evidence(
            PairedLosses(challenger[live], champion[live], *before), HORIZON, params.margin_frac
        )
        move = decide_move(params, step, evidence, n - moved, Guardrails())
        if move.action in {"promote", "back"}:
            return ("undecided" if "neither" in move.reason else move.action), n
        if move.action == "advance":
            step, moved = step + 1, n
    return "promote", N_LIVE  # its bet has reached 1 / alpha; the last steps follow


def run_all(n_runs, rho, bias=0.0, params=PARAMS):
    champion, challenger = draw_losses(n_runs, rho, bias)
    return [run_rollout(*pair, params) for pair in zip(champion, challenger, strict=True)]


def count_frac(runs, action):
    return sum(found == action for found, _ in runs) / len(runs)


def test_equal_releases_rarely_go_back_as_worse_and_rarely_take_over():
    runs = run_all(40, rho=0.7)
    assert max(count_frac(runs, "back"), count_frac(runs, "promote")) <= 0.125  # .05 + 2 sd of 40 draws


@pytest.mark.chaos
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 0.7])
def test_equal_releases_keep_the_level_over_500_rollouts(rho):
    runs = run_all(500, rho)
    figures = {action: count_frac(runs, action) for action in ("back", "promote", "undecided")}
    print(f"\nrho {rho}: {figures}")
    assert figures["back"] <= 0.05
    assert figures["promote"] <= 0.05


def test_a_challenger_that_is_clearly_worse_goes_back_after_eight_blocks_at_most():
    runs = run_all(40, 0.5, bias=5.0)
    assert {action for action, _ in runs} == {"back"}
    assert max(n for _, n in runs) <= 8 * HORIZON


@pytest.mark.bench
@pytest.mark.parametrize("margin_frac", [0.0, 0.05])
@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_power_is_printed(rho, margin_frac):
    params = PARAMS.model_copy(update={"margin_frac": margin_frac})
    print(f"\nrho {rho}, margin {margin_frac}: bias in sd: back, promoted, median cutoffs of each")
    for bias in (-2, -1, -0.5, 0, 0.5, 1, 2, 5):
        runs = run_all(200, rho, bias, params)
        medians = {
            action: int(np.median([n for found, n in runs if found == action] or [0]))
            for action in ("back", "promote")
        }
        print(f"{bias:5}: {count_frac(runs, 'back'):.2f} {count_frac(runs, 'promote'):.2f} {medians}")


def test_the_bet_is_the_mean_of_products():
    """By hand: the champion's sd is 1, the difference's 2, so x = 1 / (2.5 sqrt 2); two blocks."""
    losses = PairedLosses(np.full(14, 1.0), np.full(14, 2.0), np.array([0.0, 2.0]), np.array([2.0, 0.0]))
    found = find_evidence(losses, HORIZON, 0.0)
    bets = [k / 20 for k in range(1, 20)]
    assert found.n_blocks == 2
    assert found.better == pytest.approx(sum((1 + b / (2.5 * 2**0.5)) ** 2 for b in bets) / 19)
    assert found.worse == 1.0  # before the first block
    assert found.gain_frac == pytest.approx(0.5)


def test_a_margin_helps_the_challenger_and_never_hides_that_it_is_worse():
    champion, challenger = (part[0] for part in draw_losses(1, 0.5, bias=0.3))
    losses = PairedLosses(
        challenger[N_BEFORE:], champion[N_BEFORE:], challenger[:N_BEFORE], champion[:N_BEFORE]
    )
    strict, lenient = (find_evidence(losses, HORIZON, margin) for margin in (0.0, 0.2))
    assert lenient.better > strict.better
    assert lenient.worse == strict.worse


def test_the_posterior_holds_the_true_gain_as_often_as_it_says():
    """The truth is 10 % in each of 300 draws; an equal challenger is better in half of them."""
    rng = np.random.default_rng(2)
    champion = 1 + 0.2 * rng.normal(size=(300, 60))
    noise = 0.2 * rng.normal(size=(300, 60))
    held, equal = 0, []
    for ours, more in zip(champion, noise, strict=True):
        nothing = np.zeros(2)
        found = compare_losses(PairedLosses(ours - 0.1 + more, ours, nothing, nothing))
        held += found.gain_low_frac <= 0.1 <= found.gain_high_frac
        equal.append(compare_losses(PairedLosses(ours + more, ours, nothing, nothing)).better_probability)
    assert held / 300 == pytest.approx(0.9, abs=0.05)
    assert np.quantile(equal, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.09)
    assert compare_losses(PairedLosses(*[np.ones(7)] * 4)) is None


def test_without_a_cutoff_nothing_is_claimed():
    found = find_evidence(PairedLosses(*[np.array([])] * 4), HORIZON, 0.0)
    assert (found.n_cutoffs, found.gain_frac, found.better, found.worse) == (0, None, 1.0, 1.0)


def test_blocks_beyond_the_measured_ones_do_not_count():
    steps = HORIZON * (MAX_BLOCKS + 20)
    found = find_evidence(PairedLosses(np.ones(steps), np.ones(steps), np.ones(3), np.ones(3)), HORIZON, 0.0)
    assert (found.n_blocks, found.better, found.worse) == (MAX_BLOCKS, 1.0, 1.0)


def test_assignments_are_sticky_as_large_as_the_weight_and_another_rollouts_are_others():
    keys = [f"series {k}" for k in range(4000)]
    at = {weight: {k for k in keys if is_assigned(k, "a", weight)} for weight in (0, 0.1, 0.25, 0.5, 1)}
    weights = sorted(at)
    assert all(at[low] <= at[high] for low, high in pairwise(weights))
    assert all(len(at[weight]) == pytest.approx(weight * 4000, abs=130) for weight in weights)
    assert (at[0], len(at[1])) == (set(), 4000)
    both = at[0.5] & {k for k in keys if is_assigned(k, "b", 0.5)}
    assert len(both) == pytest.approx(1000, abs=130)


@pytest.mark.parametrize(
    ("change", "guardrails", "n_since_move", "is_paused", "action"),
    [
        ({}, Guardrails(), 9, False, "wait"),
        ({"better": 3.0}, Guardrails(), 9, False, "advance"),
        ({"better": 3.0}, Guardrails(), 4, False, "wait"),
        ({"better": 3.0}, Guardrails(), 9, True, "wait"),
        ({"better": 99.0, "worse": 20.0}, Guardrails(), 9, False, "back"),
        ({"worse": 20.0}, Guardrails(), 0, True, "back"),
        ({"better": 99.0}, Guardrails(n_errors=4), 9, False, "back"),
        ({"better": 99.0}, Guardrails(n_errors=3), 9, False, "advance"),
        ({"better": 99.0}, Guardrails(latency_ratio=3.1), 9, False, "back"),
        ({"n_cutoffs": 250}, Guardrails(), 9, False, "back"),
        ({"n_cutoffs": 250, "better": 3.0}, Guardrails(), 9, False, "back"),
        ({"n_cutoffs": 250, "better": 20.0}, Guardrails(), 9, False, "advance"),
        ({"n_cutoffs": 260, "better": 1.0}, Guardrails(), 9, True, "wait"),
    ],
)
def test_each_fact_has_its_move(change, guardrails, n_since_move, is_paused, action):
    evidence = NOTHING.model_copy(update=change)
    move = decide_move(PARAMS, 0, evidence, n_since_move, guardrails, is_paused=is_paused)
    assert move.action == action, move.reason


def test_the_last_step_asks_for_all_of_the_level():
    thresholds = [compute_threshold(PARAMS, step) for step in (1, 2, 3)]
    assert thresholds == pytest.approx([2.71, 7.37, 20], abs=0.01)
    for better, action in ((19.9, "wait"), (20.1, "promote")):
        evidence = NOTHING.model_copy(update={"better": better})
        assert decide_move(PARAMS, 2, evidence, 9, Guardrails()).action == action


@pytest.mark.parametrize("steps", [[1], [0.5, 0.25, 1], [0.1, 0.5], [0.1, 1.2], [-0.1, 1]])
def test_steps_that_do_not_end_at_all_series_are_refused(steps):
    with pytest.raises(ValidationError):
        RolloutParams(steps_frac=steps)
