"""Which combiner is shipped, if any.

It is the simplest that no other beats significantly on a slice that none of them was fitted on, and
that is not worse there than the best member.

    | burn-in | fit slice: known by the cutoff `fit_until`  | selection slice | gate's rows |
    first                                                   ^                 ^ seen_until

Combiners are fitted as of `fit_until` and do not change over the selection slice; outcomes that
were not known by then are purged from their fit. The gate's rows are used for no choice: what is
chosen is fitted again as of seen_until and tested there by `promote`, once.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tasks.core.cosine import compute_cosine_test
from tasks.ensemble.align import AlignedForecasts

MIN_PAIRS = 8  # pairs; a long-run variance of fewer has one or two terms


class CutoffSlices(NamedTuple):
    """The parts of the timeline.

    scored, select, gate: (K,) bool; `select` is a part of `scored`.
    fit_until: index of the cutoff as of which combiners are compared.
    """

    scored: np.ndarray
    select: np.ndarray
    gate: np.ndarray
    fit_until: int


class CombinerChoice(NamedTuple):
    """The result of the comparison.

    combiner: the one that makes the ensemble.
    leader: the one with the lowest mean loss.
    ships_ensemble: False where the best member is shipped instead.
    losses: mean loss by name, on the n outcomes of the selection slice.
    p: by combiner, that the leader's lead over it is luck.
    """

    combiner: str
    leader: str
    ships_ensemble: bool
    best_member: str
    losses: dict[str, float]
    p: dict[str, float]
    n: int
    reason: str


def build_slices(aligned: AlignedForecasts, burn_in: int, select_frac: float) -> CutoffSlices:
    """Split the cutoffs into those that are scored, those of the selection slice, and the gate's.

    The selection slice is the newest *select_frac* of the scored cutoffs of which seen_until knows
    an outcome, and what follows.
    """
    k = np.arange(len(aligned.origins))
    scored, gate = (k >= burn_in) & (k < aligned.n_walk), k >= aligned.n_walk
    known_cutoffs = np.flatnonzero(scored & aligned.is_known_by(aligned.n_walk - 1).any(axis=(1, 2)))
    fit_until = (
        int(known_cutoffs[-max(1, round(select_frac * len(known_cutoffs)))])
        if len(known_cutoffs)
        else burn_in
    )
    return CutoffSlices(scored, scored & (k >= fit_until), gate, fit_until)


def decide_combiner(
    losses: dict[str, np.ndarray], members: tuple[str, ...], shippable: tuple[str, ...], alpha: float
) -> CombinerChoice:
    """Choose a combiner by the losses on the selection slice.

    losses: (k, S, H) by name, NaN where unknown, of *members* and of combiners.
    shippable: combiners that a release can compute, the simplest first.
    A candidate with less than half of the outcomes is left out of the comparison. Where no outcome
    is known the simplest combiner is taken, unchecked.
    """
    compared, is_shared = select_shared_outcomes(losses)
    losses = {name: losses[name] for name in compared}
    members, shippable = (tuple(name for name in names if name in losses) for names in (members, shippable))
    n = int(is_shared.sum())
    mean_losses = {
        name: float(loss[is_shared].mean()) if n else float("nan") for name, loss in losses.items()
    }
    best = min(members, key=lambda m: mean_losses[m])
    if not n:
        reason = (
            f"no outcome of the selection slice is known yet, so the ensemble by {shippable[0]}, the simplest"
            " combiner, is shipped unchecked"
        )
        return CombinerChoice(
            shippable[0],
            shippable[0],
            ships_ensemble=True,
            best_member=members[0],
            losses=mean_losses,
            p={},
            n=0,
            reason=reason,
        )
    not_worse = tuple(name for name in shippable if mean_losses[name] <= mean_losses[best])
    eligible = not_worse or shippable
    leader = min(eligible, key=lambda name: mean_losses[name])
    p = {
        name: compute_lead_p(losses[leader], losses[name], is_shared) for name in shippable if name != leader
    }
    max_p = alpha / max(1, len(eligible) - 1)
    chosen = next(name for name in eligible if name == leader or p[name] > max_p)
    return CombinerChoice(
        chosen,
        leader,
        bool(not_worse),
        best,
        mean_losses,
        p,
        n,
        _format_reason(mean_losses, chosen, leader, best, n, max_p, p, ships_ensemble=bool(not_worse)),
    )


def select_shared_outcomes(losses: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    """Candidates that are compared, and the outcomes (k, S, H) that all of them have forecasts of.

    A candidate with less than half of the outcomes is left out.
    """
    n_known = {name: int(np.isfinite(loss).sum()) for name, loss in losses.items()}
    compared = tuple(name for name in losses if 2 * n_known[name] >= max(n_known.values()))
    return compared, np.logical_and.reduce([np.isfinite(losses[name]) for name in compared])


def compute_lead_p(leader_losses: np.ndarray, other_losses: np.ndarray, is_shared: np.ndarray) -> float:
    """One-sided p that the leader's losses are not lower than the other's, on the shared outcomes.

    leader_losses, other_losses, is_shared: (k, S, H).
    Losses are paired by cutoff, or by series where there are few cutoffs; p is 1 where both are
    few.
    """
    difference = np.where(is_shared, other_losses, 0.0) - np.where(is_shared, leader_losses, 0.0)
    for axes in ((1, 2), (0, 2)):
        n = is_shared.sum(axis=axes)
        if (n > 0).sum() >= MIN_PAIRS:
            return compute_cosine_test(difference.sum(axis=axes)[n > 0] / n[n > 0]).p
    return 1.0


def _format_reason(
    mean_losses: dict[str, float],
    chosen: str,
    leader: str,
    best: str,
    n: int,
    max_p: float,
    p: dict[str, float],
    *,
    ships_ensemble: bool,
) -> str:
    where = f"on the {n} outcomes of the selection slice, which no combiner had seen,"
    member = f"that of {best}, the best member there, {mean_losses[best]:.5g}"
    if not ships_ensemble:
        return (
            f"{best} is shipped instead of an ensemble: {where} the least mean loss of a combiner, {leader},"
            f" is {mean_losses[leader]:.5g}, {member}"
        )
    message = (
        f"the ensemble by {chosen} is shipped: {where} its mean loss is {mean_losses[chosen]:.5g}, {member}"
    )
    if chosen == leader:
        return message
    return (
        f"{message}; {leader} has {mean_losses[leader]:.5g}, but that lead may be luck (p = {p[chosen]:.2g},"
        f" at most {max_p:.2g} is required), and {chosen} is simpler"
    )
