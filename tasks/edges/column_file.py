"""A matrix that is written by columns and read by rows, on disk instead of in memory."""

import tempfile
from collections.abc import Iterator
from typing import Self

import numpy as np

_CHUNK_CELLS = 500_000


class ColumnFile:
    """(n_rows, n_columns) of float64, in a temporary file without a name; gone after `with`."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows, self.n_columns = n_rows, 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, columns: np.ndarray) -> None:
        """Add *columns* (n_rows, n)."""
        self._file.write(np.ascontiguousarray(columns.T).data)
        self.n_columns += columns.shape[1]

    def iterate_rows(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """The rows from *start* to *stop* in chunks: index of the first one, (n, n_columns)."""
        size = max(1, _CHUNK_CELLS // max(1, self.n_columns))
        for first in range(start, stop, size):
            last = min(stop, first + size)
            yield first, np.column_stack([self._read(i, first, last) for i in range(self.n_columns)])

    def _read(self, column: int, start: int, stop: int) -> np.ndarray:
        self._file.seek((column * self.n_rows + start) * 8)
        return np.frombuffer(self._file.read((stop - start) * 8))
