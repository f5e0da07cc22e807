"""`tidemill replay`: send a dataset or a file to a topic, as a live feed to look at."""

import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.output import AsJson, report_json

if TYPE_CHECKING:
    from tasks.edges.feeds.base import ReplayedRecords
    from tasks.edges.feeds.kafka_producer import TopicWriter
    from tasks.feed.params import FeedParams
    from tasks.feed.replay import ReplayResult


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
    to: Annotated[str, typer.Option(help="Destination: kafka (TIDEMILL_KAFKA).")] = "kafka",
    topic: Annotated[
        str | None,
        typer.Option(
            help="The topic; the current dataset's `feed.source.topic` if it has one, else the name."
        ),
    ] = None,
    speed: Annotated[
        str, typer.Option(help="How many times faster than real time: 1x, 100x; `max`: as fast as possible.")
    ] = "100x",
    now: Annotated[
        bool, typer.Option("--now", help="Move all times, so that the last record becomes known now.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send a dataset's or a file's rows to a topic as JSON records, when they became known.

    Ctrl-C ends it cleanly.
    """
    # Imported here: `--help` stays fast
    from tasks.edges.feeds.kafka_producer import TopicWriter
    from tasks.edges.settings import read_settings
    from tasks.feed.replayed_feed import read_replayed_rows

    if to != "kafka":
        raise typer.BadParameter(f"{to!r} is not a destination; `kafka` is.", param_hint="--to")
    speed_factor = _parse_speed(speed)
    params = _read_feed_params()
    topic_name = topic or _find_topic(params) or Path(what).name.split(".")[0]
    replayed = read_replayed_rows(what, params, datetime.now(UTC) if now else None)
    writer = TopicWriter(read_settings().kafka_address, topic_name, read_settings().kafka_options)
    is_new = writer.make_topic()
    n, first, last = len(replayed.known_at), replayed.known_at[0], replayed.known_at[-1]
    _report_progress(
        f"{n:,} records, known {first:%F %R} to {last:%F %R} UTC, to topic"
        f" {topic_name!r}{' (made)' if is_new else ''} at {speed}"
    )
    result = _run_replay(replayed, writer, speed_factor)
    rate = result.n_sent / result.seconds
    if as_json:
        counts = {"sent": result.n_sent, "records": n, "seconds": round(result.seconds, 3)}
        topic_facts = {"topic": topic_name, "made": is_new}
        report_json({**topic_facts, **counts, "per_s": round(rate, 1), "stopped": result.stopped})
    else:
        print(
            f"{result.n_sent:,} records in {result.seconds:.1f} s"
            f" ({rate:,.0f}/s){'; stopped before the end' if result.stopped else ''}."
        )


def _run_replay(replayed: "ReplayedRecords", writer: "TopicWriter", speed: float | None) -> "ReplayResult":
    """Replay until the end or Ctrl-C, with progress on stderr."""
    from tasks.feed.replay import run_replay

    n = len(replayed.known_at)
    stopping = threading.Event()
    handler_before = signal.signal(signal.SIGINT, lambda *_: stopping.set())
    try:
        return run_replay(
            replayed,
            writer,
            speed,
            stopping.is_set,
            lambda n_sent, s: _report_progress(
                f"  {n_sent:,} of {n:,} ({n_sent / n:.0%}), {n_sent / s:,.0f}/s"
            ),
        )
    finally:
        signal.signal(signal.SIGINT, handler_before)


def _parse_speed(speed: str) -> float | None:
    if speed == "max":
        return None
    try:
        factor = float(speed.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise typer.BadParameter(f"{speed!r} is not a speed; write 1x, 100x or max.", param_hint="--speed")
    return factor


def _read_feed_params() -> "FeedParams":
    """The current dataset's feed; the default fields where it has none."""
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


def _report_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
