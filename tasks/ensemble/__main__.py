"""The DVC command: `python -m tasks.ensemble`."""

from tasks.core.dataset import Dataset
from tasks.core.frames import FEATURES
from tasks.core.kinds import get_forecast_schema
from tasks.core.panel import build_panel
from tasks.core.reports.train import FitReport
from tasks.edges.artifacts import read_frame, read_report, write_folder, write_report
from tasks.edges.command import run_stage_command
from tasks.edges.dataset import read_features_dataset
from tasks.edges.files import compute_file_hash
from tasks.edges.params import ParamsDocument, read_document
from tasks.edges.settings import ROOT
from tasks.ensemble.align import AlignedForecasts, align_forecasts
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stage import build_ensemble
from tasks.ensemble.summary import build_summary, write_frames
from tasks.ensemble.unsealed_release import ReleaseOrigin, write_unsealed_release

FEATURES_FOLDER = ROOT / "data/features"
FITS_FOLDER = ROOT / "models/fits"


def main() -> None:
    """Build the ensemble of the members' forecasts, write the unsealed releases and the report."""
    document = read_document()
    params = document.parse_stage("ensemble", EnsembleParams)
    dataset = read_features_dataset(FEATURES_FOLDER, document.bounded_about)
    aligned, stride_steps = read_aligned(document, dataset)
    assembled = build_ensemble(aligned, params)
    print(assembled.choice.reason)
    origin = ReleaseOrigin(
        document.dataset, compute_file_hash(ROOT / "data/clean/rows.parquet"), stride_steps
    )
    with write_folder(ROOT / "models/challenger") as folder:
        for role, name in (("challenger", assembled.shipped), ("baseline", assembled.baseline)):
            (folder / role).mkdir()
            write_unsealed_release(
                folder / role, assembled.candidates[name], assembled, origin, FEATURES_FOLDER, FITS_FOLDER
            )
    with write_folder(ROOT / "data/reports/ensemble") as folder:
        write_frames(folder, assembled, aligned)
        report = build_summary(assembled, aligned)
        write_report(folder / "summary.json", report)
    print(report.gains.text)


def read_aligned(document: ParamsDocument, dataset: Dataset) -> tuple[AlignedForecasts, int]:
    """Forecasts of exactly the models listed, and the stride of their cutoffs."""
    models, quantile_of = document.list_models(), document.list_quantile_models()
    if quantile_of:
        print(f"not combined, since they forecast quantiles: {', '.join(quantile_of)}")
    schema = get_forecast_schema(dataset.about)
    panel = build_panel(read_frame(FEATURES_FOLDER / "table.parquet", FEATURES), dataset)
    walk, gate = (
        {m: read_frame(ROOT / "data/forecasts" / m / f"{part}.parquet", schema) for m in models}
        for part in ("forecast", "gate")
    )
    stride_steps = read_report(FITS_FOLDER / models[0] / "fit.json", FitReport).stride_steps
    return align_forecasts(walk, gate, panel, stride_steps, quantile_of), stride_steps


if __name__ == "__main__":
    run_stage_command(main)
