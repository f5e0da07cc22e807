"""`tidemill rollout`: a challenger that takes over by steps."""

from typing import Annotated, Any

import typer

from deployments.cli.output import AsJson, report_json, report_progress

rollout_app = typer.Typer(
    help="A challenger that takes over by steps: status, judge, pause, resume, abort.", no_args_is_help=True
)
Reason = Annotated[str, typer.Option(help="Why; it is in the journal.", metavar="TEXT")]


def add_rollout_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.add_typer(rollout_app, name="rollout")


@rollout_app.command()
def status(as_json: AsJson = False) -> None:
    """Show the last rollout of the current dataset: its weight, its evidence, its moves."""
    # Imported here, as in every command: `--help` stays fast
    from tasks.edges.params import read_dataset
    from tasks.edges.rollouts import find_judgement, read_rollout_moves

    dataset = read_dataset()
    moves = read_rollout_moves(dataset)
    last = [move for move in moves if move.challenger == moves[-1].challenger]
    judgement = find_judgement(dataset)
    if as_json:
        report = None if judgement is None else judgement.render()
        report_json({"moves": [_describe(move) for move in last], "judgement": report})
        return
    if not last:
        print(f"No release of {dataset} has been rolled out by steps (`rollout.steps_frac` of params.yaml).")
        return
    rollout = last[-1]
    print(f"{rollout.model} {rollout.challenger[:12]} against {rollout.champion[:12]}: {rollout.state}")
    for move in last:
        print(f"  {move.moved_as_of:%F %T}  {move.weight:>4.0%}  {move.by}: {move.reason}")
    if judgement is not None and judgement.action == "wait":
        print(f"Last judgement: {judgement.reason}")


@rollout_app.command()
def judge(as_json: AsJson = False) -> None:
    """Judge the active rollout on the published rows, and move it, as the flow `refresh` does."""
    from tasks.rollout.stage import judge_rollout

    judgement = judge_rollout(report=report_progress)
    if as_json:
        report_json(
            None if judgement is None else {"action": judgement.action, **_describe(judgement.rollout)}
        )
    else:
        print("No rollout is active." if judgement is None else f"{judgement.action}: {judgement.reason}")


@rollout_app.command()
def pause(reason: Reason = "", as_json: AsJson = False) -> None:
    """Hold the weight of the challenger; if it must, it still goes back."""
    _apply("pause", reason, as_json=as_json)


@rollout_app.command()
def resume(reason: Reason = "", as_json: AsJson = False) -> None:
    """Go on with a rollout that is paused."""
    _apply("resume", reason, as_json=as_json)


@rollout_app.command()
def abort(reason: Reason = "", as_json: AsJson = False) -> None:
    """Take the challenger back: the champion answers for all series again."""
    _apply("abort", reason, as_json=as_json)


def _apply(command: Any, reason: str, *, as_json: bool) -> None:
    from tasks.edges.params import read_dataset
    from tasks.edges.rollouts import OPERATOR, apply_rollout_command

    rollout = apply_rollout_command(read_dataset(), command, OPERATOR, reason)
    if as_json:
        report_json(_describe(rollout))
    else:
        print(f"{rollout.model} {rollout.challenger[:12]} is {rollout.state} at {rollout.weight:.0%}.")


def _describe(rollout: Any) -> dict[str, object]:
    """Without the gate's decision, which the registry has."""
    return {**rollout.model_dump(mode="json", exclude={"decision"}), "weight": rollout.weight}
