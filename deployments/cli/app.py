"""The command `tidemill`: each subcommand starts a flow, a stage or a service.

Results go to stdout, progress goes to stderr.
"""

import errno
import sys
import time
from enum import StrEnum
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deployments.cli.alerts import add_alerts_commands
from deployments.cli.approvals import add_approval_commands
from deployments.cli.audit import add_audit_commands
from deployments.cli.check import add_check_command
from deployments.cli.datasets import add_dataset_commands
from deployments.cli.exit_codes import ExitCode
from deployments.cli.feed import add_feed_commands
from deployments.cli.jobs import add_jobs_commands
from deployments.cli.keys import add_key_commands
from deployments.cli.leaks import add_leaks_command
from deployments.cli.operate import add_operate_commands
from deployments.cli.output import AsJson, report_json, report_progress
from deployments.cli.proxy import add_proxy_commands
from deployments.cli.quarantine import add_quarantine_commands
from deployments.cli.releases import add_release_commands
from deployments.cli.replay import add_replay_command
from deployments.cli.rollout import add_rollout_commands
from deployments.cli.simulate import add_simulate_command
from tasks.core.errors import TidemillError

# What a person changes outside: permissions, a full disk, a file where a folder should be
_FIXABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EISDIR,
}

_WATCH_S = 2.0


class _LogLevels(StrEnum):
    """Values of `--log-level`."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class _ErrorReportingGroup(TyperGroup):
    """Report an error that people can fix as its message alone, with its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of the command line."""
        try:
            return super().invoke(ctx)
        except TidemillError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            raise typer.Exit(ExitCode.ERROR) from error
        except OSError as error:
            if error.errno not in _FIXABLE or error.filename is None:
                raise
            advice = "Correct the path, its permissions or its disk; `tidemill doctor` shows what is wrong."
            typer.echo(f"{type(error).__name__}: {error.filename}: {error.strerror}. {advice}", err=True)
            raise typer.Exit(ExitCode.ERROR) from error


app = typer.Typer(
    cls=_ErrorReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Forecasts with calibrated intervals from a feed, kept up to date. `tidemill run` runs the whole"
        " chain once."
    ),
)


def _report_version(asked: bool) -> None:
    if asked:
        print(f"tidemill {metadata.version('tidemill')}")
        raise typer.Exit(ExitCode.OK)


def _apply_no_color(asked: bool) -> None:
    if asked:
        from tasks.edges.settings import apply_no_color

        apply_no_color()


@app.callback()
def configure(
    version: Annotated[  # noqa: ARG001  (it acts by its callback)
        bool,
        typer.Option("--version", help="Print the version and end.", callback=_report_version, is_eager=True),
    ] = False,
    no_color: Annotated[  # noqa: ARG001  (it acts by its callback)
        bool,
        typer.Option(
            "--no-color",
            help="Print without colors, as with NO_COLOR in the environment.",
            callback=_apply_no_color,
            is_eager=True,
        ),
    ] = False,
    log_level: Annotated[
        _LogLevels | None,
        typer.Option(
            "--log-level",
            help="Progress on stderr: debug has what each stage prints, warning and error have none.",
        ),
    ] = None,
) -> None:
    """Options of every command; they come before its name."""
    if log_level is not None:
        from tasks.edges.settings import apply_log_level

        apply_log_level(log_level.value)


@app.command()
def run(
    dataset: Annotated[
        str | None, typer.Option(help="Make this dataset current first.", metavar="NAME")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole chain on a Prefect server, print the service's forecast, write the page."""
    # Imported here, as in every command: `--help` stays fast
    from deployments.console.pages.run import NEXT
    from deployments.ops.run import run_chain

    try:
        chain_run = run_chain(dataset, report_progress)
    except KeyboardInterrupt:
        report_progress(
            "Interrupted. Stages that have ended are kept; `tidemill run` continues with the one that was"
            " stopped."
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if as_json:
        content = {**chain_run._asdict(), "decision": chain_run.decision.render()}
        report_json({**content, "next": [command for command, _ in NEXT]})
        return
    from deployments.cli.tables import report_forecast

    report_forecast(chain_run.forecast, chain_run.forecast["absent"])
    print(f"\nGate: {chain_run.decision.decision}. {chain_run.decision.reason}")
    print(f"Page: {chain_run.page}")
    print(f"Took {chain_run.seconds:.0f} s. Next:")
    for command, purpose in NEXT:
        print(f"  {command:<30} {purpose}")


@app.command()
def forecast(
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Forecast from what was known at this time (ISO 8601, UTC unless it says otherwise).",
            metavar="T",
        ),
    ] = None,
    series: Annotated[str | None, typer.Option(help="One series; all by default.", metavar="NAME")] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast with the champion, without a server; exit code 3 when nothing can be forecast."""
    from deployments.cli.tables import report_forecast
    from deployments.ops.forecast import make_forecast

    content = make_forecast(as_of, series)
    if as_json:
        report_json(content)
    else:
        report_forecast(content, content["absent"])
    if not content["series"]:
        raise typer.Exit(ExitCode.NO_FORECAST)


@app.command()
def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again every 2 s until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the loop at a glance: freshness, champion, levels, alarms, retraining, processes."""
    from deployments.ops.status import read_checkout_status

    while True:
        current = read_checkout_status()
        if as_json:
            report_json(current)
        else:
            from deployments.cli.tables import report_status

            report_status(current, is_redrawn=watch)
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(_WATCH_S)


@app.command()
def refresh(as_json: AsJson = False) -> None:
    """Publish the rows that the source has now; the next forecast is made from them.

    Nothing is trained. `tidemill up` and the flow `refresh` do it by themselves.
    """
    from tasks.refresh.stage import refresh_rows

    refreshed = refresh_rows(report=report_progress)
    if as_json:
        report_json(refreshed.model_dump(mode="json"))
        return
    print(
        f"{refreshed.n_new:+,} rows, {refreshed.n_rows:,} now, {refreshed.n_quarantined:,} break the"
        f" contract; as of {refreshed.as_of:%F %T} UTC."
    )


@app.command()
def page(as_json: AsJson = False) -> None:
    """Write every page of the current dataset into TIDEMILL_HOME/report."""
    from deployments.console.report import write_pages

    paths = [str(path) for path in write_pages()]
    if as_json:
        report_json({"pages": paths})
    else:
        print("\n".join(paths))


@app.command()
def docs(
    pdf: Annotated[bool, typer.Option("--pdf", help="Each card as a PDF, too (needs weasyprint).")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a portal of the releases, with the card of each kept one, into TIDEMILL_HOME/docs."""
    from deployments.console.pages.releases import write_portal
    from tasks.edges.params import read_dataset

    paths = [str(path) for path in write_portal(read_dataset(), with_pdf=pdf)]
    if as_json:
        report_json({"pages": paths})
    else:
        print("\n".join(paths))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check for problems and show what to do; exit code 1 when there is one."""
    from deployments.ops.doctor import convert_findings, list_findings

    findings = list_findings()
    if as_json:
        report_json(convert_findings(findings))
    else:
        from deployments.cli.tables import report_findings

        report_findings(findings)
    if not all(finding.well for finding in findings):
        raise typer.Exit(ExitCode.PROBLEM)


add_operate_commands(app)
add_dataset_commands(app)
add_leaks_command(app)
add_check_command(app)
add_feed_commands(app)
add_jobs_commands(app)
add_key_commands(app)
add_quarantine_commands(app)
add_release_commands(app)
add_approval_commands(app)
add_replay_command(app)
add_rollout_commands(app)
add_proxy_commands(app)
add_simulate_command(app)
add_alerts_commands(app)
add_audit_commands(app)
