"""`tidemill feed`: land the feed of the current dataset, continuously or once."""

import json
import os
import sys
from typing import TYPE_CHECKING

import typer

from deployments.cli.output import AsJson, report_json

if TYPE_CHECKING:
    from tasks.core.reports.feed import LandedFeed


feed_app = typer.Typer(
    help="Land the current dataset's feed in its table, continuously; `drain` does it once.",
    invoke_without_command=True,
)


def add_feed_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.add_typer(feed_app, name="feed")


@feed_app.callback()
def feed(ctx: typer.Context) -> None:
    """Land the current dataset's feed in its table until stopped (Ctrl-C).

    `tidemill up` does it in the background.
    """
    if ctx.invoked_subcommand is None:
        # The same program, without the CLI's imports
        os.execv(sys.executable, [sys.executable, "-m", "tasks.feed.run_loop"])  # noqa: S606


@feed_app.command("drain")
def catch_up(as_json: AsJson = False) -> None:
    """Land the records of now, then end; the chain gets the closed window in data/source."""
    from tasks.feed.service import publish_window, run_feed

    landed_feed = run_feed(
        stop=lambda: False,
        until_caught_up=True,
        report=lambda commit: print(f"version {commit.version}: {commit.counts}", file=sys.stderr),
    )
    changed = landed_feed.window is not None and publish_window(landed_feed.window)
    if as_json:
        report_json({**landed_feed.model_dump(mode="json"), "changed": changed})
    else:
        _report_landed(landed_feed, changed=changed)


def _report_landed(landed: "LandedFeed", *, changed: bool) -> None:
    total = sum(landed.counts.values())
    counts = ", ".join(f"{n:,} {disposition}" for disposition, n in sorted(landed.counts.items()))
    print(f"{total:,} records: {counts or 'nothing new'}.")
    if landed.window is None:
        print(
            "No window has closed yet: the chain gets no rows of the feed before `feed.window` has passed in"
            " event time."
        )
    else:
        print(
            f"Window: {landed.window.n_rows:,} rows up to {landed.window.end.isoformat()}"
            + ("; it is new to the chain: `tidemill run`." if changed else "; the chain has used it.")
        )


@feed_app.command()
def status(as_json: AsJson = False) -> None:
    """Show the feed's table and each landing process: rate, lag, offsets, quarantine, watermark."""
    from tasks.feed.service import read_feed_status

    feed_status = read_feed_status()
    if as_json:
        report_json(feed_status)
        return
    from deployments.cli.tables import report_feed

    report_feed(feed_status)


@feed_app.command()
def events(as_json: AsJson = False) -> None:
    """Show the alert events of the current dataset's feed, newest last.

    docs/runbooks has the steps for each.
    """
    from tasks.edges.params import read_dataset
    from tasks.feed.events import read_events
    from tasks.feed.service import get_feed_folder

    alerts = read_events(get_feed_folder(read_dataset()))
    if as_json:
        report_json([event.model_dump(mode="json") for event in alerts])
    elif not alerts:
        print("No event has been raised.")
    else:
        from deployments.cli.tables import report_rows

        report_rows(
            [
                {"at": f"{event.at:%FT%T}", "event": event.event, "facts": json.dumps(event.facts)}
                for event in alerts
            ]
        )


@feed_app.command()
def gaps(as_json: AsJson = False) -> None:
    """Show the steps without a bar between the first and the last bar of each series.

    They reach up to the window that closed last.
    """
    from tasks.feed.service import list_feed_gaps

    rows = list_feed_gaps().to_dicts()
    if as_json:
        report_json(rows)
    elif not rows:
        print("Every step has its bar.")
    else:
        from deployments.cli.tables import report_rows

        report_rows(rows)


@feed_app.command()
def skip(as_json: AsJson = False) -> None:
    """Continue after a topic lost records that were not read; the table keeps each lost range."""
    from tasks.feed.service import skip_lost_records

    ranges = skip_lost_records()
    if as_json:
        report_json([lost._asdict() for lost in ranges])
        return
    for lost in ranges:
        print(
            f"{lost.source}: offsets {lost.first:,} to {lost.end - 1:,} are lost; reading continues at"
            f" {lost.end:,}."
        )
    if not ranges:
        print("Nothing is lost: the topic has all records from the table's offsets on.")
