"""The report, and the frames behind it.

Scores of every candidate, weights, coverage, and what is shipped and why.
"""

from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.kinds import get_forecast_schema
from tasks.core.reports.ensemble import CandidateScores, EnsembleReport, SelectionSlice, SeriesGains
from tasks.edges.artifacts import write_frame
from tasks.ensemble.align import AlignedForecasts
from tasks.ensemble.choose import select_shared_outcomes
from tasks.ensemble.coverage import build_coverage
from tasks.ensemble.issue import build_issued_frame
from tasks.ensemble.report import (
    build_combiner_rows,
    compare_models,
    compute_confidence_set,
    compute_correlation,
    compute_gains,
    compute_gains_by_series,
    count_overlap,
)
from tasks.ensemble.stage import ENSEMBLE, AssembledEnsemble, Candidate, compute_mean_loss


def build_summary(assembled: AssembledEnsemble, aligned: AlignedForecasts) -> EnsembleReport:
    """All figures of the ensemble that pages show."""
    about, choice, scored = aligned.about, assembled.choice, assembled.scored
    candidates, ensemble = assembled.candidates, assembled.candidates[ENSEMBLE]
    cutoffs, overlap = aligned.panel.cutoff.gather(aligned.origins), count_overlap(aligned)
    losses = {name: candidate.loss[scored] for name, candidate in candidates.items()}
    compared, shared = _select_shared(assembled, scored)
    comparisons = compare_models(ensemble.loss[scored], {m: losses[m] for m in aligned.models}, overlap)
    means = {name: compute_mean_loss(candidates[name].loss, shared) for name in compared}
    against = "har" if "har" in aligned.models else assembled.baseline
    ids = aligned.panel.series_ids
    by_series = compute_gains_by_series(ensemble.loss[scored], losses[against], ids, overlap)
    error = aligned.kind.compute_member_error(aligned.z, aligned.z_hat)
    error = np.where(scored[:, None, None], error, np.nan)
    return EnsembleReport(
        primary_score=about.primary_score,
        unit=about.target.unit,
        shipped=assembled.shipped,
        reason=choice.reason,
        baseline=assembled.baseline,
        best_member=choice.best_member,
        combiner=choice.combiner,
        group=assembled.issuer.group,
        n_cutoffs_scored=int(scored.sum()),
        n_cutoffs_gate=int(assembled.gate.sum()),
        scored_from=tuple(cutoffs.gather(np.flatnonzero(scored)[:1]).dt.to_string("%F")),
        seen_until=cutoffs[aligned.n_walk - 1],
        as_of=aligned.panel.cutoff[-1],
        weights=dict(zip(aligned.models, assembled.weights[aligned.n_walk - 1].tolist(), strict=True)),
        n_outcomes_shared=int(shared.sum()),
        left_out=tuple(sorted(set(candidates) - set(compared))),
        scores=_build_scores(assembled, aligned),
        comparisons=comparisons,
        gains=compute_gains(comparisons, means, tuple(m for m in aligned.models if m in compared)),
        gains_by_series=SeriesGains(against=against, series=by_series),
        selection=_build_selection(assembled, aligned),
        correlation=compute_correlation(aligned.models, error),
        contribution_frac=assembled.contributions,
        confidence_set=compute_confidence_set(losses, overlap),
        coverage=build_coverage(
            assembled.shipped,
            candidates[assembled.shipped].issued,
            assembled.issuer,
            scored,
            assembled.gate,
        ),
        weights_over_time=tuple(
            {"cutoff": cutoffs[k].isoformat(), **dict(zip(aligned.models, shares.tolist(), strict=True))}
            for k, shares in assembled.weights.items()
        ),
    )


def _select_shared(assembled: AssembledEnsemble, cutoffs: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Which candidates are compared over the *cutoffs* (K,), and on which outcomes (K, S, H)."""
    return select_shared_outcomes(
        {
            name: np.where(cutoffs[:, None, None], candidate.loss, np.nan)
            for name, candidate in assembled.candidates.items()
        }
    )


def _build_selection(assembled: AssembledEnsemble, aligned: AlignedForecasts) -> SelectionSlice:
    """The slice on which combiners were compared, and the loss of each there."""
    choice, slices = assembled.choice, assembled.slices
    cutoffs = aligned.panel.cutoff.gather(aligned.origins[np.flatnonzero(slices.select)])
    return SelectionSlice(
        fit_until=aligned.panel.cutoff[int(aligned.origins[slices.fit_until])],
        last_cutoff=cutoffs[-1],
        n_cutoffs=len(cutoffs),
        n_outcomes=choice.n,
        members={m: choice.losses.get(m) if choice.n else None for m in aligned.models},
        combiners=build_combiner_rows(choice, aligned.kind.combiners, assembled.obstacles),
    )


def _build_scores(assembled: AssembledEnsemble, aligned: AlignedForecasts) -> dict[str, CandidateScores]:
    """Scores of each candidate, over the outcomes that all compared ones have forecasts of.

    A candidate that is not compared is scored over its own outcomes.
    """
    parts = [(cutoffs, _select_shared(assembled, cutoffs)) for cutoffs in (assembled.scored, assembled.gate)]
    return {
        name: _score_candidate(
            candidate,
            aligned,
            *(shared if name in compared else part[:, None, None] for part, (compared, shared) in parts),
        )
        for name, candidate in assembled.candidates.items()
    }


def _score_candidate(
    candidate: Candidate, aligned: AlignedForecasts, scored: np.ndarray, gate: np.ndarray
) -> CandidateScores:
    """Means over the outcomes *scored*, primary_gate over *gate*; both broadcast to (K, S, H)."""
    about, kind = aligned.about, aligned.kind
    point = kind.decode(about.target, candidate.issued.point)
    error = np.where(scored, kind.compute_error(about, aligned.y, point), np.nan)
    loss = np.where(scored, candidate.loss, np.nan)

    def mean(values: np.ndarray) -> float | None:
        known = values[np.isfinite(values)]
        return float(known.mean()) if len(known) else None

    return CandidateScores(
        primary=mean(loss),
        primary_gate=mean(np.where(gate, candidate.loss, np.nan)),
        mae=mean(np.abs(error)),
        rmse=(mean(np.square(error)) or 0.0) ** 0.5,
        n=int(np.isfinite(loss).sum()),
        by_series={s: mean(loss[:, i]) for i, s in enumerate(aligned.panel.series_ids)},
        by_step=tuple(mean(loss[:, :, h]) for h in range(loss.shape[2])),
    )


def write_frames(folder: Path, assembled: AssembledEnsemble, aligned: AlignedForecasts) -> None:
    """forecast.parquet and gate.parquet of what ships, losses.parquet of all candidates."""
    issued = assembled.candidates[assembled.shipped].issued
    for name, cutoffs in (("forecast", assembled.scored), ("gate", assembled.gate)):
        frame = build_issued_frame(assembled.shipped, issued, aligned, cutoffs)
        write_frame(folder / f"{name}.parquet", frame, get_forecast_schema(aligned.about))
    losses = build_loss_frame(assembled.candidates, aligned, assembled.scored | assembled.gate)
    losses.write_parquet(folder / "losses.parquet")


def build_loss_frame(
    candidates: dict[str, Candidate], aligned: AlignedForecasts, cutoffs: np.ndarray
) -> pl.DataFrame:
    """Mean primary loss of each candidate at the *cutoffs* (K,): model, series_id, cutoff, loss."""
    k, ids = np.flatnonzero(cutoffs), list(aligned.panel.series_ids)
    parts = []
    for name, candidate in candidates.items():
        loss = candidate.loss[k]
        n = np.isfinite(loss).sum(axis=2)
        mean = np.where(n > 0, np.nansum(loss, axis=2) / np.maximum(n, 1), np.nan)
        parts.append(
            pl.DataFrame(
                {
                    "model": [name] * mean.size,
                    "series_id": ids * len(k),
                    "cutoff": aligned.panel.cutoff.gather(np.repeat(aligned.origins[k], len(ids))),
                    "loss": mean.ravel(),
                }
            )
        )
    return pl.concat(parts).filter(pl.col("loss").is_not_nan())
