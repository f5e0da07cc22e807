"""`tidemill alerts`: what is wrong now, and whether each address can be reached."""

import typer

from deployments.cli.exit_codes import ExitCode
from deployments.cli.output import AsJson, report_json

alerts_app = typer.Typer(
    help="Alarms that are open, and the addresses they are sent to.", no_args_is_help=True
)


def add_alerts_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.add_typer(alerts_app, name="alerts")


@alerts_app.command("list")
def list_alarms(as_json: AsJson = False) -> None:
    """Show open alarms with their runbooks, and the messages that wait for each address.

    `tidemill up` looks for alarms every ten seconds.
    """
    from deployments.ops.alerts import read_alerts_status

    status = read_alerts_status()
    if as_json:
        report_json(status)
        return
    from deployments.cli.tables import report_rows

    if status.looked_at is None:
        print("Nothing has looked for alarms yet; `tidemill up` does.")
        return
    print(f"As of {status.looked_at:%F %T} UTC: {len(status.alarms) or 'no'} open alarms.")
    for alarm in status.alarms:
        sent = "" if alarm.notified_at else " (not sent: cool-down or silence)"
        print(
            f"{alarm.severity.upper()} {alarm.dataset or 'machine'}: {alarm.name} {alarm.subject}".rstrip()
            + f", since {alarm.opened_at:%F %T} UTC{sent}: {alarm.summary}\n    {alarm.runbook}"
        )
    if status.addresses:
        report_rows([address.model_dump() for address in status.addresses])


@alerts_app.command("test")
def send_test(as_json: AsJson = False) -> None:
    """Send a test message to each address of TIDEMILL_ALERTS; exit code 1 when one fails."""
    from deployments.ops.alerts import send_test_messages

    results = send_test_messages()
    if as_json:
        report_json([result.model_dump() for result in results])
    else:
        for result in results:
            print(f"{result.address}: {result.fault or 'accepted'}")
    if any(result.fault for result in results):
        raise typer.Exit(ExitCode.PROBLEM)
