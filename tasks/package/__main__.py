"""`python -m tasks.package`: models/challenger, models/quantized, data/clean -> models/release."""

from pathlib import Path

from tasks.core.frames import SERIES
from tasks.edges.artifacts import read_frame, write_folder
from tasks.edges.command import run_stage_command
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.package.params import PackageParams
from tasks.package.stage import build_package


def main(root: Path = ROOT) -> None:
    """Read rows and parameters, build the release, and put the whole folder in place."""
    document = read_document(root)
    params = document.parse_stage("package", PackageParams)
    rows = read_frame(root / "data/clean/rows.parquet", SERIES)
    with write_folder(root / "models/release") as folder:
        built = build_package(root, ROOT, rows, params, folder, document.list_parameters())
    by_folder = ", ".join(
        f"{name} {size / 1e3:.0f} kB" for name, size in built.bento_bytes.items() if name != "total"
    )
    print(
        f"package: {built.challenger.model} {built.challenger.digest[:12]}, seen until"
        f" {built.challenger.seen_until:%F}; baseline {built.baseline.model}"
    )
    print(
        f"package: online and offline differ by {built.online.max_difference:.2g} at most, over"
        f" {built.online.n_features} features and {built.online.n_forecasts} numbers of forecasts"
    )
    print(f"package: Bento {built.bento_bytes['total'] / 1e6:.2f} MB ({by_folder})")


if __name__ == "__main__":
    run_stage_command(main)
