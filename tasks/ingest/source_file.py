"""The interface of a source, which yields files with their rows; the files in data/source."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import polars as pl

from tasks.core.errors import SourceError
from tasks.edges.artifacts import read_json

KIND_FILE = "source.json"  # next to the files: which kind of source they are; not one of the user's files


class SourceFile(NamedTuple):
    """One file.

    sha256: of its bytes.
    rows: series_id, event_time, known_at and values, in the file's order.
    notes: what became of cells and rows that are not in *rows* as they are in the file.
    """

    name: str
    sha256: str
    rows: pl.DataFrame
    notes: tuple[str, ...] = ()


class FileReader(Protocol):
    """A user's own way to read one file."""

    def read(self, path: Path) -> pl.DataFrame:
        """series_id, event_time (start of the step, UTC), values and, if known, known_at."""
        ...


class IngestSource(Protocol):
    """Where ingest reads rows from."""

    def read(self) -> Iterator[SourceFile]:
        """Each file once, in an order that depends only on their names.

        Raises SourceError for what cannot be read.
        """
        ...


def list_linked_files(folder: Path) -> list[Path]:
    """The files in data/source, by name. Raises SourceError when it holds none."""
    kind_path = folder / KIND_FILE
    kind = read_json(kind_path)["kind"] if kind_path.exists() else "nothing"
    paths = [p for p in folder.iterdir() if p.name != KIND_FILE and not p.name.startswith(".")]
    if kind != "files" or not paths:
        raise SourceError(
            f"The dataset reads files, but {folder} holds {'none' if kind == 'files' else kind}."
            " `tidemill use NAME` puts its files there."
        )
    return sorted(paths, key=lambda path: path.name)
