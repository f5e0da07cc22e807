"""The DVC command `python -m tasks.validate`: data/raw -> data/clean, data/quarantine, reports."""

import shutil
from pathlib import Path

from tasks.core.frames import QUARANTINE, SERIES
from tasks.edges.artifacts import read_frame, write_folder, write_frame, write_json, write_report
from tasks.edges.command import run_stage_command
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT
from tasks.validate.params import ValidateParams
from tasks.validate.stage import (
    ValidatedRows,
    build_limit_error,
    get_failed_folder,
    is_over_limit,
    validate_rows,
)


def main(root: Path = ROOT) -> None:
    """Read the raw rows, split them, write both parts and the report.

    Above the limit only a copy in TIDEMILL_HOME is written.
    """
    document = read_document(root)
    params = document.parse_stage("validate", ValidateParams)
    validated = validate_rows(read_frame(root / "data/raw/rows.parquet", SERIES), document.about, params)
    failed = get_failed_folder(document.dataset)
    # DVC's outs change only when the stage succeeds, so what stops it is written elsewhere
    if is_over_limit(validated.summary, params):
        with write_folder(failed) as folder:
            write_frame(folder / "rows.parquet", validated.quarantined, QUARANTINE)
            _write_figures(folder, validated)
            _write_report(folder, validated)
        location = f"{failed} (rows.parquet; `tidemill page` shows them)"
        raise build_limit_error(validated.summary, validated.quarantined, params, location)
    shutil.rmtree(failed, ignore_errors=True)  # of an earlier run
    with write_folder(root / "data/clean") as folder:
        write_frame(folder / "rows.parquet", validated.clean, SERIES)
        _write_figures(folder, validated)
    with write_folder(root / "data/quarantine") as folder:
        write_frame(folder / "rows.parquet", validated.quarantined, QUARANTINE)
    with write_folder(root / "data/reports/validate") as folder:
        _write_report(folder, validated)
    summary = validated.summary
    print(
        f"validate: {summary.clean:,} rows clean, {summary.quarantined:,} in quarantine"
        f" ({summary.quarantined_frac:.3%}); {validated.gaps.height:,} gaps"
    )


def _write_figures(folder: Path, validated: ValidatedRows) -> None:
    write_report(folder / "profile.json", validated.profile)
    validated.gaps.write_parquet(folder / "gaps.parquet")


def _write_report(folder: Path, validated: ValidatedRows) -> None:
    write_json(folder / "suite.json", validated.suite)
    write_report(folder / "result.json", validated.result)
    write_report(folder / "summary.json", validated.summary)


if __name__ == "__main__":
    run_stage_command(main)
