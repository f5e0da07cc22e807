"""Finding files, and opening them as ingest does; what the columns mean is for inspect_files."""

import csv
import glob
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.cells import NULLS, FileCells, read_cells
from tasks.ingest.params import FilesSource

Format = Literal["csv", "parquet", "json", "jsonl"]
SEPARATORS = (",", ";", "\t", "|")
_GZIP_MAGIC = b"\x1f\x8b"
_SAMPLE_LINES = 200  # enough to distinguish a header, a separator and a number
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class FileTable:
    """The cells of one file.

    name: of its link in data/source.
    frame: cells are text where the format has no types.
    header: whether the file names its columns.
    first_row: as in FileCells.
    """

    path: Path
    name: str
    frame: pl.DataFrame
    header: bool
    separator: str
    first_row: int

    @property
    def cells(self) -> FileCells:
        """The table as ingest reads it; messages show the whole path."""
        return FileCells(str(self.path), self.frame, self.first_row)

    def format_row(self, index: int) -> str:
        """The file and the row of the frame's row *index*, for a message."""
        return f"{self.path}, row {index + self.first_row}"


def find_files(pattern: str) -> list[Path]:
    """Files of a path or a glob, sorted. Raises SourceError when there is none."""
    # Path.glob refuses an absolute pattern
    paths = sorted(Path(p) for p in glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207
    files = [p for p in paths if p.is_file()]
    if not files and any(p.is_dir() for p in paths):
        raise SourceError(
            f"{pattern} is a folder. Give the files in it as a glob in quotes, for example"
            f" '{pattern.rstrip('/')}/*.csv'."
        )
    if not files:
        raise SourceError(
            f"No file matches {pattern!r}. Check the path; put a glob in quotes, so that the shell"
            " does not expand it."
        )
    return files


def build_link_names(files: list[Path]) -> list[str]:
    """The name of each file in data/source; equal names have the folder's name before them."""
    names = [path.name for path in files]
    return [path.name if names.count(path.name) == 1 else f"{path.parent.name}_{path.name}" for path in files]


def read_table(path: Path, name: str, kind: Format, columns: tuple[str, ...] = ()) -> FileTable:
    """The file's cells.

    columns: names for a file without a header.
    Raises SourceError for an empty, binary, ragged or broken file, with the row.
    """
    header, separator = True, ","
    if kind != "parquet":
        head = _read_text_head(path)
        if kind == "csv":
            header, separator = _find_csv_form(path, head)
            header = header and not columns
        else:
            records = head.lstrip() if kind == "jsonl" else head.lstrip().removeprefix("[").lstrip()
            header = not records.startswith("[")
    source = FilesSource(
        kind="files",
        format=kind,
        layout="long",
        time_column=None,
        value_columns=("?",),
        header=header,
        separator=separator,
        columns=columns or None,
    )
    cells = read_cells(path, source)
    return FileTable(path, name, cells.frame, header, separator, cells.first_row)


def _read_text_head(path: Path) -> str:
    """The file's first complete lines. Raises SourceError for what is not UTF-8 text."""
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw.startswith(_GZIP_MAGIC) else raw
    except (OSError, EOFError) as error:
        raise SourceError(
            f"{path} starts like gzip but does not unpack ({error}). Fetch it again; `gzip -t FILE` tests"
            " whether it is complete."
        ) from error
    if not raw.strip():
        raise SourceError(f"{path} is empty. Give a file with at least a few dozen rows.")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{path} is UTF-16. Convert it: `iconv -f UTF-16 -t UTF-8 FILE > NEW`.")
    if b"\0" in raw[:_SAMPLE_BYTES]:
        raise SourceError(
            f"{path} is binary (byte 0 at position {raw.index(0)}), not text. Give `--parquet` for a Parquet"
            " file, or export it as CSV."
        )
    try:
        raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw[: error.start].count(b"\n") + 1
        raise SourceError(
            f"{path}, row {row}: byte {raw[error.start]:#04x} is not UTF-8. Convert the file, for example"
            " `iconv -f LATIN1 -t UTF-8 FILE > NEW`."
        ) from error
    head = (
        raw if len(raw) <= _SAMPLE_BYTES else raw[:_SAMPLE_BYTES].rpartition(b"\n")[0] or raw[:_SAMPLE_BYTES]
    )
    return head.decode("utf-8-sig", errors="ignore")


def _find_csv_form(path: Path, head: str) -> tuple[bool, str]:
    """(whether there is a header, separator), from the first lines."""
    sample = [line for line in head.splitlines()[:_SAMPLE_LINES] if line.strip()]
    separator = _find_separator(sample)
    rows = [row for row in csv.reader(sample, delimiter=separator) if row]
    widths = [len(row) for row in rows]
    usual = max(set(widths), key=widths.count)
    if len(rows[0]) != usual:
        raise SourceError(
            f"{path}, row 1 has {len(rows[0])} fields, the rows below have {usual}. Correct or remove the"
            " row; a text that holds the separator must be in double quotes."
        )
    return _has_header([row for row in rows if len(row) == usual]), separator


def _find_separator(sample: list[str]) -> str:
    """The separator that splits all lines into the same number of fields; a comma if none does."""

    def rank(separator: str) -> tuple[bool, int, int]:
        widths = [len(row) for row in csv.reader(sample, delimiter=separator)]
        usual = max(set(widths), key=widths.count)
        return min(widths) == max(widths) > 1, usual, -SEPARATORS.index(separator)

    return max(SEPARATORS, key=rank)


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: it has text where the rows below have numbers."""
    if len(rows) < 2:
        return not any(is_number(cell) for cell in rows[0])
    first, below = rows[0], rows[1:]
    n_names = sum(
        not _has_digits_first(cell) and any(_has_digits_first(row[i]) for row in below)
        for i, cell in enumerate(first)
    )
    n_values = sum(
        is_number(cell) and all(is_number(row[i]) or row[i] in NULLS for row in below)
        for i, cell in enumerate(first)
    )
    return n_names > n_values or (n_names == n_values == 0)


def is_number(cell: str) -> bool:
    """Whether a cell is a number as a computer writes one."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.strip() not in NULLS


def _has_digits_first(cell: str) -> bool:
    return bool(cell) and (cell.lstrip("+-.").strip()[:1].isdigit())
