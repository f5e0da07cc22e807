"""`python -m tasks.explain`: models/challenger/challenger and data/clean ->
data/reports/explain.
"""

from pathlib import Path

from tasks.core.frames import SERIES
from tasks.edges.artifacts import read_frame, write_folder, write_json
from tasks.edges.command import run_stage_command
from tasks.edges.params import read_params
from tasks.edges.settings import ROOT
from tasks.explain.params import ExplainParams
from tasks.explain.pictures import build_file_name, draw_importance, draw_last
from tasks.explain.stage import explain_release
from tasks.release import load_unsealed_release

N_PICTURES = 4  # series whose last forecast is drawn; the table has all that were explained


def main(root: Path = ROOT) -> None:
    """Explain, and put tables and pictures in place together."""
    release = load_unsealed_release(root / "models/challenger/challenger")
    found = explain_release(
        release,
        read_frame(root / "data/clean/rows.parquet", SERIES),
        read_params("explain", ExplainParams, root),
    )
    with write_folder(root / "data/reports/explain") as folder:
        found.attributions.write_parquet(folder / "attributions.parquet")
        write_json(folder / "importance.json", found.importance)
        write_json(folder / "summary.json", found.summary)
        draw_importance(found.importance, release.model, folder / "importance.png")
        for series_id in found.summary["series_last"][:N_PICTURES]:
            draw_last(
                found.attributions, series_id, release.about.target, folder / build_file_name(series_id)
            )
    _report_summary(found.summary)


def _report_summary(summary: dict[str, int]) -> None:
    print(
        f"explain: {summary['n_last']} last forecasts and {summary['n_sample']} others; parts add up to"
        f" {summary['max_abs_gap']:.1e}"
    )
    if left_out := summary["n_series_now"] - summary["n_last"]:
        print(
            f"explain: {left_out} series have no part in it: their last forecast is beyond"
            " `explain.max_evaluations`, or they ended earlier"
        )


if __name__ == "__main__":
    run_stage_command(main)
