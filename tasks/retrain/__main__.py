"""`python -m tasks.retrain`: data/reports/monitor -> data/decisions/retrain."""

from pathlib import Path

from tasks.core.errors import OtherDatasetError
from tasks.edges.artifacts import read_json, write_folder, write_json
from tasks.edges.command import run_stage_command
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.retrain.params import RetrainParams
from tasks.retrain.stage import decide_retraining

REPORT = "data/reports/monitor/report.json"


def main(root: Path = ROOT) -> None:
    """Read the monitor's report, decide, say why."""
    document, report = read_document(root), read_json(root / REPORT)
    if report["dataset"] != document.dataset:
        raise OtherDatasetError(REPORT, report["dataset"], document.dataset)
    decision = decide_retraining(report, document.parse_stage("retrain", RetrainParams))
    with write_folder(root / "data/decisions/retrain") as folder:
        write_json(folder / "decision.json", decision)
    print(f"retrain: {'due' if decision['due'] else 'not due'}: {decision['reason']}")


if __name__ == "__main__":
    run_stage_command(main)
