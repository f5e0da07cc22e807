"""`tidemill new`, `use` and `datasets`: bringing a feed, choosing it, listing what there is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.cli.output import AsJson, report_json
from tasks.core.errors import ParamsError

if TYPE_CHECKING:
    from tasks.ingest.wizard.decide.draft import EntryProposal
    from tasks.ingest.wizard.inspect.files import Format

ABOUT_CHARS = 60  # the rest is in params.yaml and in --json
_Name = Annotated[str, typer.Argument(help="What the dataset shall be called: small letters, digits and _.")]
_Csv = Annotated[str | None, typer.Option(help="A CSV file, also gz, or a glob in quotes.", metavar="FILE")]
_Parquet = Annotated[str | None, typer.Option(help="A Parquet file or a glob in quotes.", metavar="FILE")]
_JsonFile = Annotated[
    str | None,
    typer.Option(
        help="A JSON file (list of lists or of objects), also gz, or a glob in quotes.", metavar="FILE"
    ),
]
_Jsonl = Annotated[
    str | None,
    typer.Option(help="A file with a JSON record a line, also gz, or a glob in quotes.", metavar="FILE"),
]
_Columns = Annotated[
    str | None, typer.Option(help="Names of the columns of a file without header, in its order: a,b,c.")
]
_Target = Annotated[str | None, typer.Option(help="The column to forecast.")]
_Time = Annotated[
    str | None, typer.Option(help="The column of time, or several (date,hour); `none` when rows are steps.")
]
_TimeFormat = Annotated[
    str | None, typer.Option(help="How times are written: iso, s, ms, us, ns, excel or a strptime pattern.")
]
_TimeZone = Annotated[
    str | None, typer.Option(help="Zone of times that name none, and of days: Europe/Berlin.")
]
_Stamps = Annotated[
    str | None, typer.Option(help="Whether a time starts or ends its step: hour_beginning or hour_ending.")
]
_Series = Annotated[
    str | None, typer.Option(help="The column that names the series; `none` if all rows are one.")
]
_Decimal = Annotated[str | None, typer.Option(help="The decimal sign of numbers: a point or a comma.")]
_Missing = Annotated[
    str | None, typer.Option(help="Numbers that mean a missing value: --missing=-999,9999, or `none`.")
]
_Aggregate = Annotated[
    str | None, typer.Option(help="What becomes of several rows in one step: mean, sum or last.")
]
_Every = Annotated[str | None, typer.Option(help="Length of a step: 5m, 1h, 1d, 1mo.")]
_Season = Annotated[int | None, typer.Option(help="Steps in a season; 1 for none.", min=1)]
_Horizon = Annotated[int | None, typer.Option(help="Steps to forecast.", min=1)]
_Unit = Annotated[str | None, typer.Option(help="Unit of the target.")]
_Replace = Annotated[
    bool, typer.Option("--replace", help="Overwrite the entry when there is one of this name.")
]
_Yes = Annotated[
    bool,
    typer.Option("--yes", help="Where the file can be read in several ways, take the first and note it."),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the entry, write nothing.")]
_CHOICES = {
    "stamps": ("hour_beginning", "hour_ending"),
    "decimal": (".", ","),
    "aggregate": ("mean", "sum", "last"),
}


def add_dataset_commands(app: typer.Typer) -> None:
    """Put the three commands on *app*."""
    app.command("new")(new)
    app.command("use")(use)
    app.command("datasets")(datasets)


def new(
    name: _Name,
    csv: _Csv = None,
    parquet: _Parquet = None,
    json_file: _JsonFile = None,
    jsonl: _Jsonl = None,
    columns: _Columns = None,
    target: _Target = None,
    time: _Time = None,
    time_format: _TimeFormat = None,
    time_zone: _TimeZone = None,
    stamps: _Stamps = None,
    series: _Series = None,
    decimal: _Decimal = None,
    missing: _Missing = None,
    aggregate: _Aggregate = None,
    every: _Every = None,
    season: _Season = None,
    horizon: _Horizon = None,
    unit: _Unit = None,
    replace: _Replace = False,
    yes: _Yes = False,
    dry_run: _DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Inspect a file and write a dataset entry, each choice with its reason, into params.yaml."""
    from tasks.ingest.wizard.decide.propose import build_proposal

    # polars: a `--help` need not pay for it
    from tasks.ingest.wizard.inspect.inspect_files import inspect_files
    from tasks.ingest.wizard.inspect.inspected import OwnerAnswers
    from tasks.ingest.wizard.write import check_name, render_entry, write_entry

    check_name(name)
    pattern, kind = select_one_file({"csv": csv, "parquet": parquet, "json": json_file, "jsonl": jsonl})
    named = tuple(c.strip() for c in columns.split(",")) if columns else ()
    answered = {"time_format": time_format, "time_zone": time_zone, "unit": unit, "missing": missing}
    chosen = {"stamps": stamps, "decimal": decimal, "aggregate": aggregate}
    asked = OwnerAnswers(
        pattern,
        kind,
        named,
        target=target,
        time=time,
        series=series,
        every=every,
        season=season,
        horizon=horizon,
        yes=yes,
        **parse_answers(answered, chosen),
    )
    proposal = build_proposal(inspect_files(asked), asked)
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
    """Make a dataset current.

    Its name and models are written to params.yaml, links to its files to data/source.
    """
    # ruamel.yaml and polars
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
            " several files of one form."
        )
    pattern, kind = chosen[0]
    from tasks.edges.settings import ROOT

    path = Path.cwd() / Path(pattern).expanduser()
    return str(path.relative_to(ROOT) if Path.cwd() == ROOT and path.is_relative_to(ROOT) else path), kind


def parse_answers(texts: dict[str, str | None], chosen: dict[str, str | None]) -> dict[str, Any]:
    """Fields of OwnerAnswers from options.

    chosen: of options that take a choice. Raises ParamsError for another value, or a `--missing`
    that is no number.
    """
    for option, value in chosen.items():
        if value is not None and value not in _CHOICES[option]:
            raise ParamsError(f"`--{option} {value}`: give one of {', '.join(_CHOICES[option])}.")
    return texts | chosen | {"missing": parse_missing(texts["missing"])}


def parse_missing(text: str | None) -> tuple[float, ...] | None:
    """The numbers of `--missing`. Raises ParamsError for what is no number."""
    if text is None or text.strip().lower() == "none":
        return None if text is None else ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ParamsError(
            f"`--missing {text}`: give numbers with commas between them, for example `--missing=-999,9999`,"
            " or `none`."
        ) from error


def _describe_proposal(name: str, proposal: "EntryProposal", *, written: bool) -> dict[str, object]:
    reasons = {".".join(map(str, path)): reason for path, reason in proposal.reasons.items()}
    return {
        "name": name,
        "written": written,
        "entry": proposal.entry,
        "reasons": reasons,
        "said": proposal.facts,
        "questions": proposal.questions,
        "unanswered": proposal.unanswered,
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
    again = f" Another answer: `tidemill new {name} ... --replace`." if proposal.questions else ""
    print(f"Written to params.yaml under datasets.{name}, with the reason of each value in a comment.{again}")
    if proposal.unanswered:
        print(
            f"Next: answer the first {len(proposal.unanswered)} question(s) with the option that each names"
            " and `--replace`, or take the first readings with `--yes`. Until then `tidemill run` refuses"
            f" {name}."
        )
        return
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
