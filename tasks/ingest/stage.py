"""The stage in one screen: read every file, keep each key once, apply caps, count every row."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import SourceError
from tasks.core.frames import COLUMN_DTYPES, REPEATED, SERIES
from tasks.core.reports.ingest import IngestedFile, IngestLedger, IngestTotals, RowCounts
from tasks.ingest.observed import ObservedSource
from tasks.ingest.params import FilesSource, SourceParams
from tasks.ingest.source import build_source
from tasks.ingest.source_file import IngestSource, SourceFile

_KEY = list(SERIES.key)
# of rows while they are sorted; a column of a file may be called `file`
_FILE, _FATE = "__file", "__fate"


class IngestedRows(NamedTuple):
    """What the stage writes.

    rows: SERIES, each key once.
    repeated: REPEATED, the rows whose key occurred before.
    ledger: counts of each file's rows, and of all.
    """

    rows: pl.DataFrame
    repeated: pl.DataFrame
    ledger: IngestLedger


def read_configured_source(
    params: SourceParams,
    about: About,
    folder: Path,
    report: Callable[[str], None] = print,
) -> IngestedRows:
    """Read the source that *params* names, with its caps; nothing is written.

    folder: of its files, data/source in a checkout.
    """
    source = ObservedSource(build_source(params, about, folder), folder)
    if isinstance(params, FilesSource):
        for question in params.assumed:
            report(f"ingest: the first reading is taken without an answer: {question}")
        ingested = read_source(source, about, params.max_rows_per_series, params.max_series, report)
        ledger = ingested.ledger.model_copy(update={"assumed": tuple(params.assumed) or None})
        return ingested._replace(ledger=ledger)
    return read_source(source, about, report=report)


def read_source(
    source: IngestSource,
    about: About,
    max_rows_per_series: int | None = None,
    max_series: int | None = None,
    report: Callable[[str], None] = print,
) -> IngestedRows:
    """Read all of *source*; of a repeated key the first row is kept, by file name and row.

    max_rows_per_series: keeps the steps with the newest event_time.
    max_series: keeps the first series by name.
    report: called with a line for each file and for the caps.
    """
    files = [_cast_values(file, about) for file in _read_and_report(source, report)]
    rows = pl.concat(
        [f.rows.with_columns(pl.lit(i, pl.UInt32).alias(_FILE)) for i, f in enumerate(files)]
    ).sort([*_KEY, _FILE], maintain_order=True)
    is_repeated = pl.struct(_KEY) == pl.struct(_KEY).shift()
    rows = rows.with_columns(
        pl.when(is_repeated.fill_null(value=False))
        .then(pl.lit("repeated"))
        .otherwise(pl.lit("kept"))
        .alias(_FATE)
    )
    rows = _apply_caps(rows, max_rows_per_series, max_series, report)
    ledger = _build_ledger(files, rows, about)
    repeated = rows.filter(pl.col(_FATE) == "repeated")
    names = pl.Series("file", [f.name for f in files]).gather(repeated[_FILE])
    return IngestedRows(
        SERIES.conform(rows.filter(pl.col(_FATE) == "kept").drop(_FILE, _FATE)),
        REPEATED.conform(repeated.drop(_FILE, _FATE).with_columns(names)),
        ledger,
    )


def _cast_values(file: SourceFile, about: About) -> SourceFile:
    """*file* with the types of `about.columns`. Raises SourceError for a column that is missing."""
    values = [c for c in file.rows.columns if c not in _KEY]
    if missing := [c for c in about.columns if c not in values]:
        raise SourceError(
            f"`about.columns` has {missing}, but {file.name} has {values}. Correct it, or add the column to"
            " `ingest.source.value_columns`."
        )
    typed = (pl.col(column).cast(COLUMN_DTYPES[kind]) for column, kind in about.columns.items())
    return file._replace(rows=file.rows.with_columns(typed))


def _read_and_report(source: IngestSource, report: Callable[[str], None]) -> Iterator[SourceFile]:
    for file in source.read():
        rows = file.rows
        first, last = _compute_time_span(rows)
        report(
            f"ingest: {file.name}: {rows.height:,} rows of {rows['series_id'].n_unique()} series,"
            f" {first:%F %R} to {last:%F %R} UTC"
        )
        for note in file.notes:
            report(f"ingest: {note}")
        yield file


def _apply_caps(
    rows: pl.DataFrame, max_rows_per_series: int | None, max_series: int | None, report: Callable[[str], None]
) -> pl.DataFrame:
    kept = pl.lit(value=True)
    if max_series is not None:
        kept &= pl.col("series_id").is_in(rows["series_id"].unique().sort().head(max_series).implode())
    if max_rows_per_series is not None:
        kept &= pl.col("event_time").rank("dense", descending=True).over("series_id") <= max_rows_per_series
    capped = rows.with_columns(
        pl.when((pl.col(_FATE) == "kept") & ~kept).then(pl.lit("capped")).otherwise(_FATE).alias(_FATE)
    )
    if n := capped.filter(pl.col(_FATE) == "capped").height:
        report(
            f"ingest: {n:,} rows left out by `max_rows_per_series: {max_rows_per_series}` and `max_series:"
            f" {max_series}`; the newest rows and the first series are kept"
        )
    return capped


def _build_ledger(files: list[SourceFile], rows: pl.DataFrame, about: About) -> IngestLedger:
    fates = {(file, fate): n for file, fate, n in rows.group_by(_FILE, _FATE).agg(pl.len()).iter_rows()}
    entries = [
        _build_ledger_entry(file, [fates.get((i, fate), 0) for fate in ("kept", "repeated", "capped")], about)
        for i, file in enumerate(files)
    ]
    kept = rows.filter(pl.col(_FATE) == "kept")
    totals = {key: sum(getattr(entry, key) for entry in entries) for key in RowCounts.model_fields}
    return IngestLedger(
        files=tuple(entries),
        totals=IngestTotals(**totals, series=kept["series_id"].n_unique()),
        as_of=kept.select(pl.col("known_at").max()).item(),
    )


def _build_ledger_entry(file: SourceFile, fates: list[int], about: About) -> IngestedFile:
    kept, repeated, capped = fates
    if kept + repeated + capped != file.rows.height:
        raise SourceError(
            f"{file.name}: {file.rows.height} rows were read, but {kept} kept, {repeated} repeated and"
            f" {capped} capped do not add up. This is a fault in ingest."
        )
    first, last = _compute_time_span(file.rows)
    grid = Calendar(about.calendar, about.every)
    return IngestedFile(
        file=file.name,
        sha256=file.sha256,
        rows_read=file.rows.height,
        rows_kept=kept,
        rows_repeated=repeated,
        rows_capped=capped,
        # by the file's own phase; validate finds the days off of an exchange
        rows_off_grid=int((~grid.is_on_grid(file.rows["event_time"])).sum()),
        first=first,
        last=last,
        columns=tuple(c for c in file.rows.columns if c not in _KEY),
        notes=tuple(file.notes) or None,
    )


def _compute_time_span(rows: pl.DataFrame) -> tuple[datetime, datetime]:
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    return first, last
