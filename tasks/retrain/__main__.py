"""`python -m tasks.retrain`: data/reports/monitor -> data/decisions/retrain.

It also notes in the journal whether the last retraining with a new champion has helped.
"""

from pathlib import Path

import polars as pl

from tasks.core.calendar import parse_step_length
from tasks.core.errors import OtherDatasetError
from tasks.core.frames import SERIES, get_newest_known_at
from tasks.core.reports.monitor import MonitorReport
from tasks.edges.artifacts import read_frame, read_report, write_folder, write_report
from tasks.edges.champions import ChampionRecord
from tasks.edges.command import run_stage_command
from tasks.edges.current import find_rows
from tasks.edges.params import ParamsDocument, read_document
from tasks.edges.registry import get_champion_folder, read_champion
from tasks.edges.settings import ROOT, read_settings
from tasks.retrain.journal import Retraining, RetrainOutcome, read_retrainings, write_outcome
from tasks.retrain.params import RetrainParams
from tasks.retrain.stage import decide_retraining, list_changed_columns


def main(root: Path = ROOT) -> None:
    """Read the monitor's report, decide, and print the reason."""
    document, report = read_document(root), read_report(root / MonitorReport.PATH, MonitorReport)
    dataset = document.dataset
    if report.dataset != dataset:
        raise OtherDatasetError(MonitorReport.PATH, report.dataset, dataset)
    params = document.parse_stage("retrain", RetrainParams)
    champion, retrainings = read_champion(dataset), read_retrainings(dataset)
    if champion is not None and _write_outcome(document, params, champion, retrainings, root):
        retrainings = read_retrainings(dataset)
    decision = decide_retraining(
        report,
        params,
        parse_step_length(document.about.every),
        retrainings,
        [] if champion is None else _list_changed_columns(champion, root),
        is_last_running=bool(retrainings) and retrainings[-1].is_running,
        has_search=any("search" in document.get_model_params(model) for model in document.list_models()),
    )
    with write_folder(root / "data/decisions/retrain") as folder:
        write_report(folder / "decision.json", decision)
    print(f"retrain: {'due' if decision.due else 'not due'}: {decision.reason}")


def _list_changed_columns(champion: ChampionRecord, root: Path) -> list[str]:
    paths = (get_champion_folder(champion) / "rows.parquet", find_rows(champion.dataset, root))
    trained, now = (pl.read_parquet_schema(path) for path in paths)
    return list_changed_columns(trained, now)


def _write_outcome(
    document: ParamsDocument,
    params: RetrainParams,
    champion: ChampionRecord,
    retrainings: list[Retraining],
    root: Path,
) -> bool:
    """Note whether the retraining that made *champion* helped, once enough outcomes are known."""
    made = [r for r in retrainings if r.new_digest == champion.digest != r.digest]
    if not made or made[-1].outcome is not None or made[-1].digest is None:
        return False
    former = read_settings().home / "releases" / made[-1].digest
    n_needed = params.min_blocks * document.about.horizon_steps
    path = find_rows(champion.dataset, root)
    is_later = pl.col("known_at") > champion.promoted_as_of
    n_later = pl.scan_parquet(path).filter(is_later).select(pl.col("event_time").n_unique()).collect().item()
    if not former.exists() or n_later < n_needed + document.about.horizon_steps:
        return False
    outcome = _compare(document, champion, former, read_frame(path, SERIES), n_needed)
    if outcome is not None:
        write_outcome(champion.dataset, made[-1], outcome)
    return outcome is not None


def _compare(
    document: ParamsDocument, champion: ChampionRecord, former: Path, rows: pl.DataFrame, n_needed: int
) -> RetrainOutcome | None:
    """Both releases at every cutoff since the promotion, by the test of the gate."""
    # Both are slow to import, and an outcome is noted once
    from tasks.promote.gate import compare_releases, list_gate_cutoffs
    from tasks.promote.params import PromoteParams
    from tasks.release import load_release

    new, old = load_release(get_champion_folder(champion)), load_release(former)
    if new.about.target != old.about.target:
        return None
    cutoffs = [c for c in list_gate_cutoffs(new, old, rows) if c >= champion.promoted_as_of]
    changes = {"min_gate_rows": n_needed, "min_gain_frac": 0.0}
    gate = document.parse_stage("promote", PromoteParams).model_copy(update=changes)
    found = compare_releases(new, old, rows, cutoffs, gate)
    if found.gain_frac is None or found.p is None:
        return None
    as_of = get_newest_known_at(rows)
    return RetrainOutcome(as_of=as_of, n_cutoffs=found.n_cutoffs, gain_frac=found.gain_frac, p=found.p)


if __name__ == "__main__":
    run_stage_command(main)
