"""Where rows come from: the sources that are files, and which source the parameters name."""

from collections.abc import Iterator
from datetime import UTC as UTC_ZONE
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import SourceError
from tasks.core.frames import UTC
from tasks.edges.artifacts import compute_file_hash, read_json
from tasks.ingest.cells import read_cells
from tasks.ingest.params import ArchSource, FeedSource, FilesSource, SourceParams
from tasks.ingest.source_file import IngestSource, SourceFile
from tasks.ingest.tables import STEP, build_file_rows

NOTE = "source.json"  # beside the files: which kind of source they are; not a file of the user's
# Rows without a time are dated backwards from here, so that all series end together; any fixed
# moment would do.
LAST_STEP = datetime(2000, 1, 1, tzinfo=UTC_ZONE)


def build_source(params: SourceParams, about: About, folder: Path) -> IngestSource:
    """The source that *params* names; *folder* is data/source."""
    # Dates what is known when; the steps themselves are not needed here
    calendar = Calendar(about.calendar, about.every, about.publish_delay_s)
    if isinstance(params, FeedSource):
        from tasks.ingest.feed import FeedRows

        return FeedRows(params, calendar, folder)
    return (
        ArchBars(params, calendar)
        if isinstance(params, ArchSource)
        else LinkedFiles(params, about, calendar, folder)
    )


class ArchBars:
    """Daily bars of two indices that ship inside the package arch, 1999-2018.

    Read from its files: importing it takes 11 s.
    """

    # The adjusted close repeats the close: indices pay no dividend
    _COLUMNS = ("Open", "High", "Low", "Close", "Volume")

    def __init__(self, params: ArchSource, calendar: Calendar) -> None:
        self._series, self._calendar = params.series, calendar

    def read(self) -> Iterator[SourceFile]:
        """One file a series."""
        for series in sorted(self._series):
            path = self._folder() / series / f"{series}.csv.gz"
            bars = pl.read_csv(path, schema_overrides=dict.fromkeys(self._COLUMNS, pl.Float64))
            rows = bars.select(
                pl.lit(series).alias("series_id"),
                pl.col("Date").str.to_datetime("%m/%d/%Y", time_unit="us").cast(UTC).alias("event_time"),
                *(pl.col(c).alias(c.lower()) for c in self._COLUMNS),
            )
            known = self._calendar.nominal_known_at().alias("known_at")
            yield SourceFile(
                path.name,
                compute_file_hash(path),
                rows.select("series_id", "event_time", known, pl.exclude("series_id", "event_time")),
            )

    @staticmethod
    def _folder() -> Path:
        found = find_spec("arch")
        if found is None or found.origin is None:
            raise SourceError(
                "The package `arch`, which holds the default data, is not installed. `make install`"
                " brings it."
            )
        return Path(found.origin).parent / "data"


class LinkedFiles:
    """Every file in data/source, each a table of the same form."""

    def __init__(self, params: FilesSource, about: About, calendar: Calendar, folder: Path) -> None:
        self._params, self._about, self._calendar, self._folder = params, about, calendar, folder

    def read(self) -> Iterator[SourceFile]:
        """By name."""
        file_of: dict[str, str] = {}
        for path in self._list_paths():
            cells = read_cells(path, self._params)
            rows = build_file_rows(cells, self._params, self._about, self._calendar)
            if STEP in rows.columns:
                self._check_split_series(file_of, path.name, rows)
                rows = add_step_dates(rows, self._calendar)
            yield SourceFile(path.name, compute_file_hash(path), rows)

    def _list_paths(self) -> list[Path]:
        note = self._folder / NOTE
        kind = read_json(note)["kind"] if note.exists() else "nothing"
        paths = (
            sorted(
                (p for p in self._folder.iterdir() if p.name != NOTE and not p.name.startswith(".")),
                key=lambda p: p.name,
            )
            if kind == "files"
            else []
        )
        if not paths:
            raise SourceError(
                f"The dataset reads files, but {self._folder} holds {'none' if kind == 'files' else kind}."
                " `tidemill use NAME` puts its files there."
            )
        return paths

    def _check_split_series(self, file_of: dict[str, str], name: str, rows: pl.DataFrame) -> None:
        for series in rows["series_id"].unique().sort():
            if series in file_of:
                raise SourceError(
                    f"Series {series!r} is in {file_of[series]} and in {name}, and without a time column"
                    " nothing says which part is earlier. Join the files, name a `time_column`, or take the"
                    " series from the file name (`series_from: file_stem`)."
                )
            file_of[series] = name


def add_step_dates(rows: pl.DataFrame, calendar: Calendar) -> pl.DataFrame:
    """Date rows that are steps: the last of each series is at LAST_STEP, each earlier one
    `every` before the next.
    """
    if calendar.kind != "continuous":
        raise SourceError(
            f"Rows that are steps have no dates, so they lie on no {calendar.kind!r} calendar. Set"
            " `about.calendar: continuous`, or name a `time_column`."
        )
    unit = calendar.every.lstrip("0123456789")
    steps_back = pl.col(STEP).max().over("series_id") - pl.col(STEP)
    offset = pl.format(f"-{{}}{unit}", steps_back * int(calendar.every.removesuffix(unit)))
    dated = rows.with_columns(event_time=pl.lit(LAST_STEP, dtype=UTC).dt.offset_by(offset)).with_columns(
        known_at=calendar.nominal_known_at()
    )
    return dated.select(
        "series_id", "event_time", "known_at", pl.exclude("series_id", "event_time", "known_at", STEP)
    )
