"""Rows of files that a class of the user's own reads."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import SourceError
from tasks.core.extensions import FOLDER
from tasks.core.frames import SERIES, UTC
from tasks.edges.extensions import import_extension_class
from tasks.edges.files import compute_file_hash
from tasks.ingest.params import ExtensionSource
from tasks.ingest.source_file import FileReader, SourceFile, list_linked_files

READ_A_FILE = (
    "A source has `read(path)`, which returns a polars frame of one file (docs/how-to/add-a-source.md)."
)


class ExtensionFiles:
    """Every file in data/source, read by a class of the user's own."""

    def __init__(self, params: ExtensionSource, about: About, calendar: Calendar, folder: Path) -> None:
        module, _, name = params.of.partition(":")
        self._name, self._about, self._calendar, self._folder = params.of, about, calendar, folder
        reader = import_extension_class(module, name, ("read",), READ_A_FILE, SourceError)
        try:
            self._reader: FileReader = reader(**params.options)
        except TypeError as error:
            raise SourceError(
                f"`{params.of}` does not take the options {sorted(params.options)}: {error}. Correct"
                " `ingest.source.options`."
            ) from error

    def read(self) -> Iterator[SourceFile]:
        """Each file, by name. Raises SourceError when the class fails on one."""
        for path in list_linked_files(self._folder):
            try:
                rows = self._reader.read(path)
            except Exception as error:  # whatever a user's code raises
                raise SourceError(
                    f"`{self._name}` failed on {path.name}: {type(error).__name__}: {error}. Correct it in"
                    f" {FOLDER}."
                ) from error
            rows = build_extension_rows(rows, self._name, path.name, self._about, self._calendar)
            yield SourceFile(path.name, compute_file_hash(path), rows)


def build_extension_rows(
    rows: pl.DataFrame, reader: str, name: str, about: About, calendar: Calendar
) -> pl.DataFrame:
    """*rows* of the file *name* as ingest reads them; known_at is nominal if it is missing.

    Raises SourceError for rows without a key, and for values that are no numbers unless
    `about.columns` declares them.
    """
    if missing := {"series_id", "event_time"} - set(rows.columns):
        raise SourceError(
            f"`{reader}` returns no column {sorted(missing)} for {name}; it has {rows.columns}."
        )
    values = [c for c in rows.columns if c not in SERIES.key]
    texts = [c for c in values if c in about.text_columns]
    numbers = [c for c in values if c not in texts]
    if undeclared := [c for c in numbers if not rows[c].dtype.is_numeric()]:
        raise SourceError(
            f"`{reader}` returns {undeclared} of {name} as no numbers. Cast them, leave them out, or declare"
            " them as text in `about.columns`."
        )
    if not isinstance(rows["event_time"].dtype, pl.Datetime) or rows["event_time"].null_count():
        raise SourceError(f"`{reader}` returns rows of {name} whose event_time is no time. Parse it as UTC.")
    rows = rows.with_columns(pl.col("series_id").cast(pl.String), pl.col("event_time").cast(UTC))
    if "known_at" not in rows.columns:
        rows = rows.with_columns(calendar.nominal_known_at().cast(UTC).alias("known_at"))
    return rows.select(*SERIES.key, pl.col(numbers).cast(pl.Float64), pl.col(texts).cast(pl.String))
