"""The feed of the current dataset, put together: its source, its table, one landing process a
member, and the windows that close meanwhile.
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
from tasks.edges.settings import ROOT, read_settings
from tasks.feed.bars import BarsTable
from tasks.feed.events import FeedAlarms, report_event
from tasks.feed.formats import build_reader
from tasks.feed.land import LandedCommit, LandingBuffer, open_table, run_loop
from tasks.feed.params import FeedParams
from tasks.feed.sources import build_feed
from tasks.feed.watch import LandingWatch, describe_table, read_status, write_fault
from tasks.feed.window import NAME, build_bars_window, build_window, write_window

if TYPE_CHECKING:
    from tasks.feed.skip import LostOffsets

GAPS_NAME = "gaps.parquet"
_WINDOW_S = 5.0  # between two looks whether a window has closed
_TIDY_COMMITS = 100  # a merge reads at most what these left small


def get_feed_folder(dataset: str) -> Path:
    """What a dataset's feed leaves: `table`, of ticks also the bars and gaps.parquet,
    window.json, and which process lands.
    """
    return read_settings().home / "feed" / dataset


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
    *, stop: Callable[[], bool], until_drained: bool, say: Callable[[LandedCommit], Any], root: Path = ROOT
) -> LandedFeed:
    """Land records of the current dataset's feed.

    Where a process of this
    member lands already, a bounded run has nothing to do and says what that one left; an endless
    one raises FeedError.
    """
    dataset, params = read_dataset(root), read_feed_params(root)
    folder = get_feed_folder(dataset)
    with try_lock(folder / f"member-{read_settings().feed_member}.lock") as holder:
        if holder and not until_drained:
            raise FeedError(
                f"Process {holder} lands this feed as member {read_settings().feed_member} already."
                " Another process needs another TIDEMILL_FEED_MEMBER; it takes a share of the partitions."
            )
        if holder:
            return LandedFeed(counts={}, window=read_window(folder))
        reader = build_reader(params, lambda why: report_event(folder, "registry_down", message=why), root)
        table = open_table(folder / "table", params)
        try:
            feed = build_feed(params, dataset, read_about(root), partial(report_event, folder), root)
        except FeedError as error:
            write_fault(folder, read_settings().feed_member, str(error))
            raise
        landing = LandingBuffer(table, params, _find_bar_length(params, read_about(root)), feed, reader)
        port = None if until_drained else read_settings().feed_port
        watch = LandingWatch(
            folder, dataset, read_settings().feed_member, landing, feed, port, read_settings().host
        )
        alarms = FeedAlarms(params, partial(report_event, folder))
        beside = _LandingUpkeep(folder, table, params, read_about(root), watch, say, alarms)
        try:
            landing.refused = partial(_write_refusal, folder, watch)
            run_loop(landing, feed, until_drained=until_drained, stop=stop, turn=beside.run_upkeep)
            watch.write_heartbeat(at_once=True)
        except FencedError as error:
            report_event(folder, "member_fenced", member=read_settings().feed_member, message=str(error))
            raise
        except OffsetLostError as error:
            report_event(folder, "offset_lost", member=read_settings().feed_member, message=str(error))
            raise
        except OSError as error:  # of what lies beside the table, which says its own
            raise FeedError(
                f"{folder} cannot be written: {error}. Nothing is lost; look at the disk's room and the"
                " folder's rights, then start again."
            ) from error
        finally:
            feed.close()
            beside.wait_for_upkeep()
        return LandedFeed(counts=watch.counts, window=beside.close_window())


def read_feed_status(root: Path = ROOT) -> FeedStatus:
    """What can be seen of the current dataset's feed."""
    read_feed_params(root)
    dataset = read_dataset(root)
    folder = get_feed_folder(dataset)
    table = (
        describe_table(open_existing_table(folder / "table"))
        if (folder / "table" / "_delta_log").exists()
        else None
    )
    return FeedStatus(
        dataset=dataset,
        table=table,
        window=read_window(folder),
        members=read_status(folder),
        n_gaps=read_frame(folder / GAPS_NAME, GAPS).height if (folder / GAPS_NAME).exists() else None,
    )


def list_feed_gaps(root: Path = ROOT) -> pl.DataFrame:
    """GAPS of the current dataset's bars as of the window that closed last.

    Raises FeedError where there is no such ledger.
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
    """Put the ledger of gaps into *folder*, by rename."""
    reach = bars.time_span
    gaps = (
        pl.DataFrame(schema=dict(GAPS.columns))
        if reach is None
        else bars.gaps(build_calendar(about, reach=reach))
    )
    write_frame(folder / GAPS_NAME, gaps, GAPS)


def read_window(folder: Path) -> FeedWindow | None:
    """The window that closed last; None while none has."""
    return read_report(folder / NAME, FeedWindow) if (folder / NAME).exists() else None


def publish_window(window: FeedWindow, root: Path = ROOT) -> bool:
    """Put *window* into data/source, where ingest reads it.

    Returns whether it is another than was there.
    """
    source = root / "data" / "source"
    with wait_for_checkout_lock(root):
        if read_window(source) == window:
            return False
        write_window(source, window)
    return True


def open_current_table(root: Path = ROOT) -> tuple[VersionedTable, FeedParams]:
    """(the table of the current dataset's feed, what the feed is told).

    Raises FeedError when nothing has landed yet.
    """
    params = read_feed_params(root)
    return open_existing_table(get_feed_folder(read_dataset(root)) / "table"), params


def replay_current_quarantine(
    rule: str | None, *, dry_run: bool, root: Path = ROOT
) -> dict[str, dict[str, int]]:
    """See tasks.feed.quarantine.replay_quarantined; of the current dataset's feed."""
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
    """See tasks.feed.skip; of the current dataset's topic.

    Raises FeedError when its feed reads none.
    """
    from tasks.edges.feeds.kafka import KafkaFeed
    from tasks.feed.skip import skip_lost

    table, params = open_current_table(root)
    dataset = read_dataset(root)
    with closing(
        build_feed(params, dataset, read_about(root), partial(report_event, get_feed_folder(dataset)), root)
    ) as feed:
        if not isinstance(feed, KafkaFeed):
            raise FeedError(
                f"The feed of {dataset!r} reads {params.source.kind}; only a topic loses what was not read."
            )
        return skip_lost(table, params, feed.kept())


class _LandingUpkeep:
    """What happens beside the landing: it is watched, windows close, the table is tidied."""

    def __init__(
        self,
        folder: Path,
        table: VersionedTable,
        params: FeedParams,
        about: About,
        watch: LandingWatch,
        say: Callable[[LandedCommit], Any],
        alarms: FeedAlarms,
    ) -> None:
        self._alarms, self._about = alarms, about
        self._bars = BarsTable(folder, params, params.aggregate) if params.aggregate is not None else None
        self._folder, self._table, self._params, self._watch, self._say = folder, table, params, watch, say
        self._looked, self._seen = time.monotonic(), -1
        self._tidying = threading.Thread()

    def run_upkeep(self, landed: LandedCommit | None) -> None:
        self._watch.write_heartbeat()
        if time.monotonic() - self._looked >= _WINDOW_S and self._table.version != self._seen:
            self.close_window()
        if landed is None:
            return
        self._watch.add_commit(landed)
        self._alarms.add_commit(landed)
        if self._table.count_versions_since_checkpoint() >= _TIDY_COMMITS and not self._tidying.is_alive():
            self._tidying = threading.Thread(target=self._compact_table, daemon=True)
            self._tidying.start()
        self._say(landed)

    def close_window(self) -> FeedWindow | None:
        with hold_lock(self._folder / "window.lock"):  # another member may be at it
            before = read_window(self._folder)
            # ... and has read more of the table
            if before is not None and before.version > self._table.version:
                self._table.refresh()
            told = (self._table, self._params.window, self._params.silent_s, before)
            window = build_window(*told) if self._bars is None else build_bars_window(self._bars, *told)
            if window is not None and window != before:
                if self._bars is not None:
                    write_gaps(self._folder, self._bars, self._about)
                write_window(self._folder, window)
        self._looked, self._seen = time.monotonic(), self._table.version
        return window

    def wait_for_upkeep(self) -> None:
        """Wait for what is under way; a table that is only ever drained in short runs is tidied
        by one of them.
        """
        if self._tidying.is_alive():
            self._tidying.join()

    def _compact_table(self) -> None:
        """Beside the landing, with a table of its own: neither waits for the other."""
        for table in (self._table, *((self._bars.table,) if self._bars else ())):
            compact_table(open_existing_table(table.folder), self._params.keep_h)


def _write_refusal(folder: Path, watch: LandingWatch, why: str) -> None:
    watch.refused()
    report_event(folder, "commit_refused", member=read_settings().feed_member, message=why)


def _find_bar_length(params: FeedParams, about: About) -> str | None:
    by_time = (
        about.calendar == "continuous" and params.aggregate is None
        if params.closed_by_time is None
        else params.closed_by_time
    )
    return about.every if by_time and params.closed_field is None else None
