"""The interface of a source: it yields files with their rows."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import polars as pl


class SourceFile(NamedTuple):
    """One file.

    sha256: of its bytes.
    rows: series_id, event_time, known_at and float64 values, in the file's order.
    notes: what became of cells and rows that are not in *rows* as they are in the file.
    """

    name: str
    sha256: str
    rows: pl.DataFrame
    notes: tuple[str, ...] = ()


class IngestSource(Protocol):
    """Where ingest reads rows from."""

    def read(self) -> Iterator[SourceFile]:
        """Each file once, in an order that depends only on their names.

        Raises SourceError for what cannot be read.
        """
        ...
