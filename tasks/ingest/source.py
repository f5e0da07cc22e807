"""The source that the parameters name, and the sources that are files."""

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
from tasks.edges.files import compute_file_hash
from tasks.ingest.cells import read_cells
from tasks.ingest.params import ArchSource, ExtensionSource, FeedSource, FilesSource, SourceParams
from tasks.ingest.source_file import IngestSource, SourceFile, list_linked_files
from tasks.ingest.tables import STEP, build_file_rows

# the date of the last row of each series without times, so that all series end together; any fixed
# moment is right
LAST_STEP = datetime(2000, 1, 1, tzinfo=UTC_ZONE)


def build_source(params: SourceParams, about: About, folder: Path) -> IngestSource:
    """The source that *params* names. folder: data/source in a checkout."""
    # only for knowledge times; the steps themselves are not needed here
    calendar = Calendar(about.calendar, about.every, about.publish_delay_s)
    if isinstance(params, FeedSource):
        from tasks.ingest.feed import FeedRows

        return FeedRows(params, calendar, folder, about.text_columns)
    if isinstance(params, ArchSource):
        return ArchBars(params, calendar)
    if isinstance(params, ExtensionSource):
        from tasks.ingest.extension import ExtensionFiles

        return ExtensionFiles(params, about, calendar, folder)
    return LinkedFiles(params, about, calendar, folder)


class ArchBars:
    """Daily bars of two indices, 1999-2018, from the files of the package arch.

    The package is not imported: that takes 11 s.
    """

    # the adjusted close equals the close: indices pay no dividend
    _COLUMNS = ("Open", "High", "Low", "Close", "Volume")

    def __init__(self, params: ArchSource, calendar: Calendar) -> None:
        self._series, self._calendar = params.series, calendar

    def read(self) -> Iterator[SourceFile]:
        """One file per series, by name."""
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
        spec = find_spec("arch")
        if spec is None or spec.origin is None:
            raise SourceError(
                "The package `arch`, which holds the default data, is not installed. `make install`"
                " installs it."
            )
        return Path(spec.origin).parent / "data"


class LinkedFiles:
    """All files in data/source, each a table of the same form."""

    def __init__(self, params: FilesSource, about: About, calendar: Calendar, folder: Path) -> None:
        self._params, self._about, self._calendar, self._folder = params, about, calendar, folder

    def read(self) -> Iterator[SourceFile]:
        """Each file, by name."""
        _check_answered(self._params)
        file_of: dict[str, str] = {}
        for path in list_linked_files(self._folder):
            cells = read_cells(path, self._params)
            rows, notes = build_file_rows(cells, self._params, self._about, self._calendar)
            if STEP in rows.columns:
                self._check_split_series(file_of, path.name, rows)
                rows = add_step_dates(rows, self._calendar)
            yield SourceFile(path.name, compute_file_hash(path), rows, notes)

    def _check_split_series(self, file_of: dict[str, str], name: str, rows: pl.DataFrame) -> None:
        for series in rows["series_id"].unique().sort():
            if series in file_of:
                raise SourceError(
                    f"Series {series!r} is in {file_of[series]} and in {name}, and without a time column"
                    " it is unknown which part is earlier. Join the files, name a `time_column`, or take the"
                    " series from the file name (`series_from: file_stem`)."
                )
            file_of[series] = name


def _check_answered(params: FilesSource) -> None:
    """Raises SourceError while a question of the wizard is open."""
    if params.unanswered:
        raise SourceError(
            f"The files can be read in more than one way: {' '.join(params.unanswered)} Answer with"
            " `tidemill new NAME ... --replace` and the option, or take the first readings with `--yes`."
        )


def add_step_dates(rows: pl.DataFrame, calendar: Calendar) -> pl.DataFrame:
    """*rows* with dates instead of steps: LAST_STEP for the last, one `every` less for each before.

    Raises SourceError unless the calendar is continuous.
    """
    if calendar.kind != "continuous":
        raise SourceError(
            f"Rows that are steps have no dates, so no {calendar.kind!r} calendar applies. Set"
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
