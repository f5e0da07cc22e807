"""data/raw/ledger.json: what became of every row of the source."""

from typing import ClassVar

from tasks.core.reports.base import ABSENT, IsoTime, Report
from tasks.core.strict import Strict


class RowCounts(Strict):
    """What became of the rows that were read.

    rows_read: all of them; `rows_kept`, `rows_repeated` and `rows_capped` add up to it.
    rows_kept: they went on to validate.
    rows_repeated: their key had come before.
    rows_capped: left out by `max_rows_per_series` or `max_series`.
    rows_off_grid: their time is no step of the file's own grid; validate judges them.
    """

    rows_read: int
    rows_kept: int
    rows_repeated: int
    rows_capped: int
    rows_off_grid: int


class IngestedFile(RowCounts):
    """One file of the source.

    file: its name in data/source.
    sha256: of its bytes.
    first, last: event_time of its first and last row.
    columns: its value columns.
    notes: what was read in a way that is worth knowing; absent when nothing was.
    """

    file: str
    sha256: str
    first: IsoTime
    last: IsoTime
    columns: tuple[str, ...]
    notes: tuple[str, ...] | None = ABSENT


class IngestTotals(RowCounts):
    """All files together.

    series: how many series were kept.
    """

    series: int


class IngestLedger(Report):
    """What ingest read and what became of it.

    files: an entry for each file, in the order of names.
    totals: the counts over all files.
    as_of: newest `known_at` of the rows that were kept.
    assumed: questions of the wizard whose first reading was taken without an answer; absent when
    there are none.
    """

    PATH: ClassVar[str] = "data/raw/ledger.json"

    files: tuple[IngestedFile, ...]
    totals: IngestTotals
    as_of: IsoTime
    assumed: tuple[str, ...] | None = ABSENT
