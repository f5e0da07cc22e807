"""`tidemill releases`, `rollback`, `diff`, `backtest`, `restore`: releases that were champion."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.output import AsJson, report_json, report_progress

OfDataset = Annotated[str, typer.Option("--dataset", help="By default the current one.", metavar="NAME")]
Version = Annotated[str, typer.Argument(help="Version, or the beginning of its digest.", metavar="V")]
By = Annotated[
    str, typer.Option(help="Who does it; by default TIDEMILL_OPERATOR, or your user name.", metavar="NAME")
]


def add_release_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    for command in (releases, rollback, diff, backtest, restore):
        app.command()(command)


def releases(dataset: OfDataset = "", as_json: AsJson = False) -> None:
    """List the releases that are or were champion: version, when, who, why, whether it is kept."""
    # Imported here, as in every command: `--help` stays fast
    from tasks.release.kept import list_releases

    known = list_releases(dataset or read_current_dataset())
    if as_json:
        report_json([release._asdict() for release in known])
        return
    for release in known:
        since = f"{release.promoted_at:%F %T}Z" if release.promoted_at else "unknown since when"
        kept = "kept" if release.is_kept else "deleted"
        sign = "*" if release.is_champion else " "
        print(f"{sign} {release.version}  {release.digest[:12]}  {since}  {kept}  {release.model}")
        print(f"    {release.action} by {release.by or 'unknown'}: {release.why}")


def rollback(
    to: Annotated[
        str | None,
        typer.Option(help="Version to go to; by default the champion before this one.", metavar="V"),
    ] = None,
    reason: Annotated[str, typer.Option(help="For the journal and the changelog.")] = "rolled back by hand",
    by: By = "",
    dataset: OfDataset = "",
    as_json: AsJson = False,
) -> None:
    """Take the champion back: an earlier release, verified first, answers within seconds.

    Neither Prefect nor MLflow is needed. The gate does not promote what was taken back again on the
    same evidence.
    """
    from tasks.edges.settings import get_operator
    from tasks.release.kept import apply_rollback

    champion = apply_rollback(dataset or read_current_dataset(), to, by or get_operator(), reason)
    if as_json:
        report_json(champion)
        return
    print(f"{champion.version} ({champion.digest[:12]}) is champion of {champion.dataset}.")
    print("\n".join(f"  {change}" for change in champion.changes))


def diff(before: Version, after: Version, dataset: OfDataset = "", as_json: AsJson = False) -> None:
    """Show in words how one release differs from another."""
    from tasks.release.kept import compare_versions

    found = compare_versions(dataset or read_current_dataset(), before, after)
    if as_json:
        report_json(found._asdict())
        return
    print(f"{found.before} -> {found.after}: {found.part}")
    print("\n".join(f"  {change}" for change in found.changes or ["nothing but the data"]))


def backtest(
    release: Annotated[str, typer.Option(help="Version, or the beginning of its digest.", metavar="V")],
    first: Annotated[
        str | None, typer.Option("--from", help="First cutoff; by default its `seen_until`.", metavar="T")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", help="Last cutoff; by default the newest known.", metavar="T")
    ] = None,
    stride_steps: Annotated[int, typer.Option(min=1, help="Every so many cutoffs one is used.")] = 1,
    dataset: OfDataset = "",
    as_json: AsJson = False,
) -> None:
    """Score a kept release, frozen as it is, on rows that it has not seen."""
    from deployments.ops.backtest import backtest_release

    name = dataset or read_current_dataset()
    result = backtest_release(name, release, first, last, stride_steps, report_progress)
    if as_json:
        report_json({**result.head, "rows": result.rows.to_dicts()})
        return
    from tasks.core.numbers import format_number

    head, overall = result.head, result.rows.row(0, named=True)
    print(
        f"{head['n_cutoffs']} cutoffs from {head['first_cutoff']} to {head['last_cutoff']}; by step: --json"
    )
    for score, value in overall.items():
        if isinstance(value, float):
            name = str(head["primary_score"]) if score == "primary" else score
            print(f"  {name:<16}{format_number(value)}")


def restore(
    version: Version,
    into: Annotated[
        Path | None, typer.Option(help="Folder to make; by default in TIDEMILL_HOME/worktrees.")
    ] = None,
    dataset: OfDataset = "",
    as_json: AsJson = False,
) -> None:
    """Make a git worktree with code, parameters, data and models of a release."""
    from deployments.ops.restore import restore_release

    done = restore_release(dataset or read_current_dataset(), version, into)
    if as_json:
        report_json(done._asdict())
        return
    print(f"{done.version}: commit {done.commit[:12]}, {done.n_files:,} files of DVC, in {done.folder}")
    if done.has_other_code:
        typer.echo("It was built with uncommitted changes, which no worktree has.", err=True)
    typer.echo(f"`git worktree remove --force {done.folder}` removes it.", err=True)


def read_current_dataset() -> str:
    """The current dataset of the checkout."""
    from tasks.edges.params import read_dataset

    return read_dataset()
