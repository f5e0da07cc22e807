"""Which columns are numbers, and which numbers mean that a value is missing."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.numbers import BOOLEANS, NumberForm, is_empty, parse_numbers
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, OwnerAnswers

MIN_NUMBER_FRAC = 0.9  # a column with more numbers is a column of numbers, and the rest are faults
_MAX_EXACT = 2**53  # larger whole numbers lose digits as float64
_N_SHOWN, _N_SAMPLE = 3, 200
# numbers that stand for a missing value in public data, besides those that are all nines
_SENTINELS = (-32768.0, 32767.0, 65535.0, -2147483648.0, 2147483647.0, 9.969209968386869e36)
MIN_SENTINEL_SPREADS = 3.0  # from the rest of the values, in units of their range
_LARGEST_VALUE = 1e19


def convert_tables(
    tables: Sequence[FileTable], form: NumberForm, answers: OwnerAnswers, roles: ColumnRoles
) -> list[FileTable]:
    """The tables with columns of numbers in float64; a column is of one type in all of them.

    Raises SourceError for text among numbers.
    """
    converted = [{c: _convert_column(t, c, form) for c in t.raw.columns} for t in tables]
    for name in tables[0].raw.columns:
        if len({columns[name].dtype for columns in converted}) > 1:
            for table, columns in zip(tables, converted, strict=True):
                columns[name] = table.raw[name].cast(pl.String)
    booleans = [c for c in tables[0].raw.columns if _is_boolean(tables[0].raw[c])]
    if booleans:
        roles.facts.append(f"True and false are read as 1 and 0: {', '.join(booleans)}.")
    tables = [
        replace(t, frame=pl.DataFrame(list(columns.values())))
        for t, columns in zip(tables, converted, strict=True)
    ]
    return [_remove_infinite(t, roles) for t in _remove_missing(tables, answers, roles)]


def _convert_column(table: FileTable, name: str, form: NumberForm) -> pl.Series:
    """Numbers as float64, the rest as read. Raises SourceError for text among numbers."""
    cells = table.raw[name]
    if cells.dtype.is_integer() and bool((cells.cast(pl.Float64).abs() > _MAX_EXACT).any()):
        return cells.cast(pl.String)
    if cells.dtype.is_numeric() or cells.dtype in {pl.Boolean, pl.Null}:
        return cells.cast(pl.Float64).fill_nan(None)
    if cells.dtype != pl.String:
        return cells
    sample = cells.gather_every(max(1, cells.len() // _N_SAMPLE)).head(2 * _N_SAMPLE)
    unread = parse_numbers(sample, form).is_null() & ~is_empty(sample)
    if unread.sum() > len(sample) / 2:
        return cells
    known = cells
    numbers = cells.cast(pl.Float64, strict=False) if form[:2] == NumberForm()[:2] else None
    if numbers is None or numbers.null_count() > cells.null_count() or numbers.is_nan().any():
        known = cells.set(is_empty(cells), None)
        numbers = parse_numbers(cells, form._replace(missing=()))
    n_known = cells.len() - known.null_count()
    text_rows = (numbers.is_null() & known.is_not_null()).arg_true()
    if not len(text_rows):
        return cells if n_known and _is_names(known, numbers) else numbers
    if len(text_rows) <= (1 - MIN_NUMBER_FRAC) * n_known:
        row = int(text_rows[0])
        raise SourceError(
            f"{table.format_row(row)}: {cells[row]!r} in column {name!r}, where {n_known - len(text_rows)} of"
            f" {n_known} cells are numbers ({len(text_rows)} are not). Correct the cell, or leave it empty if"
            " the value is unknown."
        )
    return cells


def _is_names(known: pl.Series, numbers: pl.Series) -> bool:
    """Whether whole numbers are names: 007 is not 7, and large ones would lose digits."""
    if known.str.starts_with("0").any() and known.str.contains(r"^0\d+$").any():
        return True
    return convert_to_float(numbers.max()) > _MAX_EXACT and bool(known.str.contains(r"^\d{16,}$").any())


def _is_boolean(cells: pl.Series) -> bool:
    if cells.dtype == pl.Boolean:
        return True
    known = cells.drop_nulls() if cells.dtype == pl.String else cells.head(0)
    words = list(BOOLEANS)
    return len(known) > 0 and known[0].lower() in words and bool(known.str.to_lowercase().is_in(words).all())


def _remove_infinite(table: FileTable, roles: ColumnRoles) -> FileTable:
    """The table without infinite values, which ingest keeps and validate puts into quarantine."""
    numbers = [c for c in table.frame.columns if table.frame[c].dtype == pl.Float64]
    counts = {c: int(table.frame[c].is_infinite().sum()) for c in numbers}
    for name, n in counts.items():
        if n:
            row = int(table.frame[name].is_infinite().fill_null(value=False).arg_true()[0])
            roles.facts.append(
                f"{n} values of `{name}` are infinite ({table.format_row(row)}); validate puts these rows"
                " into quarantine."
            )
    changed = [pl.when(pl.col(c).is_finite()).then(c) for c, n in counts.items() if n]
    return replace(table, frame=table.frame.with_columns(changed)) if changed else table


def _remove_missing(tables: list[FileTable], answers: OwnerAnswers, roles: ColumnRoles) -> list[FileTable]:
    """The tables without the numbers that mean a missing value; a question for those found."""
    missing = answers.missing
    if missing is None:
        found = _find_sentinels(tables, roles)
        missing = tuple(found)
    if not missing:
        return tables
    roles.source["missing"] = list(missing)
    roles.reasons["missing"] = (
        "as asked" if answers.missing is not None else "far outside of the other values"
    )
    is_value = [pl.when(~pl.col(pl.Float64).is_in(list(missing))).then(pl.col(pl.Float64)).name.keep()]
    return [replace(t, frame=t.frame.with_columns(is_value)) for t in tables]


def _find_sentinels(tables: list[FileTable], roles: ColumnRoles) -> list[float]:
    """Numbers that may stand for a missing value; each becomes a question."""
    frame = pl.concat([t.frame.select(pl.col(pl.Float64)) for t in tables]) if tables else pl.DataFrame()
    found: dict[float, str] = {}
    extremes = zip(frame.columns, *(f.row(0) for f in (frame.min(), frame.max())), strict=True)
    for name in [name for name, *ends in extremes if any(_is_code(e) for e in ends if e is not None)]:
        values = frame[name].drop_nulls()
        values = values.filter(values.is_finite())
        candidates = _list_candidates(values)
        rest = values.filter(~values.is_in(candidates)) if candidates else values
        for candidate in candidates:
            if not _is_far_outside(candidate, rest):
                continue
            n = int((values == candidate).sum())
            rows = [
                tables[0].cells.get_file_row(int(i))
                for i in (tables[0].frame[name] == candidate).arg_true()[:3]
            ]
            found[candidate] = (
                f"Column {name!r} has {candidate:g} {n} times (rows {', '.join(map(str, rows))}), the other"
                f" values are {convert_to_float(rest.min()):g} to {convert_to_float(rest.max()):g}: a missing"
                f" value, or the number {candidate:g}?"
            )
    if found:
        codes = ",".join(f"{c:g}" for c in found)
        roles.unanswered.append(f"{' '.join(found.values())} Give `--missing={codes}` or `--missing none`.")
    return list(found)


def _list_candidates(values: pl.Series) -> list[float]:
    if not len(values):
        return []
    low, high = convert_to_float(values.min()), convert_to_float(values.max())
    distinct = values.unique()
    extremes = [*distinct.bottom_k(_N_SHOWN).to_list(), *distinct.top_k(_N_SHOWN).to_list()]
    return [float(e) for e in dict.fromkeys(extremes) if _is_code(e) and low < high]


def _is_code(value: float) -> bool:
    """Whether public data uses the number for a missing value."""
    is_nines = abs(value) >= 99 and set(f"{abs(value):.10g}".replace(".", "")) == {"9"}
    return is_nines or value in _SENTINELS or abs(value) >= _LARGEST_VALUE


def _is_far_outside(candidate: float, rest: pl.Series) -> bool:
    if len(rest) < 2 * _N_SHOWN:
        return False
    low, high = convert_to_float(rest.min()), convert_to_float(rest.max())
    spread = max(high - low, abs(high) * 1e-9, 1e-9)
    return candidate < low - MIN_SENTINEL_SPREADS * spread or candidate > high + MIN_SENTINEL_SPREADS * spread
