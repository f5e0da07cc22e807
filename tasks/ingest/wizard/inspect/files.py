"""Finding files, and opening them as ingest does; what the columns mean is for inspect_files."""

import csv
import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.cells import NULLS, FileCells, read_cells, unpack_file
from tasks.ingest.params import FilesSource

Format = Literal["csv", "parquet", "json", "jsonl"]
SEPARATORS = (",", ";", "\t", "|")
_SAMPLE_LINES = 200  # enough to distinguish a header, a separator and a number
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class FileTable:
    """The cells of one file.

    name: of its link in data/source.
    cells: as ingest reads them, with the whole path as their name.
    frame: columns of numbers in float64, the rest as in *raw*.
    header: whether the file names its columns.
    encoding: of its text.
    """

    path: Path
    name: str
    cells: FileCells
    frame: pl.DataFrame
    header: bool
    separator: str
    encoding: str

    @property
    def raw(self) -> pl.DataFrame:
        """The cells, text where the format has no types."""
        return self.cells.frame

    def format_row(self, index: int) -> str:
        """The file and the row of the frame's row *index*, for a message."""
        return f"{self.path}, row {self.cells.get_file_row(index)}"


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
    raw = None
    header, separator, encoding = True, ",", "utf-8"
    if kind != "parquet":
        raw = unpack_file(path)
        head, encoding = _read_text_head(path, raw)
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
        encoding=encoding,
        columns=columns or None,
    )
    cells = read_cells(path, source, raw)
    return FileTable(path, name, cells._replace(name=str(path)), cells.frame, header, separator, encoding)


def find_encoding(path: Path, raw: bytes) -> str:
    """The encoding of a text: by its mark, by its bytes of zero, UTF-8 if it is, else cp1252.

    Raises SourceError for what is no text.
    """
    sample = raw[:_SAMPLE_BYTES]
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if odd > 0.4 * len(sample[1::2]) and not even:
        return "utf-16-le"
    if even > 0.4 * len(sample[::2]) and not odd:
        return "utf-16-be"
    if control := re.search(rb"[\x00-\x08\x0b\x0e-\x1f]", sample):
        raise SourceError(
            f"{path} is binary (byte {control[0][0]} at position {control.start()}), not text. Give"
            " `--parquet` for a Parquet file, or export it as CSV."
        )
    for encoding in ("utf-8", "cp1252"):
        try:
            raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def _read_text_head(path: Path, raw: bytes) -> tuple[str, str]:
    """(the file's first complete lines, its encoding)."""
    if not raw.strip():
        raise SourceError(f"{path} is empty. Give a file with at least a few dozen rows.")
    encoding = find_encoding(path, raw)
    text = raw[:_SAMPLE_BYTES].decode("utf-8-sig" if encoding == "utf-8" else encoding, errors="ignore")
    text = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    head = text if len(raw) <= _SAMPLE_BYTES else text.rpartition("\n")[0] or text
    return head, encoding


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
    for i, cell in enumerate(first):  # a name above nothing but numbers or dates
        cells = [row[i] for row in below if row[i].strip() not in NULLS]
        if (
            cell.strip() not in NULLS
            and not re.search(r"\d", cell)
            and cells
            and all(map(_has_digits_first, cells))
        ):
            return True
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
