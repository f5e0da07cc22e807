"""`tidemill up`, `down`, `logs` and `remove`: starting, stopping, looking after what runs leave."""

import time
from typing import Annotated

import typer

from deployments.cli.output import AsJson, report_json, report_progress
from tasks.core.errors import SettingsError

_FOLLOW_S = 0.5


def add_operate_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("logs")(logs)
    app.command("remove")(remove)


def up(
    kafka: Annotated[
        bool,
        typer.Option(
            "--kafka", help="Start a Kafka broker, too (Java 17 and Maven fetch it the first time)."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start Prefect, MLflow, the service, a worker and the dataset's feed, and leave them running.

    Waits until each answers.
    """
    from deployments.ops.operate import start_parts

    started = start_parts(report_progress, kafka)
    if as_json:
        report_json(started._asdict())
        return
    for name, address in started.addresses.items():
        print(f"{name:<10}{address}")
    print(f"{'log':<10}{started.log}")
    print("`tidemill down` stops them.")


def down(as_json: AsJson = False) -> None:
    """Stop what `up` started, and nothing else."""
    from deployments.ops.operate import stop_parts

    stopped = stop_parts(report_progress)
    if as_json:
        report_json({"stopped": stopped})


def logs(
    part: Annotated[
        str | None,
        typer.Argument(help="One part (service, prefect, mlflow, worker, feed, ...); all by default."),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the newest.", min=1)] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new ones until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the newest lines of the log of `up`, and of what `run` started."""
    from deployments.ops.logs import follow_log, read_log

    log = read_log(part, lines)
    if as_json:
        report_json({"log": str(log.path), "lines": log.lines})
        return
    print("\n".join(log.lines))
    report_progress(f"({log.path})")
    if follow:
        for line in follow_log(log, lambda: time.sleep(_FOLLOW_S)):
            print(line, flush=True)


def remove(
    dataset: Annotated[str, typer.Argument(help="A dataset that is not the current one.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a dataset: its entry in params.yaml and all that runs left of it in TIDEMILL_HOME.

    Your own files and what MLflow and Prefect have stay, and so does every other dataset.
    """
    from deployments.ops.remove import apply_removal, plan_removal

    removal = plan_removal(dataset)
    if not yes:
        for thing in removal.describe():
            typer.echo(f"  {thing}", err=True)
        try:
            is_confirmed = typer.confirm(f"Remove these of {dataset!r}?", err=True)
        except typer.Abort as error:
            raise SettingsError(
                f"`tidemill remove {dataset}` asks, and nothing answers here. Give `--yes`."
            ) from error
        if not is_confirmed:
            report_progress("Nothing is removed.")
            return
    apply_removal(removal)
    if as_json:
        report_json({"dataset": dataset, "removed": removal.describe()})
    else:
        report_progress(f"{dataset} is removed.")
