"""Files as they are: found, opened, and split into columns. What the columns mean is decided in `roles`."""

import csv
import glob
import gzip
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from tasks.core.errors import SourceError

Format = Literal["csv", "parquet", "json", "jsonl"]
NULLS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-")
SEPARATORS = (",", ";", "\t", "|")
_GZIP_MAGIC = b"\x1f\x8b"
_SAMPLE_LINES = 200  # enough to tell a header, a separator and a number from one another
_SAMPLE_CHARS = 1 << 20


@dataclass(frozen=True)
class Table:
    """One file. Cells are text where the format has no types; *first_row* is the row of the file, from 1, that holds the frame's first row."""

    path: Path
    frame: pl.DataFrame
    header: bool
    separator: str | None = None
    first_row: int = 1

    def row(self, index: int) -> str:
        """Where the frame's row *index* stands, for a message."""
        return f"{self.path}, row {index + self.first_row}"


def find_files(pattern: str) -> list[Path]:
    """Files of a path or a glob, sorted. Raises SourceError when there is none."""
    found = sorted(Path(p) for p in glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207  (an absolute pattern, too)
    files = [p for p in found if p.is_file()]
    if not files:
        raise SourceError(f"No file matches {pattern!r}. Check the path; a glob must stand in quotes, so that the shell leaves it alone.")
    return files


def read_table(path: Path, kind: Format, header: bool | None = None) -> Table:
    """The file's cells. Raises SourceError for an empty, binary, ragged or broken file, with the row."""
    if kind == "parquet":
        return _parquet(path)
    text = _text(path)
    if kind == "csv":
        return _csv(path, text, header)
    return _records(path, _json(path, text) if kind == "json" else _jsonl(path, text))


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw.startswith(_GZIP_MAGIC) else raw
    except (OSError, EOFError) as error:
        raise SourceError(
            f"{path} starts like gzip but does not unpack ({error}). Fetch it again; `gzip -t FILE` tells whether it is whole."
        ) from error
    if not raw.strip():
        raise SourceError(f"{path} is empty. Give a file with at least a few dozen rows.")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{path} is UTF-16. Convert it: `iconv -f UTF-16 -t UTF-8 FILE > NEW`.")
    if b"\0" in raw[: 1 << 16]:
        raise SourceError(
            f"{path} is binary (byte 0 at position {raw.index(0)}), not text. Give `--parquet` for a Parquet file, or export it as CSV."
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw[: error.start].count(b"\n") + 1
        raise SourceError(
            f"{path}, row {row}: byte {raw[error.start]:#04x} is not UTF-8. Convert the file, for example `iconv -f LATIN1 -t UTF-8 FILE > NEW`."
        ) from error


def _parquet(path: Path) -> Table:
    if not path.stat().st_size:
        raise SourceError(f"{path} is empty. Give a file with at least a few dozen rows.")
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(
            f"{path} is not Parquet ({str(error).splitlines()[0][:80]}). Say its format: `--csv`, `--json-file` or `--jsonl`."
        ) from error
    return Table(path, frame, header=True)


def _csv(path: Path, text: str, header: bool | None) -> Table:
    head = text if len(text) <= _SAMPLE_CHARS else text[:_SAMPLE_CHARS].rpartition("\n")[0]
    sample = [line for line in head.splitlines()[:_SAMPLE_LINES] if line.strip()]
    separator = _separator(sample)
    has_header = _has_header(_split(path, sample, separator)) if header is None else header
    try:
        frame = pl.read_csv(text.encode(), separator=separator, has_header=has_header, infer_schema=False, null_values=list(NULLS))
        if frame.height and frame[frame.columns[-1]].null_count():  # a row too short looks like one whose last cells are empty
            _refuse_ragged(path, text, separator)
    except pl.exceptions.PolarsError as error:
        _refuse_ragged(path, text, separator)
        raise SourceError(f"{path} is not CSV ({str(error).splitlines()[0][:120]}). Look at its quotes, or say its format.") from error
    if not frame.height:
        raise SourceError(f"{path} has {'a header and ' if has_header else ''}no rows. Give a file with at least a few dozen rows.")
    names = [c.strip() or f"column_{i}" for i, c in enumerate(frame.columns, 1)]
    frame = frame.rename(dict(zip(frame.columns, names, strict=True))).with_columns(pl.all().str.strip_chars())
    return Table(path, frame, has_header, separator, first_row=2 if has_header else 1)


def _split(path: Path, sample: list[str], separator: str) -> list[list[str]]:
    rows = [row for row in csv.reader(sample, delimiter=separator) if row]
    if len({len(row) for row in rows}) > 1:
        _refuse_ragged(path, "\n".join(sample), separator)
    return rows


def _separator(sample: list[str]) -> str:
    """The one that splits all sample lines into the same number of fields, more than one; a comma when none does."""

    def fields(separator: str) -> tuple[bool, int]:
        widths = [len(row) for row in csv.reader(sample, delimiter=separator)]
        return (min(widths) == max(widths) > 1, max(set(widths), key=widths.count))

    return max(SEPARATORS, key=lambda s: (fields(s), -SEPARATORS.index(s)))


def _refuse_ragged(path: Path, text: str, separator: str) -> None:
    widths = pl.Series([len(row) for row in csv.reader(io.StringIO(text), delimiter=separator)])
    usual = widths.filter(widths > 0).mode().sort()[0]
    odd = ((widths != usual) & (widths > 0)).arg_true()
    if len(odd):
        row = int(odd[0])
        raise SourceError(
            f"{path}, row {row + 1} has {widths[row]} fields, the file's rows usually have {usual} ({len(odd)} such rows). "
            "Mend or remove the row; a text that holds the separator must stand in double quotes."
        )


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: text where the rows below have numbers or digits, and no cell of it a number."""
    if len(rows) < 2:  # noqa: PLR2004  (a name needs something below it)
        return not any(is_number(cell) for cell in rows[0])
    first, below = rows[0], rows[1:]
    named = sum(not _has_digits_first(cell) and any(_has_digits_first(row[i]) for row in below) for i, cell in enumerate(first))
    valued = sum(is_number(cell) and all(is_number(row[i]) or row[i] in NULLS for row in below) for i, cell in enumerate(first))
    return named > valued or (named == valued == 0)


def is_number(cell: str) -> bool:
    """Whether a cell is a number as a computer writes one."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.strip() not in NULLS


def _has_digits_first(cell: str) -> bool:
    return bool(cell) and (cell.lstrip("+-.").strip()[:1].isdigit())


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        way_out = "It looks like one record per line: give it with `--jsonl`." if error.msg == "Extra data" else "Fetch or export it again."
        raise SourceError(f"{path}, row {error.lineno}: not JSON ({error.msg} at column {error.colno}). {way_out}") from error


def _jsonl(path: Path, text: str) -> list[Any]:
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise SourceError(f"{path}, row {number}: not JSON ({error.msg} at column {error.colno}). Mend or remove the line.") from error
    return records


def _records(path: Path, content: Any) -> Table:
    if isinstance(content, dict) and content and all(isinstance(v, list) for v in content.values()):
        raise SourceError(
            f"{path} holds columns {list(content)[:5]}, not records. Give a list of records, for example `jq '.{next(iter(content))}'` when the list stands there."
        )
    if not isinstance(content, list) or not content or not all(isinstance(r, type(content[0])) for r in content):
        raise SourceError(f"{path} is {type(content).__name__} without records. Give a list of lists or a list of objects, not empty, all alike.")
    if isinstance(content[0], list):
        return _lists(path, content)
    if isinstance(content[0], dict):
        return Table(path, _flat(path, pl.DataFrame(content, infer_schema_length=None, strict=False)), header=True)
    raise SourceError(f"{path} is a list of {type(content[0]).__name__}. Give a list of lists or a list of objects.")


def _lists(path: Path, rows: list[list[Any]]) -> Table:
    width = len(rows[0])
    if odd := [i for i, row in enumerate(rows) if len(row) != width]:
        raise SourceError(
            f"{path}, row {odd[0] + 1} has {len(rows[odd[0]])} fields, the first has {width} ({len(odd)} such rows). Mend or remove the row."
        )
    names = [f"column_{i}" for i in range(1, width + 1)]
    frame = pl.DataFrame({name: pl.Series([row[i] for row in rows], strict=False) for i, name in enumerate(names)})
    return Table(path, _flat(path, frame), header=False)


def _flat(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    if nested := [c for c, t in frame.schema.items() if t.is_nested()]:
        raise SourceError(
            f"{path}: field(s) {nested} hold lists or objects; a cell must be a number, a text or a time. Flatten them first, for example with jq."
        )
    return frame
