"""`tidemill new`, `use` and `datasets`: add a dataset, choose it, list all."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.cli.output import AsJson, report_json
from tasks.core.errors import ParamsError

if TYPE_CHECKING:
    from tasks.ingest.wizard.decide.draft import EntryProposal
    from tasks.ingest.wizard.inspect.files import Format
    from tasks.ingest.wizard.inspect.inspected import OwnerAnswers

ABOUT_CHARS = 60  # the rest is in params.yaml and in --json
_File = str | None


def add_dataset_commands(app: typer.Typer) -> None:
    """Put the three commands on *app*."""
    app.command("new")(new)
    app.command("use")(use)
    app.command("datasets")(datasets)


def new(
    name: Annotated[str, typer.Argument(help="Name of the dataset: small letters, digits and _.")],
    csv: Annotated[
        _File, typer.Option(help="A CSV file, also gz, or a glob in quotes.", metavar="FILE")
    ] = None,
    parquet: Annotated[
        _File, typer.Option(help="A Parquet file or a glob in quotes.", metavar="FILE")
    ] = None,
    json_file: Annotated[
        _File,
        typer.Option(
            help="A JSON file (list of lists or of objects), also gz, or a glob in quotes.", metavar="FILE"
        ),
    ] = None,
    jsonl: Annotated[
        _File,
        typer.Option(
            help="A file with one JSON record per line, also gz, or a glob in quotes.", metavar="FILE"
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Column names of a file without header, in its order: a,b,c.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The column to forecast.")] = None,
    time: Annotated[str | None, typer.Option(help="The column of time; `none` when rows are steps.")] = None,
    time_format: Annotated[
        str | None, typer.Option(help="How times are written: iso, s, ms, us or a strptime pattern.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Zone of times without one, for example Europe/Berlin.")
    ] = None,
    series: Annotated[str | None, typer.Option(help="The column that names the series.")] = None,
    every: Annotated[str | None, typer.Option(help="Length of a step: 5m, 1h, 1d, 1mo.")] = None,
    season: Annotated[int | None, typer.Option(help="Steps in a season; 1 for none.", min=1)] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps to forecast.", min=1)] = None,
    unit: Annotated[str | None, typer.Option(help="Unit of the target.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite the entry of this name, if there is one.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the entry, write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Inspect a file and write its entry into params.yaml, with the reason of each choice."""
    # Imported here: `--help` does not need polars
    from tasks.ingest.wizard.inspect.inspected import OwnerAnswers
    from tasks.ingest.wizard.write import check_name

    check_name(name)
    pattern, kind = select_one_file({"csv": csv, "parquet": parquet, "json": json_file, "jsonl": jsonl})
    names = tuple(c.strip() for c in columns.split(",")) if columns else ()
    answers = OwnerAnswers(
        pattern, kind, names, target, time, time_format, time_zone, series, every, season, horizon, unit
    )
    _add_dataset(name, answers, replace=replace, dry_run=dry_run, as_json=as_json)


def _add_dataset(name: str, answers: "OwnerAnswers", *, replace: bool, dry_run: bool, as_json: bool) -> None:
    """Write the entry unless *dry_run*, and report it."""
    from tasks.ingest.wizard.decide.propose import build_proposal
    from tasks.ingest.wizard.inspect.inspect_files import inspect_files
    from tasks.ingest.wizard.write import render_entry, write_entry

    proposal = build_proposal(inspect_files(answers), answers)
    if not dry_run:
        write_entry(name, proposal, replace=replace)
    if as_json:
        report_json(_describe_proposal(name, proposal, written=not dry_run))
    else:
        _report_proposal(name, proposal, render_entry(name, proposal) if dry_run else "")


def use(
    name: Annotated[str, typer.Argument(help="A dataset of params.yaml.")],
    as_json: AsJson = False,
) -> None:
    """Make a dataset current: name and models in params.yaml, links to its files in data/source."""
    # Imported here: `--help` needs neither ruamel.yaml nor polars
    from tasks.ingest.wizard.use import apply_dataset

    used = apply_dataset(name)
    if as_json:
        report_json(
            {
                "dataset": used.dataset,
                "models": list(used.models),
                "files": {link: str(path) for link, path in used.links.items()},
            }
        )
        return
    source = f"data/source links to {len(used.links)} file(s)" if used.links else "its source needs no files"
    print(f"{used.dataset} is the current dataset; {source}; models: {', '.join(used.models)}.")
    print("Next: `tidemill run`, or `dvc repro`.")


def datasets(as_json: AsJson = False) -> None:
    """List the datasets of params.yaml; the current one has a star."""
    rows = _list_datasets()
    if as_json:
        report_json(rows)
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("", Column("name", no_wrap=True), "every", "target", "horizon", "season", "source", "about")
    for row in rows:
        star = "*" if row["current"] else ""
        about = (
            row["description"]
            if len(row["description"]) < ABOUT_CHARS
            else row["description"][:ABOUT_CHARS] + "..."
        )
        table.add_row(
            star,
            row["name"],
            row["every"],
            row["target"],
            str(row["horizon_steps"]),
            str(row["season_steps"]),
            row["source"],
            about,
        )
    Console().print(table)


def select_one_file(given: "dict[Format, str | None]") -> "tuple[str, Format]":
    """(pattern, format) of the one option that was given.

    The pattern is relative to the checkout when the file is in it, else absolute.
    """
    chosen = [(pattern, kind) for kind, pattern in given.items() if pattern is not None]
    if len(chosen) != 1:
        raise ParamsError(
            "Give the data with exactly one of `--csv`, `--parquet`, `--json-file`, `--jsonl`; a glob takes"
            " several files of one format."
        )
    pattern, kind = chosen[0]
    from tasks.edges.settings import ROOT

    path = Path.cwd() / Path(pattern).expanduser()
    return str(path.relative_to(ROOT) if Path.cwd() == ROOT and path.is_relative_to(ROOT) else path), kind


def _describe_proposal(name: str, proposal: "EntryProposal", *, written: bool) -> dict[str, object]:
    reasons = {".".join(map(str, path)): reason for path, reason in proposal.reasons.items()}
    return {
        "name": name,
        "written": written,
        "entry": proposal.entry,
        "reasons": reasons,
        "said": proposal.facts,
        "questions": proposal.questions,
    }


def _report_proposal(name: str, proposal: "EntryProposal", entry: str) -> None:
    about = proposal.entry["about"]
    target = about["target"]
    print(f"{name}: {about['description']}")
    print(
        f"Forecasts {target['column']} ({target['unit']}) {about['horizon_steps']} steps of {about['every']}"
        f" ahead; season {about['season_steps']}; {about['primary_score']}."
    )
    for line in proposal.facts:
        print(f"  - {line}")
    for question in proposal.questions:
        print(f"  ? {question}")
    if entry:
        print(f"\n{entry}\nNothing is written (--dry-run).")
        return
    hint = f" To answer otherwise: `tidemill new {name} ... --replace`." if proposal.questions else ""
    print(f"Written to params.yaml under datasets.{name}, with the reason of each value in a comment.{hint}")
    print(f"Next: `tidemill run --dataset {name}`, or `tidemill use {name}` and then `dvc repro`.")


def _list_datasets() -> list[Mapping[str, Any]]:
    from tasks.edges.params import read_document

    document = read_document()
    return [
        {
            "name": name,
            "current": name == document.content["dataset"],
            "source": entry["ingest"]["source"]["kind"],
            "target": entry["about"]["target"]["column"],
            "unit": entry["about"]["target"]["unit"],
            "transform": entry["about"]["target"].get("transform", "none"),
        }
        | {key: entry["about"].get(key, default) for key, default in _DEFAULTS.items()}
        for name, entry in document.content["datasets"].items()
    ]


_DEFAULTS = {
    "description": "",
    "every": "",
    "calendar": "continuous",
    "horizon_steps": None,
    "season_steps": 1,
    "primary_score": "mae",
}
