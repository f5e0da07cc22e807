"""Laws of every combiner, and of each what makes it this one."""

from dataclasses import replace

import numpy as np
import pytest
from members import GATE, aligned_of, context_of, noisy_members, small_members
from panels import small_panel
from scipy.optimize import minimize

from tasks.core.schema import encode_series_id
from tasks.ensemble.combiner import FittedCombiner, compute_shares
from tasks.ensemble.combiners import (
    COMBINERS,
    GreedyCombiner,
    RankCombiner,
    RegimeCombiner,
    SeriesCombiner,
    StackingCombiner,
    StepCombiner,
    WeightedCombiner,
)

every = pytest.mark.parametrize("combiner", COMBINERS, ids=lambda c: c.name)
served = pytest.mark.parametrize(
    "combiner", [c for c in COMBINERS if isinstance(c, FittedCombiner)], ids=lambda c: c.name
)
NOISES = {"last_value": 0.4, "har": 0.5, "ridge": 0.6, "mlp": 0.45, "lightgbm": 0.5}


@pytest.fixture(scope="module")
def panel():
    return small_panel()


@pytest.fixture(scope="module")
def aligned(panel):
    return aligned_of(noisy_members(panel, NOISES), panel)


def run(combiner, aligned, at=(), **changes):
    context = context_of(aligned, at=at, **changes)
    return combiner.run(context, context.errors.refits, range(len(aligned.models)))


@every
def test_equal_members_combine_to_that_member(combiner, panel):
    same = noisy_members(panel, {"har": 0.5})["har"]
    aligned = aligned_of({"har": same}, panel)
    tripled = replace(aligned, models=("a", "b", "c"), z_hat=np.repeat(aligned.z_hat, 3, axis=0))
    np.testing.assert_allclose(run(combiner, tripled), aligned.z_hat[0], atol=1e-9)


@every
def test_the_order_of_members_does_not_matter(combiner, aligned):
    turned = replace(aligned, models=aligned.models[::-1], z_hat=aligned.z_hat[::-1])
    np.testing.assert_allclose(
        run(combiner, aligned),
        run(combiner, turned),
        atol=0.02 if combiner.name == "stacking_trees" else 1e-6,
    )


@every
def test_a_shift_of_everything_shifts_the_combination(combiner, aligned):
    columns = [aligned.panel.schema.index(name) for name in ("z_last", "z_lag_1", "z_mean_5")]
    x = aligned.panel.x.copy()
    x[..., columns] += 4
    moved = replace(aligned, panel=replace(aligned.panel, x=x), z_hat=aligned.z_hat + 4, z=aligned.z + 4)
    np.testing.assert_allclose(run(combiner, moved), run(combiner, aligned) + 4, atol=1e-6)


@every
def test_dropping_later_cutoffs_changes_no_earlier_combination(combiner, aligned):
    """No look-ahead, by truncation: outcomes that a cutoff does not know are as good as not
    there."""
    end = 120
    unknown = aligned.known_k > end
    blind = replace(aligned, z=np.where(unknown, np.nan, aligned.z), y=np.where(unknown, np.nan, aligned.y))
    for one, other in ((aligned, blind), (aligned, _cut(blind, end + 1))):
        context, again = (context_of(a, at=(end,)) for a in (one, other))
        refits = [k for k in context.errors.refits if k <= end]
        again = replace(again, errors=replace(again.errors, refits=tuple(refits)))
        whole, part = (
            combiner.run(g, refits, range(len(aligned.models)))[: end + 1] for g in (context, again)
        )
        np.testing.assert_array_equal(whole, part)


def _cut(aligned, n):
    first = {name: getattr(aligned, name)[:n] for name in ("origins", "y", "z", "scale", "learns")}
    return replace(
        aligned, **first, z_hat=aligned.z_hat[:, :n], known_k=np.minimum(aligned.known_k[:n], n), n_walk=n
    )


@every
def test_every_member_left_out_is_borne_and_nothing_is_made_of_nothing(combiner, aligned):
    z_hat = aligned.z_hat.copy()
    z_hat[2, -20:-10], z_hat[:, -10:] = np.nan, np.nan
    combined = run(combiner, replace(aligned, z_hat=z_hat))
    assert np.isnan(combined[-10:]).all()
    # declared: these say nothing when one that counts is missing
    if combiner.name not in {"stacking", "stacking_trees"}:
        assert np.isfinite(combined[-20:-10]).all()
        assert (combined[-20:-10] <= z_hat[:, -20:-10][[0, 1, 3, 4]].max(axis=0) + 1e-9).all()


@every
def test_nothing_known_is_no_reason_to_say_nothing(combiner, aligned):
    blind = replace(aligned, z=np.full_like(aligned.z, np.nan))
    assert np.isfinite(run(combiner, blind)).all()


@served
def test_weights_sum_to_one_and_only_stacking_has_negative_ones(combiner, aligned):
    context = context_of(aligned)
    combination = combiner.fit(context, aligned.n_walk - 1, range(len(aligned.models)))
    table = np.asarray(combination.table)
    np.testing.assert_allclose(
        table[1:].sum(axis=1) if combination.kind == "ranks" else table.sum(axis=1), 1, atol=1e-9
    )
    assert combiner.name == "stacking" or (table >= 0).all()
    assert compute_shares(combination, aligned.models).sum() == pytest.approx(1)


@every
def test_a_combination_of_independent_errors_errs_less_than_its_best_member(combiner, panel):
    aligned = aligned_of(noisy_members(panel, {"last_value": 0.9, "har": 0.9, "ridge": 0.9}), panel)
    rows = slice(aligned.n_walk // 2, None)
    error = np.nanmean(np.square(run(combiner, aligned) - aligned.z)[rows])
    assert error < np.nanmean(np.square(aligned.z_hat - aligned.z)[:, rows], axis=(1, 2, 3)).min()


def test_the_useless_member_is_pruned_by_all(panel):
    aligned = aligned_of(small_members(panel), panel)
    context = context_of(aligned)
    for combiner in [c for c in COMBINERS if isinstance(c, FittedCombiner)]:
        assert combiner.fit(context, 150 // 20 * 20, range(3)).members == ("har",), combiner.name


def test_weighted_is_the_least_squares_solution_of_another_solver(aligned):
    context = context_of(aligned, shrink_frac=0.0, prune_above_frac=10.0)
    k = aligned.n_walk - 1
    known = aligned.is_known_by(k)
    error = aligned.z_hat[:, known] - aligned.z[known]
    found = minimize(
        lambda w: np.square(w @ error).mean(),
        np.full(5, 0.2),
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        tol=1e-12,
    )
    combination = WeightedCombiner("weighted").fit(context, k, range(5))
    np.testing.assert_allclose(compute_shares(combination, aligned.models), found.x, atol=2e-3)


def test_stacking_without_a_penalty_is_the_least_squares_solution(aligned, monkeypatch):
    monkeypatch.setattr("tasks.ensemble.combiners.PENALTIES", (1e-9,))
    context = context_of(aligned, prune_above_frac=10.0)
    k = aligned.n_walk - 1
    table = np.asarray(StackingCombiner().fit(context, k, range(5)).table)[0]
    for step in range(3):
        known = aligned.is_known_by(k)[..., step]
        z_hat, z = aligned.z_hat[:, known, step], aligned.z[known, step]
        free = np.linalg.lstsq((z_hat[1:] - z_hat[0]).T, z - z_hat[0], rcond=None)[0]
        np.testing.assert_allclose(table[:, step], [1 - free.sum(), *free], atol=1e-6)


def test_greedy_is_the_selection_by_hand(aligned):
    context = context_of(aligned, prune_above_frac=10.0)
    k = aligned.n_walk - 1
    known = aligned.is_known_by(k)
    z_hat, z = aligned.z_hat[:, known], aligned.z[known]
    picked = []
    for _ in range(50):
        tried = [
            np.square((z_hat[picked].sum(axis=0) + z_hat[m]) / (len(picked) + 1) - z).mean() for m in range(5)
        ]
        picked.append(int(np.argmin(tried)))
    np.testing.assert_allclose(
        compute_shares(GreedyCombiner().fit(context, k, range(5)), aligned.models),
        np.bincount(picked, minlength=5) / 50,
    )


def test_median_and_voting_are_those_of_numpy_and_scipy(aligned):
    from scipy.stats import trim_mean

    np.testing.assert_allclose(
        run(RankCombiner("median"), aligned, prune_above_frac=10.0), np.median(aligned.z_hat, axis=0)
    )
    np.testing.assert_allclose(
        run(RankCombiner("voting"), aligned, prune_above_frac=10.0), trim_mean(aligned.z_hat, 0.25, axis=0)
    )


def test_a_step_a_series_and_a_regime_get_the_member_that_is_good_there(panel):
    """Two members, each exact where the other is not; weights of their own find that, one weight
    for all cannot."""
    for combiner, mine in (
        (StepCombiner(), lambda o, s: np.arange(3) == 1),
        (SeriesCombiner(), lambda o, s: np.full(3, s == 1)),
        (RegimeCombiner(), lambda o, s: np.full(3, panel.x[o, s, 0] > 10.6)),
    ):
        good, bad = (noisy_members(panel, {"har": noise})["har"] for noise in (0.0, 3.0))
        members = {
            "last_value": lambda o, s, mine=mine, good=good, bad=bad: np.where(
                mine(o, s), good(o, s), bad(o, s)
            ),
            "har": lambda o, s, mine=mine, good=good, bad=bad: np.where(mine(o, s), bad(o, s), good(o, s)),
        }
        aligned = aligned_of(members, panel)
        error, shared = (
            np.nanmean(np.square(run(c, aligned, prune_above_frac=10.0) - aligned.z)[100:])
            for c in (combiner, WeightedCombiner("weighted"))
        )
        assert error < 0.75 * shared, combiner.name


def test_weights_of_a_series_are_found_by_its_key_and_a_stranger_gets_everybodys(aligned):
    combination = SeriesCombiner().fit(context_of(aligned), aligned.n_walk - 1, range(5))
    assert list(combination.series) == sorted(encode_series_id(s) for s in aligned.panel.series_ids)
    pooled_weights = WeightedCombiner("weighted").fit(context_of(aligned), aligned.n_walk - 1, range(5))
    np.testing.assert_allclose(
        np.asarray(combination.table)[-1], np.asarray(pooled_weights.table)[0], atol=1e-9
    )


def test_recent_weights_turn_to_the_member_that_became_better(panel):
    best = noisy_members(panel, {"a": 0.2, "b": 2.0})
    middle = len(panel.event_time) - GATE - 100
    members = {
        "last_value": lambda o, s: best["a" if o < middle else "b"](o, s),
        "har": lambda o, s: best["b" if o < middle else "a"](o, s),
    }
    aligned = aligned_of(members, panel)
    recent = next(c for c in COMBINERS if c.name == "recent")
    combined = run(recent, aligned, prune_above_frac=50.0, recent_cutoffs=10)[-50:]
    assert np.nanmean(np.abs(combined - aligned.z_hat[1, -50:])) < 0.2 * np.nanmean(
        np.abs(combined - aligned.z_hat[0, -50:])
    )
