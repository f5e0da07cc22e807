"""Rows of the feed's table, up to the window in data/source/window.json."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from tasks.core.calendar import Calendar
from tasks.core.errors import SourceError
from tasks.core.frames import UTC
from tasks.core.reports.feed import FeedWindow
from tasks.edges.artifacts import read_report
from tasks.edges.delta import VersionedTable, open_existing_table
from tasks.edges.files import compute_file_hash
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings
from tasks.ingest.params import FeedSource
from tasks.ingest.source_file import SourceFile

WINDOW = "window.json"


class FeedRows:
    """One "file": the rows below the window's offsets and before its end.

    Of a feed of ticks they are its bars, with the earlier vintages of those that changed. Merging
    or vacuuming the table does not change them.
    """

    def __init__(
        self, params: FeedSource, calendar: Calendar, folder: Path, text_columns: Sequence[str] = ()
    ) -> None:
        self._params, self._calendar, self._folder = params, calendar, folder
        self._text_columns = text_columns

    def read(self, since: FeedWindow | None = None) -> Iterator[SourceFile]:
        """The rows of the window: series, time, every number that the feed has, declared texts.

        since: an earlier window, whose rows are left out; of records, not of bars.
        Raises SourceError when the table has other rows than the window says.
        """
        path = self._folder / WINDOW
        if not path.exists():
            raise SourceError(
                f"The dataset reads a feed, but {path} is missing: no window has closed yet. `tidemill feed"
                " drain` lands what there is and writes it."
            )
        window = read_report(path, FeedWindow)
        is_of_bars = window.bars is not None
        folder = read_settings().home / "feed" / encode_name(window.dataset)
        table = open_existing_table(folder / (window.bars or "table"))
        numbers = [
            name for name, dtype in table.columns.items() if dtype.is_numeric() and not name.startswith("_")
        ]
        rows = (
            table.scan().filter(pl.col("_closing") <= window.closings).collect()
            if is_of_bars
            else _select_rows(table, window, {} if since is None else since.marks)
        )
        n_rows = rows.height + (0 if since is None else since.n_rows)
        if n_rows != window.n_rows:
            raise SourceError(
                f"{path} has {window.n_rows:,} rows, but {table.folder} has {n_rows:,} of them."
                " The table was restored or replaced: `tidemill feed drain` writes the window again."
            )
        nominal = self._calendar.nominal_known_at().cast(UTC)
        known = pl.col("known_at").fill_null(
            nominal if self._params.known_at == "nominal" else pl.max_horizontal(nominal, "_timestamp")
        )
        ordered = (_filter_withdrawn(rows) if is_of_bars else rows.sort("_source", "_offset")).with_columns(
            known.alias("known_at")
        )
        if is_of_bars:  # of several vintages with one knowledge time the last
            ordered = ordered.unique(
                ["series_id", "event_time", "known_at"], keep="last", maintain_order=True
            )
        yield SourceFile(
            window.dataset,
            compute_file_hash(path),
            ordered.select(
                "series_id",
                "event_time",
                "known_at",
                pl.col([c for c in numbers if c not in self._text_columns]).cast(pl.Float64),
                pl.col([c for c in self._text_columns if c in table.columns]).cast(pl.String),
            ),
        )


def _select_rows(table: VersionedTable, window: FeedWindow, begins: Mapping[str, int]) -> pl.DataFrame:
    """The rows from the offsets *begins* on, below the window's and before its end."""
    meant = pl.lit(value=False)
    for source, end_offset in window.marks.items():
        is_new = pl.col("_offset").is_between(begins.get(source, 0), end_offset, closed="left")
        meant |= (pl.col("_source") == source) & is_new
    least = {"_offset": min(begins.get(source, 0) for source in window.marks)}
    rows = table.scan({"disposition": "row"}, least).filter(meant & (pl.col("event_time") < window.end))
    return rows.collect()


def _filter_withdrawn(bars: pl.DataFrame) -> pl.DataFrame:
    """All vintages, in their order, of the bars that were not withdrawn."""
    ordered = bars.sort("series_id", "event_time", "_vintage")
    return ordered.filter(pl.col("_n_ticks").last().over("series_id", "event_time") > 0)
