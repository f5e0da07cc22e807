"""The feed of the current dataset: its source, its table, its landing and its windows.

Each member of a feed is one landing process.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.core.errors import FeedError, FencedError, OffsetLostError
from tasks.core.gaps import GAPS
from tasks.core.reports.feed import FeedStatus, FeedWindow, LandedFeed
from tasks.edges.artifacts import read_frame, read_report, write_frame
from tasks.edges.delta import VersionedTable, compact_table, open_existing_table
from tasks.edges.files import hold_lock, try_lock
from tasks.edges.params import parse_params, read_about, read_dataset, read_section
from tasks.edges.run_stage import wait_for_checkout_lock
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import ROOT, read_settings
from tasks.feed.bars import BarsTable
from tasks.feed.events import FeedAlarms, report_event
from tasks.feed.formats import build_reader
from tasks.feed.land import LandedCommit, LandingBuffer, open_table, run_landing
from tasks.feed.params import FeedParams
from tasks.feed.sources import build_source
from tasks.feed.watch import LandingWatch, describe_table, read_status, write_fault
from tasks.feed.window import NAME, build_bars_window, build_window, write_window

if TYPE_CHECKING:
    from tasks.feed.skip import LostOffsets

GAPS_NAME = "gaps.parquet"
_WINDOW_S = 5.0  # between two checks whether a window has closed
_COMPACT_COMMITS = 100  # a merge reads at most what these left small


def get_feed_folder(dataset: str) -> Path:
    """The folder of a dataset's feed: `table`, window.json, status and locks of its members.

    A feed of ticks also has its bars and gaps.parquet there.
    """
    return read_settings().home / "feed" / encode_name(dataset)


def read_feed_params(root: Path = ROOT) -> FeedParams:
    """`feed` of the current dataset with the contract's columns.

    Raises ParamsError, or FeedError when the dataset has no feed, or bars of another step.
    """
    dataset, section = read_dataset(root), read_section("feed", root)
    if section is None:
        raise FeedError(
            f"Dataset {dataset!r} has no section `feed`. docs/how-to/connect-a-topic.md says what to write"
            " there; `tidemill use NAME` changes the dataset."
        )
    params = parse_params(FeedParams, section, f"feed (with datasets.{dataset}.feed)")
    bars, every = params.aggregate, read_about(root).every
    if bars is not None and bars.gap_s is None and bars.every != every:
        raise FeedError(
            f"`feed.aggregate.every` is {bars.every!r}, but {dataset!r} has steps of {every!r}"
            " (`about.every`). Make one of them the other."
        )
    return params.add_contract((read_section("validate", root) or {}).get("columns") or {})


def run_feed(
    *,
    stop: Callable[[], bool],
    until_caught_up: bool,
    report: Callable[[LandedCommit], Any],
    root: Path = ROOT,
) -> LandedFeed:
    """Land records of the current dataset's feed.

    report: called with each commit.
    Where another process lands as this member, a bounded run has nothing to do and returns the
    window that is there.
    Raises FeedError there for a run without end.
    """
    dataset, params = read_dataset(root), read_feed_params(root)
    folder, member = get_feed_folder(dataset), read_settings().feed_member
    with try_lock(folder / f"member-{member}.lock") as holder:
        if holder and not until_caught_up:
            raise FeedError(
                f"Process {holder} lands this feed as member {member} already. Another process needs another"
                " TIDEMILL_FEED_MEMBER; it gets a share of the partitions."
            )
        if holder:
            return LandedFeed(counts={}, window=read_window(folder))
        return _run_member(folder, dataset, params, stop, until_caught_up, report, root)


def _run_member(
    folder: Path,
    dataset: str,
    params: FeedParams,
    stop: Callable[[], bool],
    until_caught_up: bool,
    report: Callable[[LandedCommit], Any],
    root: Path,
) -> LandedFeed:
    settings, about, report_ = read_settings(), read_about(root), partial(report_event, folder)
    reader = build_reader(params, lambda reason: report_("registry_down", reason=reason), root)
    table = open_table(folder / "table", params)
    try:
        feed = build_source(params, dataset, about, report_, root)
    except FeedError as error:
        write_fault(folder, settings.feed_member, str(error))
        raise
    landing = LandingBuffer(table, params, _find_bar_length(params, about), feed, reader)
    port = None if until_caught_up else settings.feed_port
    watch = LandingWatch(folder, dataset, settings.feed_member, landing, feed, port, settings.host)
    upkeep = _LandingUpkeep(folder, table, params, about, watch, report, FeedAlarms(params, report_))
    try:
        landing.on_refused = partial(_report_refusal, folder, watch)
        run_landing(landing, feed, until_caught_up=until_caught_up, stop=stop, on_poll=upkeep.run_upkeep)
        watch.write_heartbeat(is_last=True)
    except FencedError as error:
        report_("member_fenced", member=settings.feed_member, reason=str(error))
        raise
    except OffsetLostError as error:
        report_("offset_lost", member=settings.feed_member, reason=str(error))
        raise
    except OSError as error:  # of other files than the table, whose errors name it themselves
        raise FeedError(
            f"{folder} cannot be written: {error}. Nothing is lost; check the disk's free space and the"
            " folder's permissions, then start again."
        ) from error
    finally:
        feed.close()
        upkeep.wait_for_compaction()
    return LandedFeed(counts=watch.counts, window=upkeep.close_window())


def read_feed_status(root: Path = ROOT) -> FeedStatus:
    """The state of the current dataset's feed."""
    read_feed_params(root)
    dataset = read_dataset(root)
    folder = get_feed_folder(dataset)
    has_table = (folder / "table" / "_delta_log").exists()
    gaps = folder / GAPS_NAME
    return FeedStatus(
        dataset=dataset,
        table=describe_table(open_existing_table(folder / "table")) if has_table else None,
        window=read_window(folder),
        members=read_status(folder),
        n_gaps=read_frame(gaps, GAPS).height if gaps.exists() else None,
    )


def list_feed_gaps(root: Path = ROOT) -> pl.DataFrame:
    """GAPS of the current dataset's bars as of the window that closed last.

    Raises FeedError where there is no list of gaps.
    """
    dataset, params = read_dataset(root), read_feed_params(root)
    if params.aggregate is None:
        raise FeedError(
            f"The records of {dataset!r} are bars already. The chain's validate finds their gaps:"
            " data/clean/gaps.parquet, and the page of its report."
        )
    path = get_feed_folder(dataset) / GAPS_NAME
    if not path.exists():
        raise FeedError(
            f"{path} is not there: no window has closed yet. `tidemill feed drain` lands what there is."
        )
    return read_frame(path, GAPS)


def write_gaps(folder: Path, bars: BarsTable, about: About) -> None:
    """Write the list of gaps into *folder*, by rename."""
    reach = bars.time_span
    if reach is None:
        gaps = pl.DataFrame(schema=dict(GAPS.columns))
    else:
        gaps = bars.find_gaps(build_calendar(about, reach=reach))
    write_frame(folder / GAPS_NAME, gaps, GAPS)


def read_window(folder: Path) -> FeedWindow | None:
    """The window that closed last; None while none has."""
    return read_report(folder / NAME, FeedWindow) if (folder / NAME).exists() else None


def publish_window(window: FeedWindow, root: Path = ROOT) -> bool:
    """Write *window* into data/source, where ingest reads it; whether it is a new one."""
    source = root / "data" / "source"
    with wait_for_checkout_lock(root):
        if read_window(source) == window:
            return False
        write_window(source, window)
    return True


def open_current_table(root: Path = ROOT) -> tuple[VersionedTable, FeedParams]:
    """(table, parameters) of the current dataset's feed.

    Raises FeedError when nothing has landed yet.
    """
    params = read_feed_params(root)
    return open_existing_table(get_feed_folder(read_dataset(root)) / "table"), params


def replay_current_quarantine(
    rule: str | None, *, dry_run: bool, root: Path = ROOT
) -> dict[str, dict[str, int]]:
    """Replay the quarantine of the current dataset's feed; see replay_quarantined."""
    from tasks.feed.quarantine import replay_quarantined

    table, params = open_current_table(root)
    return replay_quarantined(
        table,
        params,
        _find_bar_length(params, read_about(root)),
        build_reader(params, root=root),
        rule=rule,
        dry_run=dry_run,
    )


def skip_lost_records(root: Path = ROOT) -> "list[LostOffsets]":
    """Skip what the current dataset's topic has lost; see tasks.feed.skip.

    Raises FeedError when its feed reads no topic.
    """
    from tasks.edges.feeds.kafka import KafkaFeed
    from tasks.feed.skip import skip_lost

    table, params = open_current_table(root)
    dataset = read_dataset(root)
    report = partial(report_event, get_feed_folder(dataset))
    with closing(build_source(params, dataset, read_about(root), report, root)) as feed:
        if not isinstance(feed, KafkaFeed):
            raise FeedError(
                f"The feed of {dataset!r} reads {params.source.kind}; only a topic loses what was not read."
            )
        return skip_lost(table, params, feed.topic.fetch_kept_offsets())


class _LandingUpkeep:
    """What happens alongside the landing: status and metrics, windows, compaction."""

    def __init__(
        self,
        folder: Path,
        table: VersionedTable,
        params: FeedParams,
        about: About,
        watch: LandingWatch,
        report: Callable[[LandedCommit], Any],
        alarms: FeedAlarms,
    ) -> None:
        self._folder, self._table, self._params, self._about = folder, table, params, about
        self._watch, self._report, self._alarms = watch, report, alarms
        self._bars = BarsTable(folder, params, params.aggregate) if params.aggregate is not None else None
        self._checked_at, self._checked_version = time.monotonic(), -1
        self._compaction = threading.Thread()

    def run_upkeep(self, landed: LandedCommit | None) -> None:
        self._watch.write_heartbeat()
        is_time = time.monotonic() - self._checked_at >= _WINDOW_S
        if is_time and self._table.version != self._checked_version:
            self.close_window()
        if landed is None:
            return
        self._watch.add_commit(landed)
        self._alarms.add_commit(landed)
        is_due = self._table.count_versions_since_checkpoint() >= _COMPACT_COMMITS
        if is_due and not self._compaction.is_alive():
            self._compaction = threading.Thread(target=self._compact_tables, daemon=True)
            self._compaction.start()
        self._report(landed)

    def close_window(self) -> FeedWindow | None:
        with hold_lock(self._folder / "window.lock"):  # another member may close it
            before = read_window(self._folder)
            # ... and may have read more of the table
            if before is not None and before.version > self._table.version:
                self._table.refresh()
            given = (self._table, self._params.window, self._params.silent_s, before)
            window = build_window(*given) if self._bars is None else build_bars_window(self._bars, *given)
            if window is not None and window != before:
                if self._bars is not None:
                    write_gaps(self._folder, self._bars, self._about)
                write_window(self._folder, window)
        self._checked_at, self._checked_version = time.monotonic(), self._table.version
        return window

    def wait_for_compaction(self) -> None:
        """Wait for a compaction that runs.

        A table that is only ever landed in short runs is compacted by one of them.
        """
        if self._compaction.is_alive():
            self._compaction.join()

    def _compact_tables(self) -> None:
        """In a thread, with tables of its own: neither it nor the landing waits for the other."""
        for table in (self._table, *((self._bars.table,) if self._bars else ())):
            compact_table(open_existing_table(table.folder), self._params.keep_h)


def _report_refusal(folder: Path, watch: LandingWatch, reason: str) -> None:
    watch.add_refusal()
    report_event(folder, "commit_refused", member=read_settings().feed_member, reason=reason)


def _find_bar_length(params: FeedParams, about: About) -> str | None:
    """The length of a bar that is closed when its time is over; None where that is no rule."""
    is_closed_by_time = params.closed_by_time
    if is_closed_by_time is None:
        is_closed_by_time = about.calendar == "continuous" and params.aggregate is None
    return about.every if is_closed_by_time and params.closed_field is None else None
