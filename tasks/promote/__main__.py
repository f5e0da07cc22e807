"""`python -m tasks.promote`: decide on the challenger and apply the decision.

Reads models/release and data/clean; writes data/decisions/promote, the published rows and the
registry.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tasks.core.errors import OtherDatasetError, ReleaseError
from tasks.core.reports.package import OnlineComparison, OnlineFigures
from tasks.core.reports.promote import GateDecision, GateKey
from tasks.edges.artifacts import read_json, read_last_report, read_report, write_folder, write_report
from tasks.edges.champions import ChampionRecord, find_taken_back
from tasks.edges.command import run_stage_command
from tasks.edges.current import check_current
from tasks.edges.files import compute_file_hash, hold_lock
from tasks.edges.mlflow_delivery import publish_alongside
from tasks.edges.params import ParamsDocument, read_document
from tasks.edges.refreshed import get_refresh_folder, is_refreshed_since
from tasks.edges.registry import publish_rows_file, read_champion, read_journal
from tasks.edges.rollouts import find_active_rollout
from tasks.edges.settings import ROOT, read_settings
from tasks.edges.tracking import has_news
from tasks.promote.params import PromoteParams

ROWS = "data/clean/rows.parquet"


def main(root: Path = ROOT, deliver: Callable[[], AbstractContextManager[None]] = publish_alongside) -> None:
    """Decide on a new release, apply the decision to the local registry, publish the rows.

    With nothing new the last verdict stays; rows that a refresh has published since stay, too.
    deliver: what sends runs to MLflow while the gate runs.
    """
    document = read_document(root)
    dataset, params = document.dataset, document.parse_stage("promote", PromoteParams)
    check_current(ROWS, dataset, root)
    if (release_dataset := read_json(root / "models/release/manifest.json")["dataset"]) != dataset:
        raise OtherDatasetError("models/release", release_dataset, dataset)
    with hold_lock(get_refresh_folder(dataset) / "lock"):  # not while a refresh merges into them
        if not is_refreshed_since(document, root / ROWS):
            publish_rows_file(dataset, root / ROWS)
    key, is_applied_here = _build_key(params, root), _is_applied_here(params)
    champion = read_champion(dataset)
    last = read_last_report(root / GateDecision.PATH, GateDecision)
    if last is not None and _is_unchanged(last, dataset, key, champion, is_applied_here=is_applied_here):
        write_report(root / GateDecision.PATH, last)
        with deliver() if has_news() else nullcontext():
            pass  # a model was trained again and gave the same release: its run goes to MLflow all the same
        print(f"promote: nothing new, the verdict stays: {last.decision} ({last.reason})")
        return
    with deliver():  # MLflow's import runs alongside the gate
        decision = _build_decision(document, key, _find_opponent(champion, key), root)
    print(f"promote: {decision.decision}: {decision.reason}")
    if (rollout := find_active_rollout(dataset)) is not None:
        share = f"{rollout.weight:.0%} of the series"
        print(f"promote: {rollout.model} {rollout.challenger[:12]} answers for {share}")


def _build_key(params: PromoteParams, root: Path) -> GateKey:
    """Everything that determines a verdict, except the champion."""
    release = root / "models/release"
    return GateKey(
        challenger=read_json(release / "manifest.json")["digest"],
        baseline=read_json(release / "baseline/manifest.json")["digest"],
        rows=compute_file_hash(root / ROWS),
        params=params.gate_key,
    )


def _read_online(release: Path, digest: str) -> OnlineFigures | None:
    """How far the packaged service is from training; None for a release without a Bento.

    Raises ReleaseError when the comparison is of another release, or has more than its limit.
    """
    path = release / Path(OnlineComparison.PATH).name
    if not path.exists():
        return None
    found = read_report(path, OnlineComparison)
    if found.digest != digest or found.max_difference > found.limit:
        raise ReleaseError(
            f"{path} is of {found.digest[:12]} with a difference of {found.max_difference:.1e} (allowed:"
            f" {found.limit:g}), and the release is {digest[:12]}. Run `dvc repro -f package`."
        )
    return OnlineFigures(**{name: getattr(found, name) for name in OnlineFigures.model_fields})


def _is_applied_here(params: PromoteParams) -> bool:
    """Whether this stage applies its verdict.

    A shared registry is changed by flows/promotion alone, and what a person must approve by that
    flow or `tidemill approve`.
    """
    return not read_settings().mlflow_uri and params.approval == "off"


def _is_unchanged(
    last: GateDecision, dataset: str, key: GateKey, champion: ChampionRecord | None, *, is_applied_here: bool
) -> bool:
    """Whether the same bytes were judged and the registry is as the verdict left it.

    A registry that was set back to the champion before counts as unchanged, too.
    """
    if champion is None or (last.dataset, last.key) != (dataset, key):
        return False
    still_to_apply = last.winner_digest is not None and not last.applied and is_applied_here
    return champion.digest == last.winner_digest or (
        champion.digest == last.champion_digest and not still_to_apply
    )


def _find_opponent(champion: ChampionRecord | None, key: GateKey) -> str | None:
    """Digest of the champion to compare with.

    A run that was killed after it had changed the registry compares with the same one as before.
    """
    if champion is None:
        return None
    return champion.decision.champion_digest if champion.decision.key == key else champion.digest


def _build_decision(document: ParamsDocument, key: GateKey, opponent: str | None, root: Path) -> GateDecision:
    # This and the next: a verdict that stays needs neither onnxruntime nor features
    from tasks.core.frames import SERIES, get_newest_known_at
    from tasks.edges.artifacts import read_frame, write_frame
    from tasks.promote.apply import apply_winner, request_winner_approval
    from tasks.promote.earlier_gates import build_earlier_gate, read_earlier_gates, write_gate
    from tasks.promote.gate import LOSSES
    from tasks.promote.guardrails import check_release_interface
    from tasks.promote.leaks import check_release_is_leak_free
    from tasks.promote.stage import decide_promotion
    from tasks.release import load_release

    dataset, params = document.dataset, document.parse_stage("promote", PromoteParams)
    rows, release = read_frame(root / ROWS, SERIES), root / "models/release"
    online = _read_online(release, key.challenger)
    champion = None if opponent is None else load_release(read_settings().home / "releases" / opponent)
    challenger, baseline = load_release(release), load_release(release / "baseline")
    for candidate in (challenger, baseline):
        check_release_is_leak_free(candidate)
        check_release_interface(candidate, document.about)
    this = (key.challenger, key.rows)
    earlier_gates = [g for g in read_earlier_gates(dataset) if (g.challenger, g.rows) != this]
    taken_back = find_taken_back(read_journal(dataset))
    verdict, losses = decide_promotion(
        challenger, champion, baseline, rows, params, earlier_gates, taken_back
    )
    if (gate := build_earlier_gate(verdict, key)) is not None:
        write_gate(dataset, gate)
    applied = _is_applied_here(params) and verdict.winner_digest is not None
    as_of = get_newest_known_at(rows)
    decision = GateDecision(
        **dict(verdict), dataset=dataset, key=key, as_of=as_of, applied=applied, online=online
    )
    with write_folder(root / "data/decisions/promote") as folder:
        write_report(folder / "decision.json", decision)
        write_frame(folder / "losses.parquet", losses, LOSSES)
        if applied:
            apply_winner(decision, root)
    if decision.winner_digest is not None and params.approval == "required":
        request = request_winner_approval(decision, root)
        print(f"promote: {request.digest[:12]} is {request.state} ({request.by}); `tidemill approvals`")
    return decision


if __name__ == "__main__":
    run_stage_command(main)
