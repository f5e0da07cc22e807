"""The stage in one screen: weights over time, intervals over time, the best member and the best baseline, who is shipped."""

from typing import Any, NamedTuple

import numpy as np

from tasks.core.about import About
from tasks.core.cosine import cosine_test
from tasks.core.errors import FoldError
from tasks.core.scores import PRIMARY
from tasks.core.transform import from_z
from tasks.ensemble.align import Aligned
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.weights import combine, weights_over_time
from tasks.forecasters import BASELINES
from tasks.release.conformal import Conformal, Issued, Timeline, functional_of, replay

ENSEMBLE = "ensemble"
LEAST_PAIRED = 8  # cutoffs; a long-run variance of fewer has one or two terms
OWN_POOL_CUTOFFS = 100  # fewer outcomes a series and step cannot carry .1 and .9 quantiles of their own


class Candidate(NamedTuple):
    """One thing that could be shipped: weights (M,) as of seen_until, z_hat (K, S, H) out of sample, what it would have issued, its losses."""

    name: str
    weights: np.ndarray
    z_hat: np.ndarray
    issued: Issued
    loss: np.ndarray  # (K, S, H) primary loss of the point forecast, NaN where not known


class Assembled(NamedTuple):
    """candidates: the ensemble and each member alone. shipped, baseline, best_member: names. scored, gate: (K,) bool."""

    candidates: dict[str, Candidate]
    shipped: str
    baseline: str
    best_member: str
    weights: np.ndarray
    group: str
    n_residuals: int
    scored: np.ndarray
    gate: np.ndarray
    reason: str


def assemble(aligned: Aligned, about: About, params: EnsembleParams) -> Assembled:
    """Build the ensemble, compare. Raises FoldError when no outcome is known after the burn-in."""
    weights = weights_over_time(aligned, params, absolute=about.is_median)
    group, groups, n_residuals = pools(aligned, params)
    burn_in = min(params.burn_in_cutoffs, aligned.n_walk // 4)
    k = np.arange(len(aligned.origins))
    scored, gate = (k >= burn_in) & (k < aligned.n_walk), k >= aligned.n_walk
    candidates = _candidates(weights, aligned, groups, n_residuals, about, params)
    before = scored[:, None, None] & aligned.known_by(aligned.n_walk - 1)
    losses = {
        name: float(np.nanmean(np.where(before, c.loss, np.nan))) if np.isfinite(c.loss[before]).any() else np.nan for name, c in candidates.items()
    }
    if not np.isfinite(losses[ENSEMBLE]):
        raise FoldError(
            f"No forecast after the burn-in of {burn_in} cutoffs has a known outcome. Raise `train.n_cutoffs`, or lower `ensemble.burn_in_cutoffs`."
        )
    best = min(aligned.models, key=lambda m: losses[m])
    naive = [m for m in aligned.models if m in BASELINES]
    if not naive:
        raise FoldError(f"`models` has no baseline; keep one of {', '.join(BASELINES)} in params.yaml, since a first model must beat it.")
    baseline = min(naive, key=lambda m: losses[m])
    shipped, reason = decide_shipped(candidates[ENSEMBLE].loss[gate], candidates[best].loss[gate], best)
    return Assembled(candidates, shipped, baseline, best, weights, group, n_residuals, scored, gate, reason)


def decide_shipped(ensemble_loss: np.ndarray, member_loss: np.ndarray, member: str) -> tuple[str, str]:
    """The ensemble, unless the member that was best before the gate's rows is better on them; with the reason as a sentence."""
    both = np.isfinite(ensemble_loss) & np.isfinite(member_loss)
    if not both.any():
        return ENSEMBLE, f"no outcome in the gate's rows is known yet, so the ensemble is shipped unchecked against {member}"
    mean_ensemble, mean_member = float(ensemble_loss[both].mean()), float(member_loss[both].mean())
    figures = f"on the {int(both.sum())} known outcomes of the gate's rows its mean loss is {mean_ensemble:.5g}, that of {member}, the best member before them, {mean_member:.5g}"
    if mean_ensemble <= mean_member:
        return ENSEMBLE, f"the ensemble is shipped: {figures}"
    return member, f"{member} is shipped instead of the ensemble: {figures}"


def pools(aligned: Aligned, params: EnsembleParams) -> tuple[str, np.ndarray, int]:
    """Whose residuals a series' intervals come from: `series` when each has enough outcomes, else `all` with a pool that holds several cutoffs of everybody."""
    n_series = len(aligned.panel.series_ids)
    known = (np.isfinite(aligned.z[: aligned.n_walk]) & np.isfinite(aligned.scale[: aligned.n_walk, :, None])).sum(axis=0)
    if known.size and known.min() >= OWN_POOL_CUTOFFS:
        return "series", np.arange(n_series), params.residuals
    return "all", np.zeros(n_series, dtype=np.int64), min(10 * n_series + params.residuals, 5000)


def _candidates(
    weights: np.ndarray, aligned: Aligned, groups: np.ndarray, n_residuals: int, about: About, params: EnsembleParams
) -> dict[str, Candidate]:
    n_groups, steps = int(groups.max()) + 1, aligned.panel.schema.horizon_steps
    functional, transform = functional_of(about), about.target.transform
    z_hat = combine(aligned, weights)
    full = replay(aligned.timeline(z_hat, groups), Conformal(n_groups, steps, about.quantiles, n_residuals, params.adapt_rate), functional, transform)
    # Members side by side as if they were further series: one walk over time instead of one for each.
    n_members = len(aligned.models)
    beside = Timeline(
        np.concatenate(list(aligned.z_hat), axis=1), np.tile(aligned.scale, n_members), np.tile(aligned.z, (1, n_members, 1)),
        np.tile(aligned.known_k, (1, n_members, 1)), aligned.learns, np.concatenate([groups + i * n_groups for i in range(n_members)]),
    )  # fmt: skip
    state = Conformal(n_members * n_groups, steps, about.quantiles, n_residuals, params.adapt_rate)
    points = np.split(replay(beside, state, functional, transform, only_points=True).point, n_members, axis=1)
    out = {ENSEMBLE: Candidate(ENSEMBLE, weights[aligned.n_walk - 1], z_hat, full, _losses(full.point, aligned, about))}
    for i, (name, point) in enumerate(zip(aligned.models, points, strict=True)):
        no_quantiles = np.full((*point.shape, len(about.quantiles)), np.nan)
        out[name] = Candidate(name, np.eye(n_members)[i], aligned.z_hat[i], Issued(no_quantiles, point), _losses(point, aligned, about))
    return out


def _losses(point: np.ndarray, aligned: Aligned, about: About) -> np.ndarray:
    y_hat = from_z(about.target, point)
    there = np.isfinite(y_hat) & np.isfinite(aligned.y)
    loss = np.full(y_hat.shape, np.nan)
    loss[there] = PRIMARY[about.primary_score](aligned.y[there], y_hat[there])
    return loss


def summary(assembled: Assembled, aligned: Aligned, about: About) -> dict[str, Any]:
    """Everything that the reports show, as plain data: scores of every candidate, weights, coverage, who is shipped and why."""
    scored, gate, chosen = assembled.scored, assembled.gate, assembled.candidates[ENSEMBLE]
    ids, cutoffs = aligned.panel.series_ids, aligned.panel.cutoff.gather(aligned.origins)
    years = cutoffs.dt.year().to_numpy()
    return {
        "primary_score": about.primary_score,
        "unit": about.target.unit,
        "shipped": assembled.shipped,
        "reason": assembled.reason,
        "baseline": assembled.baseline,
        "best_member": assembled.best_member,
        "group": assembled.group,
        "n_cutoffs_scored": int(scored.sum()),
        "n_cutoffs_gate": int(gate.sum()),
        "scored_from": cutoffs.gather(np.flatnonzero(scored)[:1]).dt.to_string("%F").to_list(),
        "seen_until": cutoffs[aligned.n_walk - 1].isoformat(),
        "as_of": aligned.panel.cutoff[-1].isoformat(),
        "weights": dict(zip(aligned.models, chosen.weights.tolist(), strict=True)),
        "scores": {name: _scores(c, aligned, about, ids, scored, gate) for name, c in assembled.candidates.items()},
        "comparisons": _comparisons(assembled),
        "coverage": _coverage(chosen, aligned, about, ids, years, scored, gate),
        "weights_over_time": [
            {"cutoff": cutoffs[int(k)].isoformat(), **dict(zip(aligned.models, assembled.weights[k].tolist(), strict=True))}
            for k in np.flatnonzero(np.any(np.diff(assembled.weights, axis=0, prepend=np.nan) != 0, axis=1))
        ],
    }


def _scores(c: Candidate, aligned: Aligned, about: About, ids: tuple[str, ...], scored: np.ndarray, gate: np.ndarray) -> dict[str, Any]:
    error = aligned.y - from_z(about.target, c.issued.point)

    def mean(values: np.ndarray) -> float | None:
        known = values[np.isfinite(values)]
        return float(known.mean()) if len(known) else None

    return {
        "primary": mean(c.loss[scored]),
        "primary_gate": mean(c.loss[gate]),
        "mae": mean(np.abs(error[scored])),
        "rmse": (mean(np.square(error[scored])) or 0.0) ** 0.5,
        "by_series": {s: mean(c.loss[scored, i]) for i, s in enumerate(ids)},
        "by_step": [mean(c.loss[scored, :, h]) for h in range(c.loss.shape[2])],
    }


def _comparisons(assembled: Assembled) -> dict[str, dict[str, float]]:
    """How much lower the ensemble's mean loss is than each member's (gain_frac), and the one-sided p that it is not lower at all."""
    ours = assembled.candidates[ENSEMBLE].loss[assembled.scored]
    out = {}
    for name, candidate in assembled.candidates.items():
        theirs = candidate.loss[assembled.scored]
        both = np.isfinite(ours) & np.isfinite(theirs)
        n = both.sum(axis=(1, 2))
        if name == ENSEMBLE or (n > 0).sum() < LEAST_PAIRED:
            continue
        mean_ours, mean_theirs = (np.where(both, loss, 0.0).sum(axis=(1, 2))[n > 0] / n[n > 0] for loss in (ours, theirs))
        gain = 1.0 - float(mean_ours.mean() / mean_theirs.mean()) if mean_theirs.mean() > 0 else 0.0
        out[name] = {"gain_frac": gain, "p": cosine_test(mean_theirs - mean_ours).p, "n_cutoffs": int((n > 0).sum())}
    return out


def _coverage(
    c: Candidate, aligned: Aligned, about: About, ids: tuple[str, ...], years: np.ndarray, scored: np.ndarray, gate: np.ndarray
) -> dict[str, Any]:
    low, high = c.issued.quantiles[..., 0], c.issued.quantiles[..., -1]
    known = np.isfinite(aligned.z) & np.isfinite(low)
    inside = (aligned.z >= low) & (aligned.z <= high)

    def share(rows: np.ndarray) -> float | None:
        here = known & rows
        return float(inside[here].mean()) if here.any() else None

    on = scored[:, None, None]
    steps = np.arange(low.shape[2])
    return {
        "level": about.quantiles[-1] - about.quantiles[0],
        "overall": share(on),
        "gate": share(gate[:, None, None]),
        "by_step": [share(on & (steps == h)) for h in steps],
        "by_series": {s: share(on & (np.arange(len(ids)) == i)[None, :, None]) for i, s in enumerate(ids)},
        # The gate's rows are out of sample too, so the last year is whole.
        "by_year": {
            str(year): part
            for year in np.unique(years[scored | gate])
            if (part := share(((scored | gate) & (years == year))[:, None, None])) is not None
        },
    }
