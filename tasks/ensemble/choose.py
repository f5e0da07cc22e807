"""Which combiner ships, if any: the simplest that nothing beats beyond luck, on a slice that none
of them saw, and not worse there than its best member.

    | burn-in | fit slice: known by the cutoff `fit_until`  | selection slice | gate's rows |
    first                                                   ^                 ^ seen_until

Combiners are fitted as of `fit_until` and stand still over the selection slice; whatever was not
known by then is purged from their fit. The gate's rows choose nothing: what is chosen is fitted
again as of seen_until and tested there by `promote`, once.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tasks.core.cosine import compute_cosine_test
from tasks.ensemble.align import AlignedForecasts

LEAST_PAIRED = 8  # pairs; a long-run variance of fewer has one or two terms


class CutoffSlices(NamedTuple):
    """scored, select, gate: (K,) bool; the first holds the second. fit_until: index of the
    cutoff as of which combiners are compared.
    """

    scored: np.ndarray
    select: np.ndarray
    gate: np.ndarray
    fit_until: int


class CombinerChoice(NamedTuple):
    """combiner: the one that makes the ensemble. ships: whether it does, or its best member. p:
    by combiner, that the leader's lead over it is luck.
    """

    combiner: str
    leader: str
    ships: bool
    best_member: str
    losses: dict[str, float]
    p: dict[str, float]
    n: int
    reason: str


def build_slices(aligned: AlignedForecasts, burn_in: int, select_frac: float) -> CutoffSlices:
    """The selection slice is the newest *select_frac* of the scored cutoffs of which seen_until
    knows an outcome, and what follows.
    """
    k = np.arange(len(aligned.origins))
    scored, gate = (k >= burn_in) & (k < aligned.n_walk), k >= aligned.n_walk
    told = np.flatnonzero(scored & aligned.is_known_by(aligned.n_walk - 1).any(axis=(1, 2)))
    fit_until = int(told[-max(1, round(select_frac * len(told)))]) if len(told) else burn_in
    return CutoffSlices(scored, scored & (k >= fit_until), gate, fit_until)


def decide_combiner(
    losses: dict[str, np.ndarray], members: tuple[str, ...], shippable: tuple[str, ...], alpha: float
) -> CombinerChoice:
    """Choose by losses (k, S, H) on the selection slice, NaN where unknown, of *members* and of
    combiners, *shippable* from the simplest on.

    Whoever speaks for less than half of the outcomes is left out of the comparison. Where no
    outcome is known the simplest is taken, unchecked.
    """
    compared, there = select_shared_outcomes(losses)
    losses = {name: losses[name] for name in compared}
    members, shippable = (tuple(name for name in names if name in losses) for names in (members, shippable))
    n = int(there.sum())
    means = {name: float(loss[there].mean()) if n else float("nan") for name, loss in losses.items()}
    best = min(members, key=lambda m: means[m])
    if not n:
        reason = (
            f"no outcome of the selection slice is known yet, so the ensemble by {shippable[0]}, the simplest"
            " combiner, is shipped unchecked"
        )
        return CombinerChoice(
            shippable[0],
            shippable[0],
            ships=True,
            best_member=members[0],
            losses=means,
            p={},
            n=0,
            reason=reason,
        )
    good = tuple(name for name in shippable if means[name] <= means[best])
    among = good or shippable
    leader = min(among, key=lambda name: means[name])
    p = {name: compute_lead_p(losses[leader], losses[name], there) for name in shippable if name != leader}
    level = alpha / max(1, len(among) - 1)
    chosen = next(name for name in among if name == leader or p[name] > level)
    return CombinerChoice(
        chosen,
        leader,
        bool(good),
        best,
        means,
        p,
        n,
        _format_reason(means, chosen, leader, best, n, level, p, ships=bool(good)),
    )


def select_shared_outcomes(losses: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    """Who is compared, and on which outcomes (k, S, H): those that all of them speak for.

    Who speaks for less than half of the outcomes is left out.
    """
    spoken = {name: int(np.isfinite(loss).sum()) for name, loss in losses.items()}
    compared = tuple(name for name in losses if 2 * spoken[name] >= max(spoken.values()))
    return compared, np.logical_and.reduce([np.isfinite(losses[name]) for name in compared])


def compute_lead_p(ours: np.ndarray, theirs: np.ndarray, there: np.ndarray) -> float:
    """One-sided p that *ours* (k, S, H) is not lower than *theirs*, where *there*: paired by
    cutoff, by series where there are few cutoffs; 1 where both are few.
    """
    gap = np.where(there, theirs, 0.0) - np.where(there, ours, 0.0)
    for axes in ((1, 2), (0, 2)):
        n = there.sum(axis=axes)
        if (n > 0).sum() >= LEAST_PAIRED:
            return compute_cosine_test(gap.sum(axis=axes)[n > 0] / n[n > 0]).p
    return 1.0


def _format_reason(
    means: dict[str, float],
    chosen: str,
    leader: str,
    best: str,
    n: int,
    level: float,
    p: dict[str, float],
    *,
    ships: bool,
) -> str:
    where = f"on the {n} outcomes of the selection slice, which no combiner had seen,"
    member = f"that of {best}, the best member there, {means[best]:.5g}"
    if not ships:
        return (
            f"{best} is shipped instead of an ensemble: {where} the least mean loss of a combiner, {leader},"
            f" is {means[leader]:.5g}, {member}"
        )
    said = f"the ensemble by {chosen} is shipped: {where} its mean loss is {means[chosen]:.5g}, {member}"
    if chosen == leader:
        return said
    return (
        f"{said}; {leader} has {means[leader]:.5g}, but that lead may be luck (p = {p[chosen]:.2g},"
        f" {level:.2g} was asked), and {chosen} is simpler"
    )
