"""The cells of a file: read, decompressed, split into named columns.

Cells are text where the format has no types.
"""

import csv
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.params import FilesSource

NULLS = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-"})
_GZIP_MAGIC = b"\x1f\x8b"


class FileCells(NamedTuple):
    """The cells of one file.

    first_row: number, from 1, of the file's row that is the frame's first; messages count as an
    editor does.
    file_rows: number of each row, where rows were left out between others.
    notes: what was left out or read in a special way, for people.
    """

    name: str
    frame: pl.DataFrame
    first_row: int = 1
    file_rows: pl.Series | None = None
    notes: tuple[str, ...] = ()

    def get_file_row(self, index: int) -> int:
        """The number of the row in the file of the frame's row *index*."""
        return index + self.first_row if self.file_rows is None else int(self.file_rows[index])

    def format_cell(self, index: int, column: str) -> str:
        """File, row and column of a cell, for a message."""
        return f"{self.name}, row {self.get_file_row(index)}, column {column!r}"


def read_cells(path: Path, source: FilesSource, raw: bytes | None = None) -> FileCells:
    """Read one file in the format of *source*.

    raw: its bytes, where they were read before.
    Raises SourceError for a file that is missing, empty, broken, ragged or not of its format.
    """
    try:
        raw = unpack_file(path) if raw is None else raw
    except FileNotFoundError as error:
        raise SourceError(
            f"{path.name} is a link to {path.readlink() if path.is_symlink() else path}, which is missing."
            " Run `tidemill use NAME` again."
        ) from error
    if not raw.strip():
        raise SourceError(f"{path.name} is empty. Remove it from the dataset, or fetch it again.")
    if source.format != "parquet":
        raw = _convert_to_utf8(path.name, raw, source.encoding)
    read_format = {"csv": _read_csv, "parquet": _read_parquet, "json": _read_json, "jsonl": _read_jsonl}[
        source.format
    ]
    cells = read_format(path.name, raw, source)
    if not cells.frame.height:
        raise SourceError(f"{path.name} holds no rows. Remove it from the dataset, or fetch it again.")
    return cells


def unpack_file(path: Path) -> bytes:
    """The file's bytes, decompressed. Raises SourceError for gzip that is not complete."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw.startswith(_GZIP_MAGIC) else raw
    except FileNotFoundError:
        raise
    except (EOFError, OSError, zlib.error) as error:
        raise SourceError(
            f"{path.name} does not unpack ({error}). Fetch it again; `gzip -t FILE` tests whether it is"
            " complete."
        ) from error


def _convert_to_utf8(name: str, raw: bytes, encoding: str) -> bytes:
    try:
        text = raw.decode(encoding) if encoding != "utf-8" or not raw.isascii() else None
    except (UnicodeDecodeError, LookupError) as error:
        start = getattr(error, "start", 0)
        row = raw[:start].count(b"\n") + 1
        raise SourceError(
            f"{name}, row {row}: byte {raw[start]:#04x} is not {encoding}. Set `ingest.source.encoding` (for"
            " example `cp1252`), or convert the file, for example `iconv -f CP1252 -t UTF-8 FILE > NEW`."
        ) from error
    raw = raw if text is None or encoding == "utf-8" else text.encode()
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in raw and b"\n" not in raw:  # line ends of old spreadsheets
        return raw.replace(b"\r", b"\n")
    return raw


def _read_csv(name: str, raw: bytes, source: FilesSource) -> FileCells:
    try:
        frame = pl.read_csv(
            raw, separator=source.separator, has_header=False, infer_schema=False, skip_rows=0
        )
    except pl.exceptions.PolarsError as error:
        _check_not_ragged(name, raw, source)
        raise SourceError(
            f"{name} is not CSV ({str(error).splitlines()[0][:120]}). Check its quotes and `separator` in the"
            " dataset's entry."
        ) from error
    # a row with too few fields reads as one whose last cells are empty
    if frame.height and frame.to_series(-1).null_count():
        _check_not_ragged(name, raw, source)
    padded = frame.select(pl.all().str.contains(r"^\s|\s$").any()).row(0)
    frame = frame.with_columns(
        _build_trimmed(c) for c, is_padded in zip(frame.columns, padded, strict=True) if is_padded
    )
    header = None
    if source.header:
        header = [(c or "").strip() for c in frame.row(0)]
        names = [c or f"column_{i}" for i, c in enumerate(header, 1)]
    else:
        names = _list_names(name, frame.width, source)
    _check_distinct_names(name, names)
    frame = frame.slice(1) if source.header else frame
    frame.columns = names
    return _leave_out_rows(FileCells(name, frame, first_row=2 if source.header else 1), header)


def _check_distinct_names(name: str, names: list[str]) -> None:
    repeated = sorted({c for c in names if names.count(c) > 1})
    if repeated:
        index = [i for i, c in enumerate(names, 1) if c == repeated[0]]
        raise SourceError(
            f"{name}, row 1: the column {repeated[0]!r} comes {len(index)} times (columns {index}). Give each"
            " column its own name."
        )


def _leave_out_rows(cells: FileCells, header: list[str] | None) -> FileCells:
    """The cells without rows that are empty or repeat the header, and a note of each kind."""
    frame = cells.frame
    is_blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    if frame.width == 1:  # an empty line is a missing value, except at the end
        filled = (~is_blank).arg_true()
        n_used = int(filled[-1]) + 1 if len(filled) else 0
        is_blank = pl.int_range(frame.height, eager=True) >= n_used
    notes = []
    is_header = pl.Series([False]).new_from_index(0, frame.height)
    if header and frame.height:
        equal = [pl.col(c) == text for c, text in zip(frame.columns, header, strict=True) if text]
        if equal:
            is_header = frame.select(pl.all_horizontal(equal)).to_series().fill_null(value=False)
    for kind, mask in (("without any cell", is_blank), ("that repeat the header", is_header)):
        if n := int(mask.sum()):
            rows = [cells.get_file_row(int(i)) for i in mask.arg_true()[:3]]
            notes.append(f"{cells.name}: {n} rows {kind} are left out (row {', '.join(map(str, rows))}...)")
    if not notes:
        return cells
    kept = ~(is_blank | is_header)
    numbers = pl.int_range(frame.height, eager=True).filter(kept) + cells.first_row
    return cells._replace(frame=frame.filter(kept), file_rows=numbers, notes=tuple(notes))


def _build_trimmed(column: str) -> pl.Expr:
    """The column without spaces around its cells; null where nothing is left."""
    trimmed = pl.col(column).str.strip_chars()
    return pl.when(trimmed != "").then(trimmed).alias(column)


def _check_not_ragged(name: str, raw: bytes, source: FilesSource) -> None:
    """Raises SourceError for the first row that has another number of fields than usual."""
    lines = io.StringIO(raw.decode("utf-8-sig", errors="replace"))
    widths = pl.Series([len(row) for row in csv.reader(lines, delimiter=source.separator)], dtype=pl.Int64)
    usual = int(widths.filter(widths > 0).mode().sort()[-1])
    ragged = ((widths != usual) & (widths > 0)).arg_true()
    if len(ragged):
        row = int(ragged[0])
        raise SourceError(
            f"{name}, row {row + 1} has {widths[row]} fields, the file's rows usually have {usual}"
            f" ({len(ragged)} such rows). Correct or remove the row; a text that holds the separator must be"
            " in double quotes."
        )


def _list_names(name: str, width: int, source: FilesSource) -> list[str]:
    if source.columns is None:
        return [f"column_{i}" for i in range(1, width + 1)]
    if len(source.columns) != width:
        raise SourceError(
            f"{name} has {width} columns, `columns` names {len(source.columns)}: {list(source.columns)}. Name"
            " each column once, in the file's order."
        )
    return list(source.columns)


def _read_parquet(name: str, raw: bytes, _: FilesSource) -> FileCells:
    try:
        frame = pl.read_parquet(io.BytesIO(raw))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(
            f"{name} is not Parquet ({str(error).splitlines()[0][:80]}). Correct `format` in the dataset's"
            " entry."
        ) from error
    names = [c.strip() or f"column_{i}" for i, c in enumerate(frame.columns, 1)]
    _check_distinct_names(name, names)
    frame.columns = names
    return FileCells(name, frame.select(_convert_parquet_column(frame[c]) for c in names))


def _convert_parquet_column(cells: pl.Series) -> pl.Series:
    """Categories and bytes as text, decimals as floats; the rest as it is."""
    if isinstance(cells.dtype, pl.Categorical | pl.Enum):
        return cells.cast(pl.String)
    if cells.dtype == pl.Binary:
        return cells.cast(pl.String, strict=False)
    return cells.cast(pl.Float64) if isinstance(cells.dtype, pl.Decimal) else cells


def _read_json(name: str, raw: bytes, source: FilesSource) -> FileCells:
    try:
        content = json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        row = getattr(error, "lineno", 1)
        raise SourceError(
            f"{name}, row {row}: not JSON ({error}). One record a line is format `jsonl`; else export the"
            " file again."
        ) from error
    return _build_cells(name, content, source)


def _read_jsonl(name: str, raw: bytes, source: FilesSource) -> FileCells:
    records = []
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            records.extend([json.loads(line)] if line.strip() else [])
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise SourceError(
                f"{name}, row {number}: not JSON ({error}). Correct or remove the line."
            ) from error
    return _build_cells(name, records, source)


def _build_cells(name: str, content: Any, source: FilesSource) -> FileCells:
    if (
        not isinstance(content, list)
        or not content
        or not (_has_only(content, list) or _has_only(content, dict))
    ):
        raise SourceError(
            f"{name} is neither a list of lists nor a list of objects. Export it as one of the two."
        )
    if isinstance(content[0], dict):
        keys = list(dict.fromkeys(key for record in content for key in record))
        rows = [[record.get(key) for key in keys] for record in content]
        columns = [key.strip() or f"column_{i}" for i, key in enumerate(keys, 1)]
        _check_distinct_names(name, columns)
    else:
        columns, rows = _list_names(name, len(content[0]), source), content
        if ragged := [i for i, row in enumerate(rows) if len(row) != len(columns)]:
            raise SourceError(
                f"{name}, row {ragged[0] + 1} has {len(rows[ragged[0]])} fields, the first has {len(columns)}"
                f" ({len(ragged)} such rows). Correct the file."
            )
    return FileCells(
        name,
        pl.DataFrame(
            [_build_column(column, [row[i] for row in rows], name) for i, column in enumerate(columns)]
        ),
    )


def _has_only(content: list[Any], kind: type) -> bool:
    return all(isinstance(record, kind) for record in content)


def _build_column(column: str, values: list[Any], name: str) -> pl.Series:
    """Numbers as numbers, anything mixed as text, so that a message can show a bad cell."""
    if nested := [i for i, v in enumerate(values) if isinstance(v, list | dict)]:
        raise SourceError(
            f"{name}, row {nested[0] + 1}, column {column!r} holds a list or an object; a cell is a number, a"
            " text or a time. Flatten it first."
        )
    if all(
        v is None or (isinstance(v, int) and not isinstance(v, bool) and abs(v) < 1 << 63) for v in values
    ):
        return pl.Series(column, values, dtype=pl.Int64)
    if all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
        return pl.Series(column, [None if v is None else float(v) for v in values], dtype=pl.Float64)
    return pl.Series(
        column,
        [None if v is None or not str(v).strip() else str(v).strip() for v in values],
        dtype=pl.String,
    )
