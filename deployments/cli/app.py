"""`tidemill`, for people.

Thin: everything in it is a flow, a stage or a service started. Results on stdout, progress on
stderr.
"""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deployments.cli.check import add_check_command
from deployments.cli.datasets import add_dataset_commands
from deployments.cli.feed import add_feed_commands
from deployments.cli.leaks import add_leaks_command
from deployments.cli.output import AsJson, report_json
from deployments.cli.quarantine import add_quarantine_commands
from deployments.cli.replay import add_replay_command
from tasks.core.errors import TidemillError

INTERRUPTED = 130  # exit code of a command that Ctrl-C ended, as shells have it


class _ErrorReportingGroup(TyperGroup):
    """An error that a person can fix ends a command with its message alone and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except TidemillError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_ErrorReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help=(
        "From a feed to a forecast with honest intervals that stays right. `tidemill run` turns the whole"
        " mill once."
    ),
)


@app.command()
def run(
    dataset: Annotated[
        str | None, typer.Option(help="Make this dataset current first.", metavar="NAME")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole chain on a Prefect server, then ask the built service for a forecast and
    write the page.
    """
    # This and every import below: `--help` stays fast
    from deployments.console.pages.run import NEXT
    from deployments.ops.run import run_chain

    try:
        done = run_chain(dataset, _say)
    except KeyboardInterrupt:
        _say(
            "Interrupted. Stages that have ended are kept; `tidemill run` goes on with the one that was"
            " stopped."
        )
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        plain = {**done._asdict(), "decision": done.decision.render()}
        report_json({**plain, "next": [command for command, _ in NEXT]})
        return
    from deployments.cli.tables import report_forecast

    report_forecast(done.forecast, done.forecast["absent"])
    print(f"\nGate: {done.decision.decision}. {done.decision.reason}")
    print(f"Page: {done.page}")
    print("Next:")
    for command, why in NEXT:
        print(f"  {command:<30} {why}")


@app.command()
def up(
    kafka: Annotated[
        bool,
        typer.Option("--kafka", help="Start a Kafka broker too (Java 17 and Maven fetch it the first time)."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start Prefect, MLflow, the service, a worker and the dataset's feed if it has one, wait
    until each answers, and leave them running.
    """
    from deployments.ops.operate import start_parts

    started = start_parts(_say, kafka)
    if as_json:
        report_json(started._asdict())
        return
    for name, address in started.addresses.items():
        print(f"{name:<10}{address}")
    print(f"{'log':<10}{started.log}")
    print("`tidemill down` stops them.")


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop what `up` started, and nothing else."""
    from deployments.ops.operate import stop_parts

    stopped = stop_parts(_say)
    if as_json:
        report_json({"stopped": stopped})


@app.command()
def forecast(
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Speak from what was known at this time (ISO 8601, UTC unless it says otherwise).",
            metavar="T",
        ),
    ] = None,
    series: Annotated[str | None, typer.Option(help="One series; all by default.", metavar="NAME")] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast with the champion, without a server."""
    from deployments.cli.tables import report_forecast
    from deployments.ops.forecast import make_forecast

    made = make_forecast(as_of, series)
    if as_json:
        report_json(made)
    else:
        report_forecast(made)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show dataset, champion, last decisions, the age of the data, and what runs."""
    from deployments.ops.status import read_checkout_status

    current = read_checkout_status()
    if as_json:
        report_json(current)
        return
    from deployments.cli.tables import report_status

    report_status(current)


@app.command()
def page(as_json: AsJson = False) -> None:
    """Draw every page of the current dataset from what the stages wrote, into
    TIDEMILL_HOME/report.
    """
    from deployments.console.report import write_pages

    paths = [str(path) for path in write_pages()]
    if as_json:
        report_json({"pages": paths})
    else:
        print("\n".join(paths))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look for what is wrong here and say what to do; exit code 1 when something is."""
    from deployments.ops.doctor import convert_findings, list_findings

    findings = list_findings()
    if as_json:
        report_json(convert_findings(findings))
    else:
        from deployments.cli.tables import report_findings

        report_findings(findings)
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)


add_dataset_commands(app)
add_leaks_command(app)
add_check_command(app)
add_feed_commands(app)
add_quarantine_commands(app)
add_replay_command(app)


_say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
