"""What follows for a rollout from its evidence and its guardrails."""

from typing import Literal, NamedTuple

from tasks.core.reports.rollout import RolloutComparison
from tasks.core.rollout import RolloutEvidence, RolloutParams
from tasks.rollout.evidence import MAX_BLOCKS

Action = Literal["advance", "promote", "back", "wait"]


class Guardrails(NamedTuple):
    """What the service has seen of the challenger.

    n_errors: requests that it failed and the champion answered.
    last_error: of these.
    latency_ratio: 95th percentile of its answers over the champion's; None for too few.
    """

    n_errors: int = 0
    last_error: str = ""
    latency_ratio: float | None = None


class Move(NamedTuple):
    """action: `wait` changes nothing: the evidence is inconclusive. reason: in a sentence."""

    action: Action
    reason: str


def compute_threshold(params: RolloutParams, step: int) -> float:
    """What `better` must reach for *step*, from 1: evenly spaced in logarithms, 1 / alpha last."""
    return float(params.alpha ** (-step / (len(params.steps_frac) - 1)))


def decide_move(
    params: RolloutParams,
    step: int,
    evidence: RolloutEvidence,
    n_since_move: int,
    guardrails: Guardrails,
    *,
    is_paused: bool = False,
    comparison: RolloutComparison | None = None,
) -> Move:
    """The next move of a rollout at *step*, from 0.

    n_since_move: cutoffs since the last move whose outcomes are known.
    is_paused: it goes back if it must, and nothing else.
    comparison: decides an A/B test that nothing has ended before its time is over.
    """
    figures = _describe_evidence(evidence)
    if reason := _find_fault(params, guardrails) or _find_loss(params, evidence, figures):
        return Move("back", reason)
    if is_paused:
        return Move("wait", f"paused: {figures}")
    is_over = evidence.n_cutoffs >= params.max_steps or evidence.n_blocks >= MAX_BLOCKS
    if params.rule == "ab":
        return _decide_ab(params, evidence, figures, comparison, is_over=is_over)
    if is_over and evidence.better < 1 / params.alpha:
        return Move("back", f"it is neither better nor worse: {figures}, and the time is over")
    threshold = compute_threshold(params, step + 1)
    state = f"{figures}, the bet is at {evidence.better:.3g} of {threshold:.3g}"
    if evidence.better >= threshold and n_since_move >= params.min_outcomes:
        return Move("promote" if step + 2 == len(params.steps_frac) else "advance", state)
    if evidence.better >= threshold:
        state += f"; {n_since_move} of `rollout.min_outcomes` = {params.min_outcomes} at this step"
    return Move("wait", f"inconclusive: {state}")


def _decide_ab(
    params: RolloutParams,
    evidence: RolloutEvidence,
    figures: str,
    comparison: RolloutComparison | None,
    *,
    is_over: bool,
) -> Move:
    """Its challenger has not lost so far. The posterior decides once, when the time is over."""
    limit = 1 / params.bet_alpha
    if evidence.n_cutoffs < params.min_outcomes:
        return Move("wait", f"{figures}, of `rollout.min_outcomes` = {params.min_outcomes}")
    if evidence.better >= limit:
        return Move("promote", f"it has won: {figures}, the bet is at {evidence.better:.3g} of {limit:.3g}")
    if not is_over:
        return Move("wait", f"inconclusive: {figures}, the bet is at {evidence.better:.3g} of {limit:.3g}")
    chance = 0.0 if comparison is None else comparison.better_probability
    state = f"the time is over, {figures}, lower with probability {chance:.1%}"
    if chance >= 1 - params.bet_alpha:
        return Move("promote", f"it has won: {state}")
    return Move("back", f"it has not won: {state} of {1 - params.bet_alpha:.1%}")


def _find_loss(params: RolloutParams, evidence: RolloutEvidence, figures: str) -> str | None:
    limit = 1 / params.bet_alpha
    is_early = params.rule == "ab" and evidence.n_cutoffs < params.min_outcomes
    if is_early or evidence.worse < limit:
        return None
    return f"its forecasts are worse: {figures}, the bet is at {evidence.worse:.3g} of {limit:.3g}"


def _find_fault(params: RolloutParams, guardrails: Guardrails) -> str | None:
    if guardrails.n_errors > params.max_errors:
        return (
            f"it failed {guardrails.n_errors} requests that the champion answered, more than"
            f" `rollout.max_errors` = {params.max_errors}; the last: {guardrails.last_error}"
        )
    ratio = guardrails.latency_ratio
    if ratio is not None and ratio > params.max_latency_ratio:
        return (
            f"its answers take {ratio:.1f} times as long, above `rollout.max_latency_ratio` ="
            f" {params.max_latency_ratio:g}"
        )
    return None


def _describe_evidence(evidence: RolloutEvidence) -> str:
    if evidence.gain_frac is None:
        return f"{evidence.n_cutoffs} cutoffs have outcomes"
    side = "below" if evidence.gain_frac >= 0 else "above"
    return (
        f"its loss is {abs(evidence.gain_frac):.1%} {side} the champion's over {evidence.n_cutoffs} cutoffs"
    )
