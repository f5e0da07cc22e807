"""`tidemill simulate`: the whole loop over years of history, under several policies."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.output import AsJson, report_json, report_progress

if TYPE_CHECKING:
    from tasks.core.reports.simulate import SimulationReport


def add_simulate_command(app: typer.Typer) -> None:
    """Put the command on *app*."""
    app.command("simulate")(simulate)


def simulate(
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="First simulated time (ISO 8601); the earliest possible by default.",
            metavar="T",
        ),
    ] = None,
    every: Annotated[int, typer.Option(help="Steps between two looks at the champion.", min=1)] = 5,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "never, always, every:STEPS or loop (the decision of the stage `retrain`); several are"
                " compared. By default never, every:63 and loop."
            )
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay the whole loop over the dataset's history, and compare policies of retraining.

    A simulation that was stopped goes on where it was.
    """
    # Imported here: `--help` stays fast
    from deployments.console.pages.simulate import write_simulation_page
    from tasks.simulate.policy import DEFAULT_POLICIES
    from tasks.simulate.stage import simulate_policies

    names = tuple(policy) if policy else DEFAULT_POLICIES
    report = simulate_policies(names, _parse_time(since), every, report=report_progress)
    path = write_simulation_page(report)
    if as_json:
        report_json({**report.render(), "page": str(path)})
        return
    _report_table(report)
    print(report.conclusion)
    print(f"Page: {path}")


def _parse_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a time; write for example 2012-01-31.", param_hint="--from"
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _report_table(report: "SimulationReport") -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("policy", "loss", "coverage", "drift alarms", "trainings", "promoted", "CPU s")
    table = Table(*columns)
    for result in report.policies:
        table.add_row(
            result.policy,
            _format(result.loss, ".4g"),
            _format(result.coverage_frac, ".1%"),
            str(result.n_drift_alarms),
            str(result.n_retrainings),
            str(result.n_promotions),
            f"{result.compute_s:.0f}",
        )
    Console().print(table)


def _format(value: float | None, form: str) -> str:
    return "not known" if value is None else format(value, form)
