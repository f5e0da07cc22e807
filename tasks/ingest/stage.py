"""The stage in one screen: read every file, keep each key once, cap if told to, and count what
became of every row.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import SourceError
from tasks.core.frames import REPEATED, SERIES
from tasks.core.reports.ingest import IngestedFile, IngestLedger, IngestTotals, RowCounts
from tasks.ingest.params import FilesSource, SourceParams
from tasks.ingest.source import build_source
from tasks.ingest.source_file import IngestSource, SourceFile

_KEY = list(SERIES.key)


class IngestedRows(NamedTuple):
    """rows: SERIES, each key once. repeated: REPEATED, the rows whose key had come before.
    ledger: what each file brought.
    """

    rows: pl.DataFrame
    repeated: pl.DataFrame
    ledger: IngestLedger


def read_configured_source(
    params: SourceParams,
    about: About,
    folder: Path,
    say: Callable[[str], None] = print,
) -> IngestedRows:
    """Read the source that *params* names, with its caps. Nothing is written.

    folder: where its files are, data/source in a checkout.
    """
    source = build_source(params, about, folder)
    if isinstance(params, FilesSource):
        return read_source(source, about, params.max_rows_per_series, params.max_series, say)
    return read_source(source, about, say=say)


def read_source(
    source: IngestSource,
    about: About,
    max_rows_per_series: int | None = None,
    max_series: int | None = None,
    say: Callable[[str], None] = print,
) -> IngestedRows:
    """Read *source* whole.

    Of a key that comes again the first row counts, in the order of files by name and rows in a
    file. max_rows_per_series keeps the steps with the newest event_time, max_series the first
    series by name; both are said and counted.
    """
    files = list(_read_and_report(source, say))
    read = pl.concat([f.rows.with_columns(file=pl.lit(i, pl.UInt32)) for i, f in enumerate(files)]).sort(
        [*_KEY, "file"], maintain_order=True
    )
    is_repeated = pl.struct(_KEY) == pl.struct(_KEY).shift()
    read = read.with_columns(
        fate=pl.when(is_repeated.fill_null(value=False)).then(pl.lit("repeated")).otherwise(pl.lit("kept"))
    )
    read = _apply_caps(read, max_rows_per_series, max_series, say)
    ledger = _build_ledger(files, read, about)
    repeated = read.filter(fate="repeated")
    names = pl.Series("file", [f.name for f in files]).gather(repeated["file"])
    return IngestedRows(
        SERIES.conform(read.filter(fate="kept").drop("file", "fate")),
        REPEATED.conform(repeated.with_columns(names).drop("fate")),
        ledger,
    )


def _read_and_report(source: IngestSource, say: Callable[[str], None]) -> Iterator[SourceFile]:
    for file in source.read():
        rows = file.rows
        first, last = _compute_time_span(rows)
        say(
            f"ingest: {file.name}: {rows.height:,} rows of {rows['series_id'].n_unique()} series,"
            f" {first:%F %R} to {last:%F %R} UTC"
        )
        yield file


def _apply_caps(
    read: pl.DataFrame, max_rows_per_series: int | None, max_series: int | None, say: Callable[[str], None]
) -> pl.DataFrame:
    kept = pl.lit(value=True)
    if max_series is not None:
        kept &= pl.col("series_id").is_in(read["series_id"].unique().sort().head(max_series).implode())
    if max_rows_per_series is not None:
        kept &= pl.col("event_time").rank("dense", descending=True).over("series_id") <= max_rows_per_series
    capped = read.with_columns(
        fate=pl.when((pl.col("fate") == "kept") & ~kept).then(pl.lit("capped")).otherwise("fate")
    )
    if n := capped.filter(fate="capped").height:
        say(
            f"ingest: {n:,} rows left out by `max_rows_per_series: {max_rows_per_series}` and `max_series:"
            f" {max_series}`; the newest rows and first series stay"
        )
    return capped


def _build_ledger(files: list[SourceFile], read: pl.DataFrame, about: About) -> IngestLedger:
    fates = {(file, fate): n for file, fate, n in read.group_by("file", "fate").agg(pl.len()).iter_rows()}
    entries = [
        _build_ledger_entry(file, [fates.get((i, fate), 0) for fate in ("kept", "repeated", "capped")], about)
        for i, file in enumerate(files)
    ]
    kept = read.filter(fate="kept")
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
        # Of the file's own phase; an exchange's days off are found by validate
        rows_off_grid=int((~grid.is_on_grid(file.rows["event_time"])).sum()),
        first=first,
        last=last,
        columns=tuple(c for c in file.rows.columns if c not in _KEY),
    )


def _compute_time_span(rows: pl.DataFrame) -> tuple[datetime, datetime]:
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    return first, last
