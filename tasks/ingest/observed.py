"""A source, and after it the rows that consumers of the service have sent."""

from collections.abc import Iterator
from pathlib import Path

from tasks.core.errors import SourceError
from tasks.edges.files import compute_file_hash
from tasks.edges.observations import LINK, read_observations
from tasks.ingest.source_file import IngestSource, SourceFile

NAME = "observations"


class ObservedSource:
    """The files of *source*, then the observations that *folder* links to.

    They come last: of a key that both have, the row of the source counts.
    """

    def __init__(self, source: IngestSource, folder: Path) -> None:
        self._source, self._path = source, folder / LINK

    def read(self) -> Iterator[SourceFile]:
        """See IngestSource. Raises SourceError when the source has other columns by now."""
        columns: list[str] = []
        for file in self._source.read():
            columns = columns or file.rows.columns
            yield file
        if (rows := read_observations(self._path)) is None:
            return
        if set(rows.columns) != set(columns):
            raise SourceError(
                f"The observations in {self._path.resolve()} have the columns {rows.columns}, the source has"
                f" {columns}. They were sent for another form of the dataset: move the file away, and send"
                " again what still counts."
            )
        yield SourceFile(NAME, compute_file_hash(self._path), rows.select(columns))
