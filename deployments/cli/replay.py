"""`tidemill replay`: a dataset or a file produced into a topic, so that there is a live feed to
look at.
"""

import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.output import AsJson, report_json

if TYPE_CHECKING:
    from tasks.feed.params import FeedParams


def add_replay_command(app: typer.Typer) -> None:
    """Put the command on *app*."""
    app.command("replay")(replay)


def replay(
    what: Annotated[
        str,
        typer.Argument(
            help="A dataset of params.yaml, or a file (csv, parquet, json, jsonl, also gz; a glob in quotes)."
        ),
    ],
    to: Annotated[str, typer.Option(help="Where to: kafka (TIDEMILL_KAFKA).")] = "kafka",
    topic: Annotated[
        str | None,
        typer.Option(
            help="The topic; the current dataset's `feed.source.topic` if it has one, else the name."
        ),
    ] = None,
    speed: Annotated[
        str, typer.Option(help="How many times faster than it happened: 1x, 100x; `max`: at once.")
    ] = "100x",
    now: Annotated[
        bool, typer.Option("--now", help="Move all times, so that the last record becomes known just now.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Produce a dataset's rows, or a file's, into a topic as JSON records with the times at which
    they became known.

    Ctrl-C ends it cleanly.
    """
    # This and what follows: a `--help` need not pay for it
    from tasks.edges.feeds.kafka_producer import TopicWriter
    from tasks.edges.settings import read_settings
    from tasks.feed.replay import run_replay
    from tasks.feed.replayed_feed import read_replayed_rows

    if to != "kafka":
        raise typer.BadParameter(f"{to!r} is no place to replay to; `kafka` is.", param_hint="--to")
    times = _parse_speed(speed)
    params = _read_feed_params()
    chosen = topic or _find_topic(params) or Path(what).name.split(".")[0]
    replayed = read_replayed_rows(what, params, datetime.now(UTC) if now else None)
    writer = TopicWriter(read_settings().kafka_address, chosen, read_settings().kafka_options)
    made = writer.make_topic()
    n, first, last = len(replayed.known_at), replayed.known_at[0], replayed.known_at[-1]
    _report_line(
        f"{n:,} records, known {first:%F %R} to {last:%F %R} UTC, to topic"
        f" {chosen!r}{' (made)' if made else ''} at {speed}"
    )
    stopping = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopping.set())
    try:
        done = run_replay(
            replayed,
            writer,
            times,
            stopping.is_set,
            lambda at, s: _report_line(f"  {at:,} of {n:,} ({at / n:.0%}), {at / s:,.0f}/s"),
        )
    finally:
        signal.signal(signal.SIGINT, before)
    rate = done.n_sent / done.seconds
    if as_json:
        report_json(
            {
                "topic": chosen,
                "made": made,
                "sent": done.n_sent,
                "records": n,
                "seconds": round(done.seconds, 3),
                "per_s": round(rate, 1),
                "stopped": done.stopped,
            }
        )
    else:
        print(
            f"{done.n_sent:,} records in {done.seconds:.1f} s"
            f" ({rate:,.0f}/s){'; stopped before the end' if done.stopped else ''}."
        )


def _parse_speed(speed: str) -> float | None:
    if speed == "max":
        return None
    try:
        times = float(speed.removesuffix("x"))
    except ValueError:
        times = 0.0
    if not 0 < times < float("inf"):
        raise typer.BadParameter(f"{speed!r} is no speed; write 1x, 100x or max.", param_hint="--speed")
    return times


def _read_feed_params() -> "FeedParams":
    """The fields that the current dataset's feed reads; the usual ones where it has no feed."""
    from tasks.edges.params import read_section
    from tasks.feed.params import FeedParams
    from tasks.feed.service import read_feed_params

    return (
        FeedParams.model_validate({"source": {"kind": "kafka", "topic": ""}})
        if read_section("feed") is None
        else read_feed_params()
    )


def _find_topic(params: "FeedParams") -> str | None:
    return getattr(params.source, "topic", None) or None


def _report_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
