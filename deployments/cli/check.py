"""`tidemill check`: check the datasets of params.yaml, or a user's own code by its laws."""

import json
from typing import Annotated, Any

import typer

from deployments.cli.exit_codes import ExitCode
from deployments.cli.output import AsJson, report_json
from tasks.core.errors import ParamsError

FOUND_CHARS = 300  # in the table; `--json` has all
_EXAMPLE = "Write for example '{\"window_steps\": 3}'."


def add_check_command(app: typer.Typer) -> None:
    """Put the command on *app*."""
    app.command("check")(check)


def check(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A model, a feature function or a source of your own; without it: every dataset.",
            metavar="[tasks/extensions/FILE.py:NAME]",
        ),
    ] = None,
    params: Annotated[
        str, typer.Option(help="Parameters of the model, or options of the source, as JSON.", metavar="JSON")
    ] = "{}",
    column: Annotated[
        str | None, typer.Option(help="The function gets this column's values; z by default.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="The function gets a frame of event_time and these columns: a,b,c.")
    ] = None,
    lookback_steps: Annotated[
        int | None,
        typer.Option(help="How many steps before the row the function reads; as in params.yaml.", min=0),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(help="Files of the source, a path or a glob; as in params.yaml.", metavar="PATH"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every dataset's parameters, models and files, before anything runs.

    With a model, a feature or a source of your own: check its laws. Exit code 1 when something is
    wrong.
    """
    if target is None:
        _check_datasets(as_json)
        return
    # Imported here: `--help` needs neither polars nor the models
    from deployments.ops.check import CheckOptions, build_check_report

    names = tuple(name.strip() for name in columns.split(",")) if columns else ()
    options = CheckOptions(_parse_json(params), column, names, lookback_steps, tuple(files or ()))
    report = build_check_report(target, options)
    if as_json:
        laws = [verdict._asdict() for verdict in report.verdicts]
        report_json({"target": target, "kind": report.kind, "passed": report.passed, "laws": laws})
    else:
        _report_verdicts(target, report.kind, report.verdicts)
    if not report.passed:
        raise typer.Exit(ExitCode.PROBLEM)


def _check_datasets(as_json: bool) -> None:
    from deployments.ops.check_datasets import check_datasets

    checks = check_datasets()
    if as_json:
        rows = [{**found._asdict(), "passed": not found.faults} for found in checks]
        report_json({"passed": not any(found.faults for found in checks), "datasets": rows})
    else:
        for found in checks:
            current = " (current)" if found.current else ""
            print(f"{'WRONG' if found.faults else 'ok   '} {found.dataset}{current}")
            for fault in found.faults:
                print(f"      {fault}")
    if any(found.faults for found in checks):
        raise typer.Exit(ExitCode.PROBLEM)


def _parse_json(text: str) -> dict[str, object]:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise ParamsError(
            f"--params {text!r} is not JSON ({error}). Write for example '{{\"k\": 3}}'."
        ) from error
    if not isinstance(parsed, dict):
        raise ParamsError(f"--params {text!r} is not an object. {_EXAMPLE}")
    return parsed


def _report_verdicts(target: str, kind: str, verdicts: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    fixes = [] if all(verdict.passed for verdict in verdicts) else ["how to fix"]
    table = Table("law", "", "found", *fixes, show_lines=True)
    for verdict in verdicts:
        found = verdict.found if len(verdict.found) < FOUND_CHARS else f"{verdict.found[:FOUND_CHARS]}..."
        row = (verdict.law, "passed" if verdict.passed else "FAILED", found, verdict.fix)
        table.add_row(*row[: 3 + len(fixes)])
    Console().print(table)
    n_failed = sum(not verdict.passed for verdict in verdicts)
    result = (
        f"{n_failed} of {len(verdicts)} laws are broken" if n_failed else f"keeps all {len(verdicts)} laws"
    )
    print(f"{target} ({kind}): {result}.")
