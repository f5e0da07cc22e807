"""Look at the rollout of the current dataset, and move it when the evidence says so."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.core.errors import ReleaseError
from tasks.core.frames import SERIES, get_newest_known_at
from tasks.core.reports.rollout import RolloutPoint
from tasks.edges.artifacts import read_frame
from tasks.edges.champions import ChampionRecord
from tasks.edges.params import read_dataset
from tasks.edges.registry import apply_promotion, get_champion_folder, get_rows_path, read_champion
from tasks.edges.release_files import get_release_folder
from tasks.edges.rollouts import (
    JUDGE,
    Rollout,
    find_active_rollout,
    read_challenger_errors,
    write_judgement,
    write_move,
)
from tasks.edges.served import read_answer_times
from tasks.edges.settings import ROOT
from tasks.retrain.journal import read_retrainings, write_end
from tasks.rollout.decide import Action, Guardrails, Move, decide_move

if TYPE_CHECKING:
    from tasks.rollout.evidence import Bets
    from tasks.rollout.losses import LiveLosses

PREDICT = "POST /api/v1/predict"
MIN_ANSWERS = 50  # of each release, for a 95th percentile


class RolloutJudgement(NamedTuple):
    """What a judgement has found. rollout: after it. action: `wait` changed nothing."""

    rollout: Rollout
    action: Action
    reason: str


def judge_rollout(root: Path = ROOT, report: Callable[[str], None] = print) -> RolloutJudgement | None:
    """Judge the active rollout of the current dataset, and move it; None when there is none.

    report: called with what was found. A kill in between leaves a champion, and the next call
    completes the move.
    """
    dataset = read_dataset(root)
    if (rollout := find_active_rollout(dataset)) is None:
        return None
    champion = read_champion(dataset)
    if champion is not None and champion.digest == rollout.challenger:  # a kill after the promotion
        judgement = RolloutJudgement(_end(rollout, "promoted", rollout.reason), "promote", rollout.reason)
    elif champion is None or champion.digest != rollout.champion:
        reason = "another release has become champion"
        judgement = RolloutJudgement(_end(rollout, "back", reason), "back", reason)
    else:
        judgement = _judge(rollout, champion)
    report(f"rollout: {rollout.model} {rollout.challenger[:12]}: {judgement.action}: {judgement.reason}")
    return judgement


def _judge(rollout: Rollout, champion: ChampionRecord) -> RolloutJudgement:
    # A refresh without a rollout needs neither onnxruntime nor features
    from tasks.release import load_release
    from tasks.rollout.challenger import load_challenger
    from tasks.rollout.evidence import build_evidence, compare_losses, compute_bets
    from tasks.rollout.losses import compute_live_losses

    try:
        challenger = load_challenger(rollout)
    except ReleaseError as error:
        return _apply(rollout, Move("back", str(error)))
    rows = read_frame(get_rows_path(rollout.dataset), SERIES)
    live = compute_live_losses(
        challenger, load_release(get_champion_folder(champion)), rows, rollout.begun_as_of
    )
    bets = compute_bets(live.losses, live.horizon_steps, rollout.params.margin_frac)
    evidence, guardrails = build_evidence(live.losses, bets), read_guardrails(rollout)
    comparison = compare_losses(live.losses)
    move = decide_move(
        rollout.params,
        rollout.step,
        evidence,
        sum(cutoff >= rollout.moved_as_of for cutoff in live.cutoffs),
        guardrails,
        is_paused=rollout.state == "paused",
        comparison=comparison,
    )
    found = {"as_of": get_newest_known_at(rows), "evidence": evidence, **guardrails._asdict()}
    return _apply(rollout, move, **found, comparison=comparison, points=_build_points(live, bets))


def _apply(rollout: Rollout, move: Move, **found: object) -> RolloutJudgement:
    """Make *move*, and report on it. found: see `RolloutReport`."""
    moved = {"moved_as_of": found.get("as_of", rollout.moved_as_of), "evidence": found.get("evidence")}
    if move.action == "wait":
        after = rollout
    elif move.action == "advance":
        after = write_move(rollout, JUDGE, move.reason, step=rollout.step + 1, **moved)
    elif move.action == "back":
        after = _end(rollout, "back", move.reason, **moved)
    else:
        decision = rollout.decision.model_copy(update={"as_of": moved["moved_as_of"]})
        promote = partial(
            apply_promotion,
            rollout.dataset,
            get_release_folder(rollout.challenger),
            decision,
            by=rollout.approved_by,
            approval=rollout.approval,
        )
        after = _end(rollout, "promoted", move.reason, promote, **moved)
    write_judgement(after, **found, action=move.action, reason=move.reason)
    return RolloutJudgement(after, move.action, move.reason)


def _build_points(live: "LiveLosses", bets: "Bets") -> tuple[RolloutPoint, ...]:
    losses, ends = live.losses, {(k + 1) * bets.block - 1: k + 1 for k in range(len(bets.better) - 1)}
    return tuple(
        RolloutPoint(
            cutoff=cutoff,
            challenger=float(losses.challenger[i]),
            champion=float(losses.champion[i]),
            better=float(bets.better[ends[i]]) if i in ends else None,
            worse=float(bets.worse[ends[i]]) if i in ends else None,
        )
        for i, cutoff in enumerate(live.cutoffs)
    )


def _end(
    rollout: Rollout,
    state: str,
    reason: str,
    apply: Callable[[], object] = lambda: None,
    /,
    **found: object,
) -> Rollout:
    """Write the end of *rollout*. A retraining whose release went back has brought none."""
    after = write_move(rollout, JUDGE, reason, apply, state=state, **found)
    for last in read_retrainings(rollout.dataset)[-1:]:
        if state == "back" and last.new_digest == rollout.challenger != last.digest:
            write_end(rollout.dataset, last, last.digest, f"back: {reason}")
    return after


def read_guardrails(rollout: Rollout) -> Guardrails:
    """What the service has seen of the challenger; its times since the last move."""
    errors = read_challenger_errors(rollout)
    times = [
        read_answer_times(rollout.dataset, digest, PREDICT, rollout.moved_at)
        for digest in (rollout.challenger, rollout.champion)
    ]
    ratio = None
    if min(map(len, times)) >= MIN_ANSWERS:
        ours, theirs = (float(np.quantile(part, 0.95)) for part in times)
        ratio = ours / theirs if theirs > 0 else None
    return Guardrails(len(errors), errors[-1] if errors else "", ratio)
