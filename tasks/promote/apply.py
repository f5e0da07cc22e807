"""Apply a decision to the registry, or raise why it cannot be applied."""

from pathlib import Path

from tasks.core.errors import ReleaseError
from tasks.core.reports.promote import GateDecision
from tasks.core.rollout import SECTION, RolloutParams
from tasks.edges.approvals import (
    ApprovalRequest,
    check_request_files,
    decide_request,
    get_request,
    request_approval,
    write_use,
)
from tasks.edges.artifacts import read_report
from tasks.edges.champions import ChampionRecord
from tasks.edges.params import ParamsDocument, read_document
from tasks.edges.registry import apply_promotion, complete_last_change, read_champion, read_journal
from tasks.edges.release_files import compute_release_hashes
from tasks.edges.rollouts import NOT_NEEDED, ApprovedFiles, start_rollout
from tasks.edges.settings import ROOT, get_operator
from tasks.promote.params import PromoteParams
from tasks.release import check_manifest
from tasks.release.warm_up import check_release_answers


def apply_decision(decision_path: Path, root: Path = ROOT) -> ChampionRecord | None:
    """Apply a decision.json: the winner's release becomes champion, or begins its rollout.

    None when it says that nothing changes, or while `promote.approval` is required and not given.
    Raises ReleaseError when the world is no longer the one that was decided on: the release's bytes
    are others, or there is another champion.
    """
    return apply_winner(read_report(decision_path, GateDecision), root)


def apply_winner(decision: GateDecision, root: Path = ROOT) -> ChampionRecord | None:
    """Like `apply_decision`, for a decision in memory; None while it waits for an approval.

    A winner that is champion already stays. One that this decision has made champion, and an
    operator has taken back, is not made champion by it again.
    """
    if decision.winner_digest is None:
        return None
    dataset, folder = decision.dataset, get_winner_folder(decision, root)
    now = read_champion(dataset)
    if now is not None and now.digest == decision.winner_digest:
        return now
    of_this = [line.action == "promote" and line.decision == decision for line in read_journal(dataset)]
    if of_this and of_this[-1]:  # a kill came between the journal's line and champion.json
        return complete_last_change(dataset)
    return None if any(of_this) else _apply_new(decision, folder, now, root)


def _apply_new(
    decision: GateDecision, folder: Path, now: ChampionRecord | None, root: Path
) -> ChampionRecord | None:
    """Apply a decision that never was. folder: of its winner. now: the champion."""
    dataset = decision.dataset
    if (current := None if now is None else now.digest) != decision.champion_digest:
        raise ReleaseError(
            f"The decision was made against the champion {_format_digest(decision.champion_digest)}, but"
            f" {_format_digest(current)} answers for {dataset!r} now. Decide again with `dvc repro promote`."
        )
    if (digest := check_manifest(folder).digest) != decision.winner_digest:
        raise ReleaseError(
            f"{folder} has digest {_format_digest(digest)}, the decision is about"
            f" {_format_digest(decision.winner_digest)}. Decide again with `dvc repro promote`."
        )
    request = None
    if _read_params(decision, root).approval != "off":
        request = request_winner_approval(decision, root)
        if request.state != "approved":
            return None
    champion = _apply_winner(decision, folder, now, request, root)
    if request is not None:
        write_use(dataset, request)
    return champion


def _apply_winner(
    decision: GateDecision,
    folder: Path,
    now: ChampionRecord | None,
    request: ApprovalRequest | None,
    root: Path,
) -> ChampionRecord:
    """The champion then: by steps it is *now*, where the winner was compared with it."""
    approved = NOT_NEEDED if request is None else ApprovedFiles(request.by, request.line, request.files)
    params = _read_document(decision, root).parse_stage(SECTION, RolloutParams)
    is_compared = decision.decision == "promote" and decision.opponent_digest == decision.champion_digest
    if now is not None and is_compared and params.steps_frac:
        check_release_answers(folder)  # before any service loads it
        start_rollout(decision.dataset, folder, decision, params, approved)
        return now
    return apply_promotion(
        decision.dataset,
        folder,
        decision,
        by=approved.by,
        approval=approved.approval,
        hashes=approved.hashes or None,
    )


def request_winner_approval(decision: GateDecision, root: Path = ROOT) -> ApprovalRequest:
    """The request for the approval of the winner of *decision*; the operator is its author.

    Raises ApprovalError when the release was changed since it was asked for or approved.
    """
    assert decision.winner_digest is not None
    hashes = compute_release_hashes(get_winner_folder(decision, root), without_nested=True)
    expires_s = _read_params(decision, root).approval_expires_s
    return request_approval(
        decision.dataset, decision.winner_digest, hashes, get_operator(), decision.reason, expires_s
    )


def approve_release(dataset: str, digest: str, by: str, why: str, root: Path = ROOT) -> ChampionRecord | None:
    """Approve what the gate has decided, and apply it. digest: of the release, or its beginning.

    None when the champion has the release already.
    Raises ApprovalError when there is no such request, it is not open, *by* is its author, or a
    file was changed; ReleaseError when the decision is no longer the current one.
    """
    request = get_request(dataset, digest)
    decision = read_report(root / GateDecision.PATH, GateDecision)
    if (decision.dataset, decision.winner_digest) != (dataset, request.digest):
        raise ReleaseError(
            f"{root / GateDecision.PATH} is not about {request.digest[:12]} of {dataset!r} any more. Decide"
            " again with `dvc repro promote`, then approve what it asks for."
        )
    folder = get_winner_folder(decision, root)
    check_request_files(request, compute_release_hashes(folder, without_nested=True))
    expires_s = _read_params(decision, root).approval_expires_s
    decide_request(dataset, request, "approved", by, why, expires_s)
    return apply_winner(decision, root)


def _read_params(decision: GateDecision, root: Path) -> PromoteParams:
    return _read_document(decision, root).parse_stage("promote", PromoteParams)


def _read_document(decision: GateDecision, root: Path) -> ParamsDocument:
    return read_document(root).select_dataset(decision.dataset)


def get_winner_folder(decision: GateDecision, root: Path = ROOT) -> Path:
    """Where the release is that the decision makes champion."""
    return root / "models/release" / ("baseline" if decision.decision == "baseline" else "")


def _format_digest(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
