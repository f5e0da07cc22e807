"""Rows of the feed's table, as far as data/source/window.json says."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl

from tasks.core.calendar import Calendar
from tasks.core.errors import SourceError
from tasks.core.frames import UTC
from tasks.edges.artifacts import file_hash, read_json
from tasks.edges.delta import open_for_reading
from tasks.edges.settings import settings
from tasks.ingest.params import FeedSource
from tasks.ingest.source import SourceFile

WINDOW = "window.json"


class FeedRows:
    """One "file": the rows below the window's marks and before its end. However the table was merged or vacuumed since, they are the same."""

    def __init__(self, params: FeedSource, calendar: Calendar, folder: Path) -> None:
        self._params, self._calendar, self._folder = params, calendar, folder

    def read(self) -> Iterator[SourceFile]:
        """The window's rows; series, time, then every number that the feed has."""
        path = self._folder / WINDOW
        if not path.exists():
            raise SourceError(
                f"The dataset reads a feed, but {path} is not there: no window has closed yet. `tidemill feed drain` lands what there is and writes it."
            )
        window = read_json(path)
        table = open_for_reading(settings().home / "feed" / window["dataset"] / "table")
        numbers = [name for name, dtype in table.columns.items() if dtype.is_numeric() and not name.startswith("_")]
        below = pl.lit(value=False)
        for source, mark in window["marks"].items():
            below |= (pl.col("_source") == source) & (pl.col("_offset") < mark)
        end = datetime.fromisoformat(window["end"])
        rows = table.scan({"place": "row"}).filter(below & (pl.col("event_time") < end)).collect()
        if rows.height != window["n_rows"]:
            raise SourceError(
                f"{path} speaks of {window['n_rows']:,} rows, but {table.folder} has {rows.height:,} of them. The table was restored or replaced: `tidemill feed drain` writes the window anew."
            )
        nominal = self._calendar.nominal_known_at().cast(UTC)
        known = pl.col("known_at").fill_null(nominal if self._params.known_at == "nominal" else pl.max_horizontal(nominal, "_timestamp"))
        yield SourceFile(
            window["dataset"],
            file_hash(path),
            rows.sort("_source", "_offset").select("series_id", "event_time", known.alias("known_at"), pl.col(numbers).cast(pl.Float64)),
        )
