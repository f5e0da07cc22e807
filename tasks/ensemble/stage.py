"""The stage: compare the combiners, choose one, fit it as of seen_until, issue its intervals.

Along time: split the cutoffs, score the candidates, choose a combiner on a slice of its own, then
fit it as of seen_until and issue its intervals.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tasks.core.errors import FoldError
from tasks.core.kinds.timeline import IssuedForecasts
from tasks.ensemble.align import AlignedForecasts
from tasks.ensemble.choose import (
    CombinerChoice,
    CutoffSlices,
    build_slices,
    decide_combiner,
    select_shared_outcomes,
)
from tasks.ensemble.combiner import Combiner, CombinerContext, FittedCombiner, compute_shares
from tasks.ensemble.combiners import get_fitted_combiner, list_combiners
from tasks.ensemble.issue import IntervalIssuer, build_issuer
from tasks.ensemble.known import MemberErrors, list_refits
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.report import compute_marginal_contributions
from tasks.release.combine import Combination, build_plain_weights

ENSEMBLE = "ensemble"


class Candidate(NamedTuple):
    """A forecast that can be shipped.

    combination: as of seen_until.
    z_hat: (K, S, H) out of sample.
    issued: what it would have issued.
    loss: (K, S, H) primary loss of the point forecast, NaN where not known.
    """

    name: str
    combination: Combination
    z_hat: np.ndarray
    issued: IssuedForecasts
    loss: np.ndarray


class AssembledEnsemble(NamedTuple):
    """The result of the stage.

    candidates: the ensemble and each member alone.
    shipped, baseline: names.
    weights: by refit, the ensemble's shares (M,).
    contributions: by member, share by which the ensemble's loss on the selection slice is higher
      without it.
    obstacles: by combiner, why no release can compute it.
    """

    candidates: dict[str, Candidate]
    shipped: str
    baseline: str
    choice: CombinerChoice
    slices: CutoffSlices
    weights: dict[int, np.ndarray]
    issuer: IntervalIssuer
    contributions: dict[str, float]
    obstacles: dict[str, str]

    @property
    def scored(self) -> np.ndarray:
        """(K,) cutoffs after the burn-in, up to seen_until."""
        return self.slices.scored

    @property
    def gate(self) -> np.ndarray:
        """(K,) cutoffs after seen_until."""
        return self.slices.gate


class CombinerScorer(NamedTuple):
    """The inputs of the comparison of combiners.

    issuer: makes the points whose losses are compared.
    """

    context: CombinerContext
    slices: CutoffSlices
    issuer: IntervalIssuer

    def score(self, runs: dict[str, tuple[Combiner, list[int] | range]]) -> dict[str, np.ndarray]:
        """(K, S, H) losses of combiners on the selection slice.

        runs: by name, a combiner and the indices of its members. Combiners are fitted along the
          walk up to `fit_until` and unchanged from there.
        """
        context = replace(self.context, aligned=self.context.aligned.select_walk())
        refits = [k for k in context.errors.refits if k <= self.slices.fit_until]
        z_hats = [combiner.run(context, refits, members) for combiner, members in runs.values()]
        points = self.issuer.predict_points(z_hats, self.slices.select)
        return {name: self.issuer.compute_loss(point) for name, point in zip(runs, points, strict=True)}


def build_ensemble(aligned: AlignedForecasts, params: EnsembleParams) -> AssembledEnsemble:
    """Combine the members, compare, and choose what is shipped.

    Raises FoldError when no outcome is known after the burn-in, a member has no forecast, or there
    is no baseline.
    """
    burn_in = min(params.burn_in_cutoffs, aligned.n_walk // 4)
    slices = build_slices(aligned, burn_in, params.select_frac)
    naive = _check_members(aligned, slices, burn_in)
    issuer = build_issuer(aligned, params, burn_in)
    members = _build_members(aligned, issuer)
    scorer = CombinerScorer(_build_context(aligned, params, slices), slices, issuer)
    choice, obstacles = _decide_combiner(scorer, members)
    combiner = get_fitted_combiner(choice.combiner)
    ensemble, weights = _fit_ensemble(scorer, combiner)
    if not choice.ships_ensemble:  # the report is of what is served, intervals included
        best = members[choice.best_member]
        members[choice.best_member] = best._replace(issued=issuer.predict_quantiles(best.z_hat))
    return AssembledEnsemble(
        {ENSEMBLE: ensemble, **members},
        ENSEMBLE if choice.ships_ensemble else choice.best_member,
        _select_baseline(aligned, slices, members, naive),
        choice,
        slices,
        weights,
        issuer,
        _compute_contributions(scorer, combiner),
        obstacles,
    )


def _check_members(aligned: AlignedForecasts, slices: CutoffSlices, burn_in: int) -> list[str]:
    """Names of the baselines.

    Raises FoldError for forecasts that cannot be combined or compared.
    """
    is_missing = ~np.isfinite(aligned.z_hat[:, slices.scored]).any(axis=(1, 2, 3))
    if is_missing.any():
        missing = aligned.models[int(np.argmax(is_missing))]
        raise FoldError(
            f"{missing} has no forecast after the burn-in, so it cannot be combined. Train it again (`dvc"
            f" repro train@{missing}`), or take it off `models`."
        )
    known = aligned.is_known_by(aligned.n_walk - 1) & np.isfinite(aligned.y)
    if not known[slices.scored].any():
        raise FoldError(
            f"No forecast after the burn-in of {burn_in} cutoffs has a known outcome. Raise"
            " `train.n_cutoffs`, or lower `ensemble.burn_in_cutoffs`."
        )
    baselines = aligned.kind.baselines
    naive = [m for m in aligned.models if m in baselines]
    if not naive:
        raise FoldError(
            f"`models` has no baseline; keep one of {', '.join(baselines)} in params.yaml, since a first"
            " model must beat it."
        )
    return naive


def _build_members(aligned: AlignedForecasts, issuer: IntervalIssuer) -> dict[str, Candidate]:
    """Each member alone, with its points."""
    all_cutoffs = np.ones(len(aligned.origins), dtype=bool)
    points = issuer.predict_points(list(aligned.z_hat), all_cutoffs)
    members = {}
    for name, z_hat, point in zip(aligned.models, aligned.z_hat, points, strict=True):
        issued = IssuedForecasts(point[..., None])
        members[name] = Candidate(
            name, build_plain_weights({name: 1.0}), z_hat, issued, issuer.compute_loss(point)
        )
    return members


def _select_baseline(
    aligned: AlignedForecasts, slices: CutoffSlices, members: dict[str, Candidate], naive: list[str]
) -> str:
    """The naive model with the lowest loss on what seen_until knows.

    Models are compared on outcomes that all of them have, where there are some.
    """
    before = slices.scored[:, None, None] & aligned.is_known_by(aligned.n_walk - 1)
    compared, shared = select_shared_outcomes(
        {name: np.where(before, member.loss, np.nan) for name, member in members.items()}
    )
    return min(
        [name for name in naive if name in compared] or naive,
        key=lambda name: compute_mean_loss(members[name].loss, shared if name in compared else before),
    )


def _build_context(
    aligned: AlignedForecasts, params: EnsembleParams, slices: CutoffSlices
) -> CombinerContext:
    refits = list_refits(
        aligned.n_walk, params.reweight_every_cutoffs, [slices.fit_until, aligned.n_walk - 1]
    )
    errors = MemberErrors(aligned, refits, params.newest_frac)
    return CombinerContext(aligned, errors, params, absolute=aligned.kind.is_absolute(aligned.about))


def _decide_combiner(
    scorer: CombinerScorer, members: dict[str, Candidate]
) -> tuple[CombinerChoice, dict[str, str]]:
    """The choice on the selection slice, and why some combiners could not be chosen."""
    aligned = scorer.context.aligned
    combiners = list_combiners(aligned.kind.combiners)
    obstacles = {c.name: reason for c in combiners if (reason := c.find_obstacle(scorer.context))}
    all_members = range(len(aligned.models))
    losses = {name: member.loss for name, member in members.items()}
    losses |= scorer.score({c.name: (c, all_members) for c in combiners})
    known = aligned.is_known_by(aligned.n_walk - 1)
    on_slice = {name: np.where(known, loss, np.nan)[scorer.slices.select] for name, loss in losses.items()}
    servable = tuple(c.name for c in combiners if c.name not in obstacles)
    return decide_combiner(on_slice, aligned.models, servable, scorer.context.params.select_alpha), obstacles


def _fit_ensemble(
    scorer: CombinerScorer, combiner: FittedCombiner
) -> tuple[Candidate, dict[int, np.ndarray]]:
    """The ensemble by *combiner*, fitted again up to seen_until, and its shares at each refit."""
    context, issuer = scorer.context, scorer.issuer
    aligned, refits = context.aligned, context.errors.refits
    all_members = range(len(aligned.models))
    z_hat = combiner.run(context, refits, all_members)
    issued = issuer.predict_quantiles(z_hat)
    fitted = {k: combiner.fit(context, k, all_members) for k in refits}
    ensemble = Candidate(
        ENSEMBLE, fitted[aligned.n_walk - 1], z_hat, issued, issuer.compute_loss(issued.point)
    )
    return ensemble, {k: compute_shares(combination, aligned.models) for k, combination in fitted.items()}


def _compute_contributions(scorer: CombinerScorer, combiner: FittedCombiner) -> dict[str, float]:
    """By member that *combiner* uses: increase of the loss on the selection slice without it."""
    aligned, n_models = scorer.context.aligned, len(scorer.context.aligned.models)
    used = combiner.fit(scorer.context, scorer.slices.fit_until, range(n_models)).members
    subsets = {"": list(range(n_models))} | {
        name: [i for i in range(n_models) if aligned.models[i] != name] for name in used if n_models > 1
    }
    losses = scorer.score({name: (combiner, members) for name, members in subsets.items()})
    known = scorer.slices.select[:, None, None] & aligned.is_known_by(aligned.n_walk - 1)
    return compute_marginal_contributions(
        {name: compute_mean_loss(loss, known) for name, loss in losses.items()}
    )


def compute_mean_loss(loss: np.ndarray, where: np.ndarray) -> float:
    """Mean of the known part of *loss* at *where*; NaN when nothing is known."""
    known = loss[where & np.isfinite(loss)]
    return float(known.mean()) if len(known) else float("nan")
