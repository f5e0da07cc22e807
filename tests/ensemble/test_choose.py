"""Which combiner ships: simple before complex, a margin beyond luck, never worse than the best
member, on a slice of its own."""

from dataclasses import replace

import numpy as np
from members import PARAMS, aligned_of, small_members
from panels import small_panel

from tasks.ensemble.choose import build_slices, decide_combiner

SHIPPABLE = ("mean", "weighted", "stacking")


def losses(seed=0, shape=(100, 2, 3), **means):
    """Independent losses with these means; what is common to all cancels."""
    rng = np.random.default_rng(seed)
    common = rng.gamma(2.0, 1.0, shape)
    return {name: common + mean + 0.1 * rng.normal(size=shape) for name, mean in means.items()}


def choice(alpha=0.05, **means):
    return decide_combiner(losses(**means), ("har", "ridge"), SHIPPABLE, alpha)


def test_the_simplest_is_taken_among_equals():
    assert choice(har=1, ridge=1, mean=0, weighted=0, stacking=0).combiner == "mean"


def test_a_lead_beyond_luck_is_taken():
    made = choice(har=1, ridge=1, mean=0.1, weighted=0.1, stacking=0)
    assert (made.combiner, made.leader, made.ships_ensemble) == ("stacking", "stacking", True)


def test_what_is_worse_than_the_best_member_does_not_count_however_simple():
    made = choice(har=1, ridge=0.1, mean=0.5, weighted=0.02, stacking=0)
    assert made.best_member == "ridge"
    assert made.combiner in {"weighted", "stacking"}
    assert made.losses[made.combiner] <= made.losses["ridge"]


def test_the_best_member_ships_when_it_beats_every_combiner_and_that_is_said():
    made = choice(har=1, ridge=0, mean=0.3, weighted=0.2, stacking=0.25)
    assert not made.ships_ensemble
    assert "ridge is shipped instead of an ensemble" in made.reason


def test_luck_promotes_the_less_simple_combiner_no_more_often_than_asked():
    """Three equal combiners, 400 times: alpha bounds how often one that is not the simplest is
    taken."""
    taken = [
        decide_combiner(
            losses(seed, (60, 1, 1), har=5, mean=0, weighted=0, stacking=0), ("har",), SHIPPABLE, 0.05
        ).combiner
        != "mean"
        for seed in range(400)
    ]
    assert np.mean(taken) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)


def test_few_cutoffs_of_many_series_are_paired_by_series():
    made = decide_combiner(
        losses(0, (2, 80, 4), har=1, mean=0.1, weighted=0.1, stacking=0), ("har",), SHIPPABLE, 0.05
    )
    assert made.combiner == "stacking"
    assert (
        decide_combiner(
            losses(0, (2, 3, 4), har=1, mean=0.1, weighted=0.1, stacking=0), ("har",), SHIPPABLE, 0.05
        ).combiner
        == "mean"
    )


def test_without_outcomes_the_simplest_is_taken_unchecked():
    made = decide_combiner(
        dict.fromkeys(("har", *SHIPPABLE), np.full((3, 2, 1), np.nan)), ("har",), SHIPPABLE, 0.05
    )
    assert (made.combiner, made.ships_ensemble) == ("mean", True)
    assert "unchecked" in made.reason


def test_who_hardly_speaks_is_not_compared_and_stops_nobody():
    of = losses(har=1, ridge=0.5, mean=0.4, weighted=0.4, stacking=0)
    of["stacking"][10:], of["ridge"][:] = np.nan, np.nan
    made = decide_combiner(of, ("har", "ridge"), SHIPPABLE, 0.05)
    assert (made.combiner, made.best_member, made.n) == ("mean", "har", 600)
    assert set(made.losses) == {"har", "mean", "weighted"}


def test_the_slices_do_not_meet_and_the_selection_is_the_newest_with_outcomes():
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel)
    cut = build_slices(aligned, 30, 0.25)
    assert not (cut.select & cut.gate).any()
    assert (cut.select <= cut.scored).all()
    assert cut.select.argmax() == cut.fit_until
    known = aligned.is_known_by(aligned.n_walk - 1).any(axis=(1, 2))
    assert (cut.select & known).sum() == round(0.25 * (cut.scored & known).sum())
    assert not (aligned.is_known_by(cut.fit_until) & cut.select[:, None, None]).any()


def test_a_walk_of_a_few_cutoffs_has_a_selection_slice_with_outcomes():
    panel = small_panel()
    aligned = aligned_of(small_members(panel), panel, stride=3, n_walk=10)
    cut = build_slices(aligned, min(PARAMS.burn_in_cutoffs, aligned.n_walk // 4), 0.25)
    known = aligned.is_known_by(aligned.n_walk - 1)
    assert known[cut.select].any()
    assert (
        not build_slices(replace(aligned, z=np.full_like(aligned.z, np.nan)), 1, 0.25)
        .gate[: aligned.n_walk]
        .any()
    )
