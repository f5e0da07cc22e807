"""`python -m tasks.quantize`: models/challenger, models/fits, data/features -> models/quantized."""

from pathlib import Path

from tasks.core.frames import FEATURES
from tasks.core.panel import build_panel
from tasks.edges.artifacts import read_frame, write_folder, write_report
from tasks.edges.command import run_stage_command
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.quantize.params import QuantizeParams
from tasks.quantize.stage import quantize_nets
from tasks.release import load_unsealed_release


def main(root: Path = ROOT) -> None:
    """Compare, decide, and put decision, timings and the INT8 graphs in place together."""
    document = read_document(root)
    release = load_unsealed_release(root / "models/challenger/challenger")
    table = read_frame(root / "data/features/table.parquet", FEATURES)
    panel = build_panel(table, release.dataset)
    with write_folder(root / "models/quantized") as folder:
        quantized = quantize_nets(
            release,
            panel,
            document.gate_steps,
            root / "models/fits",
            document.list_models(),
            document.parse_stage("quantize", QuantizeParams),
            folder,
        )
        write_report(folder / "latency.json", quantized.latency)
        write_report(folder / "decision.json", quantized.decision)
    decision = quantized.decision
    worst = max(decision.parity_sd.values())
    print(
        f"quantize: {decision.n_gate_rows} gate rows, graphs differ from their forecasters by at most"
        f" {worst:.1e} sd"
    )
    print(f"quantize: {decision.decision}. {decision.reason}")


if __name__ == "__main__":
    run_stage_command(main)
