"""What every source yields: its files, each with its rows. Nothing else of the stage knows which source it was."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import polars as pl


class SourceFile(NamedTuple):
    """One file: name, sha256 of its bytes, and its rows (series_id, event_time, known_at, float64 values) in the file's order."""

    name: str
    sha256: str
    rows: pl.DataFrame


class Source(Protocol):
    """Anything that ingest can read from."""

    def read(self) -> Iterator[SourceFile]:
        """Each file once, in an order that depends on their names alone. Raises SourceError for what cannot be read."""
        ...
