"""`python -m tasks.promote`: models/release and data/clean -> data/decisions/promote, the published rows, the registry."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tasks.core.errors import OtherDatasetError
from tasks.edges.artifacts import file_hash, read_json, replacing, write_json
from tasks.edges.current import check_current
from tasks.edges.door import open_door
from tasks.edges.mlflow_delivery import publishing
from tasks.edges.params import read_dataset, read_params
from tasks.edges.registry import Champion, publish_rows_file, read_champion
from tasks.edges.settings import ROOT, settings
from tasks.edges.tracking import has_news
from tasks.promote.params import PromoteParams

DECISION = "data/decisions/promote/decision.json"
ROWS = "data/clean/rows.parquet"


def main(root: Path = ROOT, deliver: Callable[[], AbstractContextManager[None]] = publishing) -> None:
    """Decide on what is new, apply to our own registry, publish the rows; with nothing new the last verdict stands.

    deliver: what brings runs to MLflow beside the gate.
    """
    dataset, params = read_dataset(root), read_params("promote", PromoteParams, root)
    check_current(ROWS, dataset, root)
    if (found := read_json(root / "models/release/manifest.json")["dataset"]) != dataset:
        raise OtherDatasetError("models/release", found, dataset)
    publish_rows_file(dataset, root / ROWS)
    key = _key(params, root)
    champion = read_champion(dataset)
    if (last := _last(root)) is not None and _stands(last, dataset, key, champion):
        write_json(root / DECISION, last)
        with deliver() if has_news() else nullcontext():
            pass  # a model was trained again and gave the same release: its run goes to MLflow all the same
        print(f"promote: nothing new, the verdict stands: {last['decision']} ({last['reason']})")
        return
    with deliver():  # MLflow's import runs beside the gate
        decision = _decide(dataset, params, key, _opponent(champion, key), root)
    print(f"promote: {decision['decision']}: {decision['reason']}")


def _key(params: PromoteParams, root: Path) -> dict[str, Any]:
    """All that a verdict follows from, the champion apart."""
    release = root / "models/release"
    return {
        "challenger": read_json(release / "manifest.json")["digest"],
        "baseline": read_json(release / "baseline/manifest.json")["digest"],
        "rows": file_hash(root / ROWS),
        "params": params.model_dump(),
    }


def _last(root: Path) -> Any:
    return read_json(root / DECISION) if (root / DECISION).exists() else None


def _stands(last: dict[str, Any], dataset: str, key: dict[str, Any], champion: Champion | None) -> bool:
    """Nothing is new: the same bytes were judged, and the registry is as the verdict left it, or went back to the champion before."""
    if champion is None or (last.get("dataset"), last.get("key")) != (dataset, key):
        return False
    still_to_apply = last["winner_digest"] is not None and not last["applied"] and not settings().mlflow_uri
    return champion.digest == last["winner_digest"] or (champion.digest == last["champion_digest"] and not still_to_apply)


def _opponent(champion: Champion | None, key: dict[str, Any]) -> str | None:
    """Digest of the champion to judge against. A run that was killed after it had changed the registry judges what it judged before."""
    if champion is None:
        return None
    before: str | None = champion.decision.get("champion_digest")
    return before if champion.decision.get("key") == key else champion.digest


def _decide(dataset: str, params: PromoteParams, key: dict[str, Any], opponent: str | None, root: Path) -> dict[str, Any]:
    from tasks.core.frames import SERIES, newest_known  # noqa: PLC0415  (this and the next: a verdict that stands needs neither onnxruntime nor features)
    from tasks.edges.artifacts import read_frame, write_frame  # noqa: PLC0415
    from tasks.promote.apply import apply  # noqa: PLC0415
    from tasks.promote.gate import LOSSES  # noqa: PLC0415
    from tasks.promote.leaks import refuse_leaking  # noqa: PLC0415
    from tasks.promote.picture import draw_losses  # noqa: PLC0415
    from tasks.promote.stage import decide  # noqa: PLC0415
    from tasks.release import load  # noqa: PLC0415

    rows, release = read_frame(root / ROWS, SERIES), root / "models/release"
    champion = None if opponent is None else load(settings().home / "releases" / opponent)
    challenger, baseline = load(release), load(release / "baseline")
    for candidate in (challenger, baseline):
        refuse_leaking(candidate)
    verdict = decide(challenger, champion, baseline, rows, params)
    own = not settings().mlflow_uri  # a shared registry is changed by flows/promotion alone
    applied = own and verdict.decision["winner_digest"] is not None
    decision = {**verdict.decision, "dataset": dataset, "key": key, "as_of": newest_known(rows).isoformat(), "applied": applied}
    with replacing(root / "data/decisions/promote") as folder:
        write_json(folder / "decision.json", decision)
        write_frame(folder / "losses.parquet", verdict.losses, LOSSES)
        if verdict.losses.height:
            draw_losses(folder / "losses.png", verdict.losses, f"{dataset}: {decision['decision']}")
        if applied:
            apply(decision, root)
    return decision


if __name__ == "__main__":
    open_door(main)
