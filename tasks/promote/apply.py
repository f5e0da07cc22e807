"""Apply a decision to the registry, or raise why it cannot be applied."""

from pathlib import Path

from tasks.core.errors import ReleaseError
from tasks.core.reports.promote import GateDecision
from tasks.edges.artifacts import read_report
from tasks.edges.registry import ChampionRecord, apply_promotion, read_champion
from tasks.edges.settings import ROOT
from tasks.release import check_manifest


def apply_decision(decision_path: Path, root: Path = ROOT) -> ChampionRecord | None:
    """Apply a decision.json: the winner's release becomes champion.

    Returns None when the decision changes nothing.
    Raises ReleaseError when the state is no longer the one that was decided on: the release has
    other bytes, or another release is champion.
    """
    return apply_winner(read_report(decision_path, GateDecision), root)


def apply_winner(decision: GateDecision, root: Path = ROOT) -> ChampionRecord | None:
    """Like `apply_decision`, for a decision in memory. A winner that is champion already stays."""
    if decision.winner_digest is None:
        return None
    dataset, folder = decision.dataset, get_winner_folder(decision, root)
    champion = read_champion(dataset)
    if champion is not None and champion.digest == decision.winner_digest:
        return champion
    if (champion_digest := None if champion is None else champion.digest) != decision.champion_digest:
        raise ReleaseError(
            f"The decision was made against the champion {_format_digest(decision.champion_digest)}, but"
            f" {_format_digest(champion_digest)} is champion of {dataset!r} now. Decide again with"
            " `dvc repro promote`."
        )
    if (digest := check_manifest(folder).digest) != decision.winner_digest:
        raise ReleaseError(
            f"{folder} has digest {_format_digest(digest)}, the decision is about"
            f" {_format_digest(decision.winner_digest)}. Decide again with `dvc repro promote`."
        )
    return apply_promotion(dataset, folder, decision)


def get_winner_folder(decision: GateDecision, root: Path = ROOT) -> Path:
    """Folder of the release that the decision makes champion."""
    return root / "models/release" / ("baseline" if decision.decision == "baseline" else "")


def _format_digest(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
