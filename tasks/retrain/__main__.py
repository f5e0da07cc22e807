"""`python -m tasks.retrain`: data/reports/monitor -> data/decisions/retrain."""

from pathlib import Path

from tasks.core.calendar import parse_step_length
from tasks.core.errors import OtherDatasetError
from tasks.core.reports.monitor import MonitorReport
from tasks.edges.artifacts import read_report, write_folder, write_report
from tasks.edges.command import run_stage_command
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.retrain.journal import read_retrainings
from tasks.retrain.params import RetrainParams
from tasks.retrain.stage import decide_retraining


def main(root: Path = ROOT) -> None:
    """Read the monitor's report, decide, and print the reason."""
    document, report = read_document(root), read_report(root / MonitorReport.PATH, MonitorReport)
    if report.dataset != document.dataset:
        raise OtherDatasetError(MonitorReport.PATH, report.dataset, document.dataset)
    decision = decide_retraining(
        report,
        document.parse_stage("retrain", RetrainParams),
        parse_step_length(document.about.every),
        read_retrainings(document.dataset),
    )
    with write_folder(root / "data/decisions/retrain") as folder:
        write_report(folder / "decision.json", decision)
    print(f"retrain: {'due' if decision.due else 'not due'}: {decision.reason}")


if __name__ == "__main__":
    run_stage_command(main)
