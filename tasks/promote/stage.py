"""Compare the challenger with the champion.

Where there is no champion yet, the opponent is the best naive baseline.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl

from tasks.core.reports.promote import GateVerdict, JudgedModels, Verdict
from tasks.promote.earlier_gates import EarlierGate
from tasks.promote.gate import LOSSES, GateResult, run_gate
from tasks.promote.guardrails import find_guardrail_fault
from tasks.promote.params import PromoteParams
from tasks.release import Release


class PromotionVerdict(NamedTuple):
    """What the gate decided, and the losses behind it (empty when nothing was compared)."""

    verdict: GateVerdict
    losses: pl.DataFrame


def decide_promotion(
    challenger: Release,
    champion: Release | None,
    baseline: Release,
    rows: pl.DataFrame,
    params: PromoteParams,
    earlier_gates: Sequence[EarlierGate] = (),
    taken_back: Mapping[str, datetime] | None = None,
) -> PromotionVerdict:
    """Decide which release serves from now on.

    earlier_gates: each leaves less of the level for those that share its rows.
    taken_back: releases that an operator took back, by digest, and until when rows were known then.
      What was known by then is no evidence for such a release any more: only later cutoffs count.

    `promote`: the challenger passed the gate.
    `keep`: the champion stays.
    `inconclusive`: too few cutoffs, or too few yet for what they show, so the champion stays.
    `nothing`: the challenger is the champion.
    `baseline`: there is no champion and the challenger did not pass, so the baseline serves.
    """
    if champion is not None and _get_digest(champion) == _get_digest(challenger):
        reason = "challenger and champion are the same release"
        return PromotionVerdict(_build_verdict(challenger, champion, None, "nothing", reason), _NO_LOSSES)
    comparable = champion is not None and champion.about.target == challenger.about.target
    opponent = champion if champion is not None and comparable else baseline
    since = (taken_back or {}).get(_get_digest(challenger))
    gate = run_gate(challenger, opponent, rows, params, earlier_gates, since)
    if gate.passed and (fault := find_guardrail_fault(challenger, opponent, rows, gate, params)):
        gate = gate._replace(passed=False, reason=f"{gate.reason}; but {fault}")
    decision, reason = _describe_verdict(gate, comparable=comparable)
    if since is not None:
        reason += f" (it was taken back, so only cutoffs since {since:%F %T}Z count)"
    if decision == "baseline" and _get_digest(baseline) in (taken_back or {}):
        decision, reason = "keep", f"the champion stays, since the baseline was taken back; {reason}"
    if gate.p is not None and gate.alpha < params.alpha:
        reason += (
            f" (of {params.alpha:g}, earlier gates at the same rows have left {gate.alpha:.2g} for a look at"
            f" {gate.n_cutoffs} of {gate.n_planned} planned cutoffs)"
        )
    if champion is not None and not comparable:
        reason = (
            f"the champion forecasts another target ({champion.about.target.column},"
            f" {champion.about.target.unit}), so it was compared with the baseline; {reason}"
        )
    winner = {"promote": _get_digest(challenger), "baseline": _get_digest(baseline)}.get(decision)
    verdict = _build_verdict(challenger, champion, gate, decision, reason)
    compared = {
        "opponent_digest": _get_digest(opponent),
        "winner_digest": winner,
        "alpha": gate.alpha,
        "first_cutoff": gate.losses["cutoff"].min(),
        "last_cutoff": gate.losses["cutoff"].max(),
    }
    return PromotionVerdict(verdict.model_copy(update=compared), gate.losses)


def _describe_verdict(gate: GateResult, *, comparable: bool) -> tuple[Verdict, str]:
    if gate.passed:
        return "promote", f"the challenger takes over: {gate.reason}"
    if not comparable:
        return (
            "baseline",
            f"the baseline is served, since the challenger is not shown to be better: {gate.reason}",
        )
    if gate.passed is None:
        return "inconclusive", f"the champion stays: {gate.reason}"
    return "keep", f"the champion stays, since the challenger is not shown to be better: {gate.reason}"


def _build_verdict(
    challenger: Release, champion: Release | None, gate: GateResult | None, decision: Verdict, reason: str
) -> GateVerdict:
    """The verdict without the digests and the level of a comparison."""
    return GateVerdict(
        decision=decision,
        reason=reason,
        challenger_digest=_get_digest(challenger),
        champion_digest=None if champion is None else _get_digest(champion),
        winner_digest=None,
        challenger_as_of=challenger.ensemble.as_of,
        seen_until=challenger.seen_until,
        primary_score=challenger.about.primary_score,
        n_cutoffs=0 if gate is None else gate.n_cutoffs,
        gain_frac=None if gate is None else gate.gain_frac,
        p=None if gate is None else gate.p,
        mean_loss=None if gate is None else gate.mean_loss,
        coverage_frac=None if gate is None else gate.coverage_frac,
        models=JudgedModels(
            challenger=challenger.model, champion=None if champion is None else champion.model
        ),
    )


def _get_digest(release: Release) -> str:
    if release.manifest is None:
        raise ValueError(
            f"{release.folder} is not sealed: the gate compares only releases that could be served."
        )
    return release.manifest.digest


_NO_LOSSES = pl.DataFrame(schema=LOSSES.columns)
