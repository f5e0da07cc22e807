"""`tidemill leaks`: check whether a feature uses data that was not available yet."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.datasets import select_one_file
from deployments.cli.exit_codes import ExitCode
from deployments.cli.output import AsJson, report_json

if TYPE_CHECKING:
    from deployments.ops.leaks import LeakReport

_File = str | None


def add_leaks_command(app: typer.Typer) -> None:
    """Put the command on *app*."""
    app.command("leaks")(leaks)


def leaks(
    function: Annotated[
        str | None,
        typer.Option(
            help="Check this function alone: my_module.py in tasks/extensions, or here.",
            metavar="my_module:my_feature",
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            help="The function gets this column's values; z by default, the target as models see it."
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="The function gets a frame of event_time and these columns: a,b,c.")
    ] = None,
    lookback_steps: Annotated[
        int, typer.Option(help="How many steps before the row the function reads.", min=0)
    ] = 0,
    csv: Annotated[
        _File,
        typer.Option(
            help="Check this CSV file instead of the current dataset, read as `tidemill new` reads it.",
            metavar="FILE",
        ),
    ] = None,
    parquet: Annotated[_File, typer.Option(help="Likewise a Parquet file.", metavar="FILE")] = None,
    json_file: Annotated[_File, typer.Option(help="Likewise a JSON file.", metavar="FILE")] = None,
    jsonl: Annotated[
        _File, typer.Option(help="Likewise a file with one JSON record per line.", metavar="FILE")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The file's column to forecast.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check whether a feature uses data not available at its cutoff; exit code 1 when one does."""
    # Imported here: `--help` does not need polars
    from deployments.ops.leaks import LeakCheckFiles, build_function, build_leak_report

    given = {"csv": csv, "parquet": parquet, "json": json_file, "jsonl": jsonl}
    # Keys are formats
    files = LeakCheckFiles(*select_one_file(given), target) if any(given.values()) else None  # type: ignore[arg-type]
    report = build_leak_report(
        build_function(function, column, columns, lookback_steps) if function else None, files
    )
    if as_json:
        report_json(report)
    else:
        _report_findings(report)
    if report.findings:
        raise typer.Exit(ExitCode.PROBLEM)


def _report_findings(report: "LeakReport") -> None:
    from rich.console import Console
    from rich.table import Table

    recomputed = report.checks["recomputed"]
    print(
        f"{report.dataset}: {len(report.features)} features, {recomputed['n_values']} values recomputed at"
        f" {recomputed['n_cutoffs']} cutoffs."
    )
    for rule, figures in report.checks.items():
        if rule != "recomputed":
            print(
                f"  {rule}: "
                + ", ".join(f"{key} {value}" for key, value in figures.items() if value is not None)
            )
    if leading := max(report.leading, key=lambda row: row.standard_errors / row.limit, default=None):
        print(
            f"  leading: columns {len(report.leading)}, most {leading.column} r {leading.r} at"
            f" {leading.kind} {leading.lead_steps}, r_now {leading.r_now}"
        )
    if not report.findings:
        print("No leak found.")
        return
    table = Table("rule", "feature", "series", "cutoff", "value seen", "value allowed")
    for finding in report.findings:
        table.add_row(
            *(
                "-" if (value := getattr(finding, key)) is None else str(value)
                for key in ("rule", "feature", "series_id", "cutoff", "seen", "allowed")
            )
        )
    Console().print(table)
    for finding in report.findings:
        print(f"- {finding.says}")
