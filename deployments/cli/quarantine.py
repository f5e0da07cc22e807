"""`tidemill quarantine` and `tidemill schema`: quarantined records, and the feed's fields."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from deployments.cli.output import AsJson, report_json

quarantine_app = typer.Typer(
    help="Records of the current dataset's feed that broke a rule: list, show, replay.", no_args_is_help=True
)


def add_quarantine_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.add_typer(quarantine_app, name="quarantine")
    app.command()(schema)


@quarantine_app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show which rules were broken, how often, first and last when (time of production)."""
    # Imported here, as in every command: `--help` stays fast
    from tasks.feed.quarantine import list_rules
    from tasks.feed.service import open_current_table

    rules = [rule._asdict() for rule in list_rules(open_current_table()[0])]
    if as_json:
        report_json(rules)
    else:
        _report_rows(rules, "The quarantine is empty.")


@quarantine_app.command()
def show(
    offset: Annotated[int, typer.Argument(help="Offset of the record in its source.")],
    source: Annotated[
        str,
        typer.Option(help="End of the source's name, `/2` for partition 2; all by default.", metavar="END"),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show a quarantined record: source, key, headers, bytes, rule, and how it was broken.

    Bytes are text, or hexadecimal after 0x.
    """
    from tasks.feed.quarantine import find_records
    from tasks.feed.service import open_current_table

    records = [record._asdict() for record in find_records(open_current_table()[0], offset, source)]
    if as_json:
        report_json(records)
        return
    for record in records:
        for name, value in record.items():
            print(f"{name:<10}{'' if value is None else value}")
        print()


@quarantine_app.command()
def replay(
    rule: Annotated[str | None, typer.Option(help="Only what broke this rule.", metavar="NAME")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen, change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Decode quarantined records by the current settings; release those that pass, each once."""
    from tasks.feed.service import replay_current_quarantine

    counts = replay_current_quarantine(rule, dry_run=dry_run)
    if as_json:
        report_json({"dry_run": dry_run, "rules": counts})
        return
    rows = [
        {
            "rule": broken_rule,
            **{"stays" if name == "quarantine" else name: n for name, n in sorted(by.items())},
        }
        for broken_rule, by in sorted(counts.items())
    ]
    _report_rows(rows, "The quarantine has no such record.")
    if any(disposition != "quarantine" for by in counts.values() for disposition in by):
        print(
            "Nothing was changed (--dry-run)."
            if dry_run
            else (
                "The chain gets the new rows with the next window: `tidemill feed drain`, unless the feed is"
                " running."
            )
        )


def schema(as_json: AsJson = False) -> None:
    """Show the fields of the current dataset's feed: type, when and how added, when last seen."""
    from tasks.feed.history import read_history
    from tasks.feed.service import open_current_table

    fields = [field._asdict() for field in read_history(*open_current_table())]
    if as_json:
        report_json(fields)
    else:
        _report_rows(fields, "The table has no fields.")


def _report_rows(rows: Sequence[Mapping[str, object]], empty_message: str) -> None:
    from deployments.cli.tables import report_rows

    if rows:
        report_rows(rows)
    else:
        print(empty_message)
