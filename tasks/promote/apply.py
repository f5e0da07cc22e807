"""Apply a decision to the registry, or raise why it cannot be applied."""

from pathlib import Path

from tasks.core.errors import ReleaseError
from tasks.core.reports.promote import GateDecision
from tasks.core.rollout import RolloutParams
from tasks.edges.artifacts import read_report
from tasks.edges.registry import ChampionRecord, apply_promotion, read_champion
from tasks.edges.rollouts import start_rollout
from tasks.edges.settings import ROOT
from tasks.release import check_manifest

AT_ONE_STEP = RolloutParams()


def apply_decision(
    decision_path: Path, root: Path = ROOT, rollout: RolloutParams = AT_ONE_STEP
) -> ChampionRecord | None:
    """Apply a decision.json: the winner's release becomes champion, by the steps of *rollout*.

    Returns the champion then; None when the decision says that nothing changes.
    Raises ReleaseError when the world is no longer the one that was decided on: the release's bytes
    are others, or there is another champion.
    """
    return apply_winner(read_report(decision_path, GateDecision), root, rollout)


def apply_winner(
    decision: GateDecision, root: Path = ROOT, rollout: RolloutParams = AT_ONE_STEP
) -> ChampionRecord | None:
    """Like `apply_decision`, for a decision in memory. A winner that is champion already stays."""
    if decision.winner_digest is None:
        return None
    dataset, folder = decision.dataset, get_winner_folder(decision, root)
    now = read_champion(dataset)
    if now is not None and now.digest == decision.winner_digest:
        return now
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
    is_compared = decision.decision == "promote" and decision.opponent_digest == current
    if now is not None and is_compared and rollout.steps_frac:
        start_rollout(dataset, folder, decision, rollout)
        return now
    return apply_promotion(dataset, folder, decision)


def get_winner_folder(decision: GateDecision, root: Path = ROOT) -> Path:
    """Where the release is that the decision makes champion."""
    return root / "models/release" / ("baseline" if decision.decision == "baseline" else "")


def _format_digest(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
