"""The feed of the current dataset, put together: its source, its table, and what happens beside the landing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.core.about import About
from tasks.core.errors import FeedError
from tasks.core.records import Feed
from tasks.edges.artifacts import read_json
from tasks.edges.params import checked, read_about, read_dataset, read_section
from tasks.edges.settings import ROOT, settings
from tasks.feed.land import Landed, Landing, drain, open_table
from tasks.feed.params import FeedParams
from tasks.feed.window import NAME, window_of, write_window


def folder_of(dataset: str) -> Path:
    """Where a dataset's feed has its table; beside it stand window.json and what else the feed leaves."""
    return settings().home / "feed" / dataset


def read_feed_params(root: Path = ROOT) -> FeedParams:
    """`feed` of the current dataset with the contract's columns. Raises ParamsError, or FeedError when the dataset has no feed."""
    dataset, section = read_dataset(root), read_section("feed", root)
    if section is None:
        raise FeedError(f"Dataset {dataset!r} has no section `feed`. docs/how-to/connect-a-topic.md says what to write there; `tidemill use NAME` changes the dataset.")
    params = checked(FeedParams, section, f"feed (with datasets.{dataset}.feed)")
    return params.with_contract((read_section("validate", root) or {}).get("columns") or {})


def build_feed(params: FeedParams, dataset: str) -> Feed:
    """The source that *params* names."""
    from tasks.edges.kafka import KafkaFeed  # noqa: PLC0415  (other sources need no Kafka)

    s = settings()
    return KafkaFeed(s.kafka_address, params.source.topic, params.source.group or f"tidemill-{dataset}", s.feed_member, s.kafka_options)


def run(*, stop: Callable[[], bool], until_drained: bool, say: Callable[[Landed], Any], root: Path = ROOT) -> dict[str, Any]:
    """Land records of the current dataset's feed. Returns {counts, window}; the window is None while none has closed."""
    dataset, params = read_dataset(root), read_feed_params(root)
    folder = folder_of(dataset)
    table = open_table(folder / "table", params)
    feed = build_feed(params, dataset)
    counts: dict[str, int] = {}

    def told(landed: Landed) -> None:
        for place, n in landed.counts.items():
            counts[place] = counts.get(place, 0) + n
        say(landed)

    try:
        drain(Landing(table, params, _bar_length(params, read_about(root)), feed), feed, until_drained=until_drained, stop=stop, say=told)
    finally:
        feed.close()
    return {"counts": counts, "window": _close_window(folder, table, params)}


def is_landing(root: Path = ROOT) -> bool:
    """Whether a process lands this dataset's feed for ever, here."""
    with _turn(folder_of(read_dataset(root)), wait=False) as ours:
        return not ours


def hand_over(window: dict[str, Any], root: Path = ROOT) -> bool:
    """Put *window* into data/source where the dataset's ingest reads it. Returns whether it is another than was there."""
    source = root / "data" / "source"
    with checkout_lock(root):
        before = read_json(source / NAME) if (source / NAME).exists() else None
        if before == window:
            return False
        write_window(source, window)
    return True


def _close_window(folder: Path, table: Any, params: FeedParams) -> dict[str, Any] | None:
    before = read_json(folder / NAME) if (folder / NAME).exists() else None
    window = window_of(table, params.window, params.silent_s, before)
    if window is not None and window != before:
        write_window(folder, window)
    return window


def _bar_length(params: FeedParams, about: About) -> str | None:
    by_time = about.calendar == "continuous" if params.closed_by_time is None else params.closed_by_time
    return about.every if by_time and params.closed_field is None else None
