"""`tidemill feed`: the feed of the current dataset, for ever or once."""

import json
import os
import sys
from typing import TYPE_CHECKING

import typer

from deployments.cli.output import AsJson, report_json

if TYPE_CHECKING:
    from tasks.core.reports.feed import LandedFeed


feed_app = typer.Typer(
    help="Land the current dataset's feed in its table, for ever; `drain` does it once.",
    invoke_without_command=True,
)


def add_feed_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.add_typer(feed_app, name="feed")


@feed_app.callback()
def feed(ctx: typer.Context) -> None:
    """Land the current dataset's feed in its table until stopped (Ctrl-C); `tidemill up` does it
    in the background.
    """
    if ctx.invoked_subcommand is None:
        # The same program, without the CLI's imports
        os.execv(sys.executable, [sys.executable, "-m", "tasks.feed.run_loop"])  # noqa: S606


@feed_app.command()
def drain(as_json: AsJson = False) -> None:
    """Land what is there now, then end; the closed window goes to data/source, so that the chain
    sees it.
    """
    from tasks.feed.service import publish_window, run_feed

    landed_feed = run_feed(
        stop=lambda: False,
        until_caught_up=True,
        report=lambda landed: print(f"version {landed.version}: {landed.counts}", file=sys.stderr),
    )
    changed = landed_feed.window is not None and publish_window(landed_feed.window)
    if as_json:
        report_json({**landed_feed.model_dump(mode="json"), "changed": changed})
    else:
        _report_landed(landed_feed, changed=changed)


def _report_landed(landed: "LandedFeed", *, changed: bool) -> None:
    total = sum(landed.counts.values())
    counts = ", ".join(f"{n:,} {place}" for place, n in sorted(landed.counts.items()))
    print(f"{total:,} records: {counts or 'nothing new'}.")
    if landed.window is None:
        print(
            "No window has closed yet: the chain sees nothing of the feed before `feed.window` has passed in"
            " event time."
        )
    else:
        print(
            f"Window: {landed.window.n_rows:,} rows up to {landed.window.end.isoformat()}"
            + ("; the chain sees it now: `tidemill run`." if changed else "; the chain has seen it.")
        )


@feed_app.command()
def status(as_json: AsJson = False) -> None:
    """Show the feed's table and each landing process: rate, lag, marks, quarantine, watermark."""
    from tasks.feed.service import read_feed_status

    seen = read_feed_status()
    if as_json:
        report_json(seen)
        return
    from deployments.cli.tables import report_feed

    report_feed(seen)


@feed_app.command()
def events(as_json: AsJson = False) -> None:
    """Show the alert events of the current dataset's feed, newest last; docs/runbooks says what
    to do about each.
    """
    from tasks.edges.params import read_dataset
    from tasks.feed.events import read_events
    from tasks.feed.service import get_feed_folder

    raised = read_events(get_feed_folder(read_dataset()))
    if as_json:
        report_json([event.model_dump(mode="json") for event in raised])
    elif not raised:
        print("No event has been raised.")
    else:
        from deployments.cli.tables import report_rows

        report_rows(
            [
                {"at": f"{event.at:%FT%T}", "event": event.event, "facts": json.dumps(event.facts)}
                for event in raised
            ]
        )


@feed_app.command()
def gaps(as_json: AsJson = False) -> None:
    """Show the steps without a bar between the first and the last bar of each series, up to the
    window that closed last.
    """
    from tasks.feed.service import list_feed_gaps

    found = list_feed_gaps().to_dicts()
    if as_json:
        report_json(found)
    elif not found:
        print("No step is without its bar.")
    else:
        from deployments.cli.tables import report_rows

        report_rows(found)


@feed_app.command()
def skip(as_json: AsJson = False) -> None:
    """Go on where a topic still has records, after it lost some that were not read; each range
    is noted in the table.
    """
    from tasks.feed.service import skip_lost_records

    lost = skip_lost_records()
    if as_json:
        report_json([one._asdict() for one in lost])
        return
    for one in lost:
        print(
            f"{one.source}: offsets {one.first:,} to {one.end - 1:,} are lost; reading goes on at"
            f" {one.end:,}."
        )
    if not lost:
        print("Nothing is lost: the topic has everything from the table's marks on.")
