"""The rows by which the source has grown since the last refresh, read without the rest of it.

Only of sources whose rows do not depend on each other; of all others there are none to be had, and
the whole is read. So it is when anything before the new rows has changed.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import SourceError
from tasks.core.frames import SERIES
from tasks.core.reports.feed import FeedWindow
from tasks.edges.artifacts import read_report, read_slices
from tasks.edges.observations import get_observations_path
from tasks.edges.refreshed import FileRead, RefreshReport, Stamp
from tasks.ingest.cells import read_cells
from tasks.ingest.observed import NAME as OBSERVATIONS
from tasks.ingest.params import FeedSource, FilesSource, SourceParams
from tasks.ingest.source_file import list_linked_files
from tasks.ingest.stage import read_configured_source
from tasks.ingest.tables import build_file_rows
from tasks.ingest.wizard.use import WINDOW
from tasks.validate.stage import CleanRows

_KEY = list(SERIES.key)
_CHUNK = 1 << 20  # bytes
_LINE_END, _QUOTE = b"\n", b'"'


class Source(NamedTuple):
    """Where the rows are read from.

    folder: data/source of the refresh.
    stamp: of the source's files, before they are read.
    """

    params: SourceParams
    about: About
    folder: Path
    stamp: Stamp

    def build_calendar(self) -> Calendar:
        """For knowledge times, without steps."""
        return Calendar(self.about.calendar, self.about.every, self.about.publish_delay_s)


class SourceRows(NamedTuple):
    """What ingest reads.

    rows: SERIES; all of them, or those that are to be checked when *before* has the others.
    files, window: see `RefreshReport`.
    before: the published rows, which stay.
    """

    rows: pl.DataFrame
    files: dict[str, FileRead]
    window: FeedWindow | None
    before: CleanRows | None = None


def read_all_rows(source: Source, report: Callable[[str], None]) -> SourceRows:
    """The rows of the whole source. Raises SourceError as ingest does."""
    rows, _, ledger = read_configured_source(source.params, source.about, source.folder, report)
    if isinstance(source.params, FeedSource):
        return SourceRows(rows, {}, read_report(source.folder / WINDOW, FeedWindow))
    files = {}
    for file in (file for file in ledger.files if file.file != OBSERVATIONS):
        n_bytes = source.stamp.get(str((source.folder / file.file).resolve()), (0,))[0]
        files[file.file] = FileRead(n_bytes=n_bytes, sha256=file.sha256)
    return SourceRows(rows, files, None)


def read_appended_rows(
    source: Source,
    last: RefreshReport,
    published: Path,
    broken: pl.DataFrame,
    report: Callable[[str], None],
) -> SourceRows | None:
    """The rows of the source that came after *last*, and those that broke the contract before.

    published: the file with the others. broken: SERIES.
    report: called with a line for each file that has grown.
    None when the whole has to be read, also for new rows with an error: the whole names its row.
    So it is for new observations, which may be vintages of any row.
    """
    observed = str(get_observations_path(last.dataset))
    if source.stamp.get(observed) != last.key.source.get(observed):
        return None
    try:
        read = (
            _read_feed(source, last) if isinstance(source.params, FeedSource) else _read_files(source, last)
        )
    except SourceError:
        return None
    if read is None:
        return None
    new = list(read.new.values())
    if any(set(rows.columns) != set(broken.columns) for rows in new):
        return None
    rows = pl.concat([broken, *(rows.select(broken.columns) for rows in new)]).sort(_KEY)
    before = _find_clean_rows(published, rows, source.about)
    if before is None:
        return None
    for name, of_file in read.new.items():
        report(f"refresh: {name}: {of_file.height:,} rows at its end")
    return SourceRows(rows, read.files, read.window, before)


class _Appended(NamedTuple):
    """new: by the name of the file, its new rows. files, window: as in SourceRows."""

    new: dict[str, pl.DataFrame]
    files: dict[str, FileRead]
    window: FeedWindow | None


def _find_clean_rows(published: Path, rows: pl.DataFrame, about: About) -> CleanRows | None:
    """What *published* has, read in slices; None when *rows* may change what becomes of it.

    That is when a key comes again, since which row counts depends on the order of the files, and
    when they could move the steps of the calendar.
    """
    keys, time = rows.select(_KEY), pl.col("event_time")
    parts = []
    for old in read_slices(published, _KEY):
        if old.join(keys, on=_KEY, how="semi").height:
            return None
        ends = {"first": time.min(), "last": time.max(), "as_of": pl.col("known_at").max()}
        parts.append(old.select(n_rows=pl.len(), **ends, ids=pl.col("series_id").unique().implode()))
    found = pl.concat(parts)
    figures = pl.col("n_rows").sum(), pl.col("first").min(), pl.col("last", "as_of").max()
    n_rows, first, last, as_of = found.select(figures).row(0)
    before = CleanRows(n_rows, first, last, as_of, found["ids"].explode().unique())
    is_moved = about.every.endswith(("mo", "q", "y")) and (rows["event_time"] < first).any()
    is_settled = rows.height < n_rows and not is_moved
    return before if is_settled and not keys.is_duplicated().any() else None


def _read_feed(source: Source, last: RefreshReport) -> _Appended | None:
    from tasks.ingest.feed import FeedRows  # the feed's libraries, which files do not need

    window = read_report(source.folder / WINDOW, FeedWindow)
    before = last.window
    if before is None or before.bars is not None or window.bars is not None or source.about.columns:
        return None
    if not isinstance(source.params, FeedSource) or any(
        window.marks.get(s, 0) < m for s, m in before.marks.items()
    ):
        return None
    (file,) = FeedRows(source.params, source.build_calendar(), source.folder).read(before)
    return _Appended({file.name: file.rows}, {}, window)


def _read_files(source: Source, last: RefreshReport) -> _Appended | None:
    params = source.params
    if not isinstance(params, FilesSource) or not _is_row_by_row(params, source.about):
        return None
    paths = list_linked_files(source.folder)
    if [path.name for path in paths] != sorted(last.files):
        return None
    new, files = {}, {}
    for path in paths:
        name, files[path.name] = str(path.resolve()), last.files[path.name]
        if source.stamp.get(name) == last.key.source.get(name):
            continue
        if (end := _read_end(path, params, source, last.files[path.name])) is None:
            return None
        files[path.name] = end.read
        if end.rows is not None:
            new[path.name] = end.rows
    return _Appended(new, files, None)


def _is_row_by_row(source: FilesSource, about: About) -> bool:
    """Whether each row of the files is read in the same way whatever the others are."""
    return (
        source.format == "csv"
        and source.encoding == "utf-8"
        and source.layout == "long"
        and source.time_column is not None
        and source.time_format != "excel"
        # a zone's clock repeats hours; which is which follows from the order of the rows
        and source.time_zone == "UTC"
        and source.aggregate is None
        and not source.known_ahead_columns
        and source.max_rows_per_series is None
        and source.max_series is None
        and not about.columns
    )


class _End(NamedTuple):
    """The new end of a file. rows: in its order; None when there is nothing new."""

    read: FileRead
    rows: pl.DataFrame | None


def _read_end(path: Path, params: FilesSource, source: Source, before: FileRead) -> _End | None:
    """None when the file is not what it was with lines added."""
    with path.open("rb") as file:
        header = file.readline() if params.header else b""
        file.seek(0)
        digest, n_quotes, line = hashlib.sha256(), 0, b""
        for n_left in range(before.n_bytes, 0, -_CHUNK):
            chunk = file.read(min(n_left, _CHUNK))
            digest.update(chunk)
            n_quotes += chunk.count(_QUOTE)
            # The last line so far, with the end of the one before
            line = (line + chunk)[(line + chunk).rfind(_LINE_END, 0, -1) + 1 :]
        new = file.read()
        n_bytes = file.tell()
    if digest.hexdigest() != before.sha256:
        return None
    digest.update(new)
    read = FileRead(n_bytes=n_bytes, sha256=digest.hexdigest())
    if not new:
        return _End(read, None)
    # Behind the header and the last line before, whose form the new ones must have
    quotes = header.count(_QUOTE), n_quotes - line.count(_QUOTE), line.count(_QUOTE)
    is_header = before.n_bytes - len(line) < len(header)
    if not line.endswith(_LINE_END) or is_header or any(count % 2 for count in quotes):
        return None
    old, all_rows = (
        build_file_rows(read_cells(path, params, raw), params, source.about, source.build_calendar())[0]
        for raw in (header + line, header + line + new)
    )
    return _End(read, all_rows.slice(old.height))
