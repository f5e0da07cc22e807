"""`python -m tasks.retrain`: data/reports/monitor -> data/decisions/retrain."""

from pathlib import Path

from tasks.edges.artifacts import read_json, replacing, write_json
from tasks.edges.door import open_door
from tasks.edges.params import read_params
from tasks.edges.settings import ROOT
from tasks.retrain.params import RetrainParams
from tasks.retrain.stage import decide


def main(root: Path = ROOT) -> None:
    """Read the monitor's report, decide, say why."""
    decision = decide(read_json(root / "data/reports/monitor/report.json"), read_params("retrain", RetrainParams, root))
    with replacing(root / "data/decisions/retrain") as folder:
        write_json(folder / "decision.json", decision)
    print(f"retrain: {'due' if decision['due'] else 'not due'}: {decision['reason']}")


if __name__ == "__main__":
    open_door(main)
