"""The DVC command `python -m tasks.features`: data/clean, tasks/extensions -> data/features."""

from pathlib import Path

from tasks.core.extensions import list_extension_folders
from tasks.core.frames import FEATURES, SERIES, VINTAGES
from tasks.core.reports.features import LeadingColumns
from tasks.edges.artifacts import (
    read_frame,
    write_folder,
    write_frame,
    write_json,
    write_report,
    write_sessions,
)
from tasks.edges.command import run_stage_command
from tasks.edges.files import compute_file_hash
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.features.functions import resolve_functions
from tasks.features.leaks import find_leaks
from tasks.features.params import FeatureParams
from tasks.features.stage import build_feature_set

ROWS = "data/clean/rows.parquet"


def main(root: Path = ROOT) -> None:
    """Read the clean rows, compute, run the leak gate, and write all outputs in one rename.

    A finding does not stop this stage: the verdict is next to the table, and train and promote
    refuse both.
    """
    document, rows = read_document(root), read_frame(root / ROWS, SERIES)
    about, declared = document.about, document.parse_stage("features", FeatureParams)
    params = resolve_functions(declared, *list_extension_folders(root))
    features = build_feature_set(rows, about, params)
    with write_folder(root / "data/features") as folder:
        write_frame(folder / "table.parquet", features.table, FEATURES)
        write_frame(folder / "vintages.parquet", features.vintages, VINTAGES)
        write_json(folder / "schema.json", features.schema.model_dump())
        write_report(folder / "gaps.json", features.gaps)
        # with the source of a user's functions: a release computes by this file
        write_json(folder / "features.json", features.params.model_dump(mode="json"))
        # later stages compute the time of a step without the exchange library
        write_sessions(folder, features.calendar)
        table_hash, data_version = compute_file_hash(folder / "table.parquet"), compute_file_hash(root / ROWS)
        verdict = find_leaks(
            rows,
            about,
            features.params,
            features.table,
            features.calendar,
            table_hash=table_hash,
            data_version=data_version,
        )
        write_json(folder / "leaks.json", verdict.model_dump(mode="json"))
        write_report(folder / "leading.json", LeadingColumns(verdict.leading))
    for finding in verdict.findings:
        print(f"leak ({finding.rule}): {finding.says}")
    n_gaps = int(features.table["is_gap"].sum())
    print(
        f"features: {features.table.height} steps of {len(features.gaps.root)} series, {n_gaps} of them gaps;"
        f" {len(features.schema.columns)} columns; {len(verdict.findings)} leaks found"
    )


if __name__ == "__main__":
    run_stage_command(main)
