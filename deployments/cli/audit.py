"""`tidemill audit`: what the service has answered, to whom, and whether the record was changed."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from deployments.cli.exit_codes import ExitCode
from deployments.cli.output import AsJson, report_json

audit_app = typer.Typer(
    help="The audit of the service's answers: show, verify. Each answer has a row, in a chain of hashes.",
    no_args_is_help=True,
)
OfDataset = Annotated[str, typer.Option("--dataset", help="By default the current one.")]


def add_audit_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.add_typer(audit_app, name="audit")


@audit_app.command()
def show(
    dataset: OfDataset = "",
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest answers.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest answers: row, time, caller, tenant, route, version, id.

    `--json` has also the request, the digests, and what the answer was made from.
    """
    # Imported here, as in every command: `--help` stays fast
    from tasks.edges.audit_check import list_audit

    rows = list_audit(dataset or _read_dataset(), limit)
    if as_json:
        report_json([row._asdict() for row in rows])
        return
    for row in rows:
        time = f"{datetime.fromtimestamp(row.made_at / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}"
        caller = f"{row.principal} ({row.tenant})"
        print(f"{row.seq}  {time}  {caller}  {row.route}  {row.version or ''}  {row.prediction_id or ''}")


@audit_app.command()
def verify(dataset: OfDataset = "", as_json: AsJson = False) -> None:
    """Check that no row of the audit was changed, added, removed or moved, and no answer's step."""
    from tasks.edges.audit_check import verify_audit

    result = verify_audit(dataset or _read_dataset())
    fault = result.fault
    if as_json:
        head = None if result.head is None else result.head._asdict()
        report_json({**result._asdict(), "head": head, "fault": None if fault is None else fault._asdict()})
    elif fault is None:
        newer = f", {result.n_after_head} of them newer than the head" if result.n_after_head else ""
        print(f"{result.n_rows} rows are as they were written{newer}.")
    else:
        print(f"Row {fault.seq} is not as it was written ({fault.kind}): {fault.fact}.")
    if fault is not None:
        raise typer.Exit(ExitCode.PROBLEM)


def _read_dataset() -> str:
    from tasks.edges.params import read_dataset

    return read_dataset()
