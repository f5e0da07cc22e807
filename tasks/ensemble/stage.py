"""The stage in one screen: combine along the walk, choose a combiner on a slice of its own,
issue intervals, name the best member and baseline.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tasks.core.about import About
from tasks.core.errors import FoldError
from tasks.core.transform import inverse_transform_target
from tasks.ensemble.align import AlignedForecasts
from tasks.ensemble.choose import (
    CombinerChoice,
    CutoffSlices,
    build_slices,
    decide_combiner,
    select_shared_outcomes,
)
from tasks.ensemble.combiner import Combiner, CombinerContext, FittedCombiner, compute_shares
from tasks.ensemble.combiners import COMBINERS
from tasks.ensemble.coverage import build_coverage
from tasks.ensemble.issue import IntervalIssuer, build_issuer
from tasks.ensemble.known import MemberErrors, list_refits
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.report import (
    build_combiner_rows,
    compare_models,
    compute_confidence_set,
    compute_correlation,
    compute_gains,
    compute_gains_by_series,
    compute_marginal_contributions,
    count_overlap,
)
from tasks.forecasters import BASELINES
from tasks.release.combine import Combination, build_plain_weights
from tasks.release.conformal import IssuedForecasts

ENSEMBLE = "ensemble"


class Candidate(NamedTuple):
    """One thing that could be shipped: how it combines as of seen_until, z_hat (K, S, H) out of
    sample, what it would have issued, its losses.
    """

    name: str
    how: Combination
    z_hat: np.ndarray
    issued: IssuedForecasts
    loss: np.ndarray  # (K, S, H) primary loss of the point forecast, NaN where not known


class AssembledEnsemble(NamedTuple):
    """candidates: the ensemble and each member alone. shipped, baseline: names. weights: by refit,
    the ensemble's shares (M,). slices.scored and so on: (K,) bool.

    brings: by member, how much higher the ensemble's loss is without it on the selection slice, as
    a share. unservable: by combiner, why.
    """

    candidates: dict[str, Candidate]
    shipped: str
    baseline: str
    choice: CombinerChoice
    slices: CutoffSlices
    weights: dict[int, np.ndarray]
    issuer: IntervalIssuer
    brings: dict[str, float]
    unservable: dict[str, str]

    @property
    def scored(self) -> np.ndarray:
        """(K,) cutoffs after the burn-in, up to seen_until."""
        return self.slices.scored

    @property
    def gate(self) -> np.ndarray:
        """(K,) cutoffs after seen_until."""
        return self.slices.gate


def build_ensemble(aligned: AlignedForecasts, about: About, params: EnsembleParams) -> AssembledEnsemble:
    """Build the ensemble, compare.

    Raises FoldError when no outcome is known after the burn-in, a member says nothing, or there is
    no baseline.
    """
    burn_in = min(params.burn_in_cutoffs, aligned.n_walk // 4)
    cut = build_slices(aligned, burn_in, params.select_frac)
    naive = _check_members(aligned, cut, burn_in)
    issuer = build_issuer(aligned, about, params, burn_in)
    candidates = _build_members(aligned, about, issuer)
    before = cut.scored[:, None, None] & aligned.is_known_by(aligned.n_walk - 1)
    among, there = select_shared_outcomes(
        {m: np.where(before, c.loss, np.nan) for m, c in candidates.items()}
    )
    baseline = min(
        [m for m in naive if m in among] or naive,
        key=lambda m: _compute_mean(candidates[m].loss, there if m in among else before),
    )
    last = aligned.n_walk - 1
    refits = list_refits(aligned.n_walk, params.reweight_every_cutoffs, [cut.fit_until, last])
    ground = CombinerContext(
        aligned, MemberErrors(aligned, refits, params.newest_frac), params, absolute=about.is_median
    )
    choice, unservable = _decide_combiner(
        ground, cut, issuer, {m: candidates[m].loss for m in aligned.models}
    )
    combiner = next(c for c in COMBINERS if isinstance(c, FittedCombiner) and c.name == choice.combiner)
    every = range(len(aligned.models))
    z_hat = combiner.run(ground, refits, every)
    issued = issuer.whole(z_hat)
    fitted = {k: combiner.fit(ground, k, every) for k in refits}
    ensemble = Candidate(ENSEMBLE, fitted[last], z_hat, issued, issuer.loss(issued.point))
    shipped = ENSEMBLE if choice.ships else choice.best_member
    used = combiner.fit(ground, cut.fit_until, every).members
    return AssembledEnsemble(
        {ENSEMBLE: ensemble, **candidates},
        shipped,
        baseline,
        choice,
        cut,
        {k: compute_shares(how, aligned.models) for k, how in fitted.items()},
        issuer,
        _compute_contributions(ground, cut, issuer, combiner, used),
        unservable,
    )


def _check_members(aligned: AlignedForecasts, cut: CutoffSlices, burn_in: int) -> list[str]:
    """Names of the baselines.

    Raises FoldError for forecasts that cannot be combined or compared.
    """
    if silent := [
        m
        for m, of in zip(aligned.models, aligned.z_hat[:, cut.scored], strict=True)
        if not np.isfinite(of).any()
    ]:
        raise FoldError(
            f"{silent[0]} has no forecast after the burn-in, so it cannot be combined. Train it again (`dvc"
            f" repro train@{silent[0]}`), or take it off `models`."
        )
    if not (
        cut.scored[:, None, None] & aligned.is_known_by(aligned.n_walk - 1) & np.isfinite(aligned.y)
    ).any():
        raise FoldError(
            f"No forecast after the burn-in of {burn_in} cutoffs has a known outcome. Raise"
            " `train.n_cutoffs`, or lower `ensemble.burn_in_cutoffs`."
        )
    naive = [m for m in aligned.models if m in BASELINES]
    if not naive:
        raise FoldError(
            f"`models` has no baseline; keep one of {', '.join(BASELINES)} in params.yaml, since a first"
            " model must beat it."
        )
    return naive


def _build_members(aligned: AlignedForecasts, about: About, issuer: IntervalIssuer) -> dict[str, Candidate]:
    out = {}
    points = issuer.predict_points(list(aligned.z_hat), np.ones(len(aligned.origins), dtype=bool))
    for name, z_hat, point in zip(aligned.models, aligned.z_hat, points, strict=True):
        no_quantiles = np.full((*point.shape, len(about.quantiles)), np.nan)
        out[name] = Candidate(
            name,
            build_plain_weights({name: 1.0}),
            z_hat,
            IssuedForecasts(no_quantiles, point),
            issuer.loss(point),
        )
    return out


def _decide_combiner(
    ground: CombinerContext, cut: CutoffSlices, issuer: IntervalIssuer, members: dict[str, np.ndarray]
) -> tuple[CombinerChoice, dict[str, str]]:
    """The choice on the selection slice, and why some combiners could not be chosen."""
    aligned = ground.aligned
    unservable = {c.name: why for c in COMBINERS if (why := c.unservable(ground))}
    losses = members | _score_combiners(
        ground, cut, issuer, {c.name: (c, range(len(aligned.models))) for c in COMBINERS}
    )
    known = aligned.is_known_by(aligned.n_walk - 1)
    on_slice = {name: np.where(known, loss, np.nan)[cut.select] for name, loss in losses.items()}
    shippable = tuple(c.name for c in COMBINERS if c.name not in unservable)
    return decide_combiner(on_slice, aligned.models, shippable, ground.params.select_alpha), unservable


def _compute_contributions(
    ground: CombinerContext,
    cut: CutoffSlices,
    issuer: IntervalIssuer,
    combiner: FittedCombiner,
    used: tuple[str, ...],
) -> dict[str, float]:
    models = ground.aligned.models
    sets = {"": list(range(len(models)))} | {
        m: [i for i in range(len(models)) if models[i] != m] for m in used if len(models) > 1
    }
    losses = _score_combiners(
        ground, cut, issuer, {name: (combiner, members) for name, members in sets.items()}
    )
    known = cut.select[:, None, None] & ground.aligned.is_known_by(ground.aligned.n_walk - 1)
    return compute_marginal_contributions({name: _compute_mean(loss, known) for name, loss in losses.items()})


def _score_combiners(
    ground: CombinerContext,
    cut: CutoffSlices,
    issuer: IntervalIssuer,
    what: dict[str, tuple[Combiner, list[int] | range]],
) -> dict[str, np.ndarray]:
    """(K, S, H) losses on the selection slice of combiners over members, fitted along the walk
    up to `fit_until` and standing still from there.
    """
    ground, refits = (
        replace(ground, aligned=ground.aligned.select_walk()),
        [k for k in ground.errors.refits if k <= cut.fit_until],
    )
    points = issuer.predict_points(
        [combiner.run(ground, refits, members) for combiner, members in what.values()], cut.select
    )
    return {name: issuer.loss(point) for name, point in zip(what, points, strict=True)}


def _compute_mean(loss: np.ndarray, where: np.ndarray) -> float:
    known = loss[where & np.isfinite(loss)]
    return float(known.mean()) if len(known) else float("nan")


def build_summary(assembled: AssembledEnsemble, aligned: AlignedForecasts, about: About) -> dict[str, Any]:
    """Everything that the reports show, as plain data: scores of every candidate, weights,
    coverage, who is shipped and why.
    """
    scored, gate, chosen = assembled.scored, assembled.gate, assembled.candidates[ENSEMBLE]
    ids, cutoffs = aligned.panel.series_ids, aligned.panel.cutoff.gather(aligned.origins)
    overlap = count_overlap(aligned)
    on, on_gate = (
        select_shared_outcomes(
            {m: np.where(part[:, None, None], c.loss, np.nan) for m, c in assembled.candidates.items()}
        )
        for part in (scored, gate)
    )
    against = "har" if "har" in aligned.models else assembled.baseline
    compared = compare_models(
        chosen.loss[scored], {m: assembled.candidates[m].loss[scored] for m in aligned.models}, overlap
    )
    return {
        "primary_score": about.primary_score,
        "unit": about.target.unit,
        "shipped": assembled.shipped,
        "reason": assembled.choice.reason,
        "baseline": assembled.baseline,
        "best_member": assembled.choice.best_member,
        "combiner": assembled.choice.combiner,
        "group": assembled.issuer.group,
        "n_cutoffs_scored": int(scored.sum()),
        "n_cutoffs_gate": int(gate.sum()),
        "scored_from": cutoffs.gather(np.flatnonzero(scored)[:1]).dt.to_string("%F").to_list(),
        "seen_until": cutoffs[aligned.n_walk - 1].isoformat(),
        "as_of": aligned.panel.cutoff[-1].isoformat(),
        "weights": dict(zip(aligned.models, assembled.weights[aligned.n_walk - 1].tolist(), strict=True)),
        "n_outcomes_shared": int(on[1].sum()),
        "left_out": sorted(set(assembled.candidates) - set(on[0])),
        "scores": {
            name: _build_scores(
                c,
                aligned,
                about,
                ids,
                *(
                    there if name in among else part[:, None, None]
                    for (among, there), part in ((on, scored), (on_gate, gate))
                ),
            )
            for name, c in assembled.candidates.items()
        },
        "comparisons": compared,
        "gains": compute_gains(
            compared,
            {m: _compute_mean(assembled.candidates[m].loss, on[1]) for m in on[0]},
            tuple(m for m in aligned.models if m in on[0]),
        ),
        "gains_by_series": {
            "against": against,
            "series": compute_gains_by_series(
                chosen.loss[scored], assembled.candidates[against].loss[scored], ids, overlap
            ),
        },
        "selection": _build_selection(assembled, aligned),
        "correlation": compute_correlation(
            aligned.models, np.where(scored[:, None, None], aligned.z - aligned.z_hat, np.nan)
        ),
        "brings_frac": assembled.brings,
        "confidence_set": compute_confidence_set(
            {m: c.loss[scored] for m, c in assembled.candidates.items()}, overlap
        ),
        "coverage": build_coverage(chosen.name, chosen.issued, assembled.issuer, scored, gate),
        "weights_over_time": [
            {"cutoff": cutoffs[k].isoformat(), **dict(zip(aligned.models, weights.tolist(), strict=True))}
            for k, weights in assembled.weights.items()
        ],
    }


def _build_selection(assembled: AssembledEnsemble, aligned: AlignedForecasts) -> dict[str, Any]:
    """The slice on which combiners were compared, and how each did there."""
    cutoffs = aligned.panel.cutoff.gather(aligned.origins[np.flatnonzero(assembled.slices.select)])
    return {
        "fit_until": aligned.panel.cutoff[int(aligned.origins[assembled.slices.fit_until])].isoformat(),
        "until": cutoffs[-1].isoformat(),
        "n_cutoffs": len(cutoffs),
        "n_outcomes": assembled.choice.n,
        "members": {
            m: assembled.choice.losses.get(m) if assembled.choice.n else None for m in aligned.models
        },
        "combiners": build_combiner_rows(
            assembled.choice, tuple(c.name for c in COMBINERS), assembled.unservable
        ),
    }


def _build_scores(
    c: Candidate,
    aligned: AlignedForecasts,
    about: About,
    ids: tuple[str, ...],
    scored: np.ndarray,
    gate: np.ndarray,
) -> dict[str, Any]:
    """Means over the outcomes *scored* (primary_gate: over *gate*), which broadcast to (K, S,
    H): those that all compared candidates speak for.
    """
    error, loss = (
        np.where(scored, aligned.y - inverse_transform_target(about.target, c.issued.point), np.nan),
        np.where(scored, c.loss, np.nan),
    )

    def mean(values: np.ndarray) -> float | None:
        known = values[np.isfinite(values)]
        return float(known.mean()) if len(known) else None

    return {
        "primary": mean(loss),
        "primary_gate": mean(np.where(gate, c.loss, np.nan)),
        "mae": mean(np.abs(error)),
        "rmse": (mean(np.square(error)) or 0.0) ** 0.5,
        "n": int(np.isfinite(loss).sum()),
        "by_series": {s: mean(loss[:, i]) for i, s in enumerate(ids)},
        "by_step": [mean(loss[:, :, h]) for h in range(loss.shape[2])],
    }
