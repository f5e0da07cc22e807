"""`python -m tasks.explain`: models/challenger/challenger, data/clean -> data/reports/explain."""

from pathlib import Path

from tasks.core.frames import SERIES
from tasks.core.reports.explain import ExplainSummary
from tasks.edges.artifacts import read_frame, write_folder, write_report
from tasks.edges.command import run_stage_command
from tasks.edges.params import read_params
from tasks.edges.settings import ROOT
from tasks.explain.params import ExplainParams
from tasks.explain.stage import explain_release
from tasks.release import load_unsealed_release


def main(root: Path = ROOT) -> None:
    """Explain, and put tables and figures in place in one step."""
    release = load_unsealed_release(root / "models/challenger/challenger")
    explanation = explain_release(
        release,
        read_frame(root / "data/clean/rows.parquet", SERIES),
        read_params("explain", ExplainParams, root),
    )
    with write_folder(root / "data/reports/explain") as folder:
        explanation.attributions.write_parquet(folder / "attributions.parquet")
        explanation.curves.write_parquet(folder / "curves.parquet")
        write_report(folder / "importance.json", explanation.importance)
        write_report(folder / "summary.json", explanation.summary)
    _report_summary(explanation.summary)


def _report_summary(summary: ExplainSummary) -> None:
    print(
        f"explain: {summary.n_last} last forecasts and {summary.n_sample} others; parts add up to"
        f" {summary.max_abs_gap:.1e}"
    )
    agreement = ", ".join(f"{value:.2f} with {name}" for name, value in summary.agreement.items())
    if agreement:
        print(f"explain: rank correlation of the features' importance by Shapley values: {agreement}")
    if n_left_out := summary.n_series_now - summary.n_last:
        print(
            f"explain: {n_left_out} series are not explained: their last forecast is beyond"
            " `explain.max_evaluations`, or they ended earlier"
        )


if __name__ == "__main__":
    run_stage_command(main)
