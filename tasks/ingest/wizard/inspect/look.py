"""Looking into files: which column plays which part, and the series that come of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect import bars
from tasks.ingest.wizard.inspect.figures import convert_to_float, convert_to_int
from tasks.ingest.wizard.inspect.files import FileTable, Format, build_link_names, find_files, read_table
from tasks.ingest.wizard.inspect.times import TimeColumn, find_time_form, parse_time_column

NUMBER_FRAC = 0.9  # a column with this share of numbers was meant to be numbers, so the rest are faults
MIN_ROWS = 20
_KNOWN_NAMES = r"known|publish|released|available|ingested|received_at|created|updated|inserted"
_SERIES_NAMES = r"(^|_)(id|unique_id|series|symbol|ticker|store|item|sensor|meter|station|site|name|key|device|region)($|_)"
_TARGET_NAMES = ("y", "target", "value", "sales", "demand", "load", "count", "price", "close", "ot")
_KIND_SPAN = 1000.0  # columns whose typical sizes differ by more are no series of one kind


@dataclass(frozen=True)
class OwnerAnswers:
    """What the owner said; None or empty where the files shall speak."""

    pattern: str
    format: Format
    columns: tuple[str, ...] = ()
    target: str | None = None
    time: str | None = None
    time_format: str | None = None
    time_zone: str | None = None
    series: str | None = None
    every: str | None = None
    season: int | None = None
    horizon: int | None = None
    unit: str | None = None


@dataclass(frozen=True)
class InspectedFiles:
    """What the files are.

    source: fields of the files source. rows: `series_id`, `event_time` (UTC, or an integer that is
    0 at each series' last value), then the value columns in float64; sorted. reasons: why, by
    field. bars: whether open, high, low and close are among the columns. received: rows read.
    """

    source: dict[str, Any]
    rows: pl.DataFrame
    integer_time: bool
    bars: bool
    repeated: int
    received: int
    n_files: int
    reasons: dict[str, str] = field(default_factory=dict)
    questions: tuple[str, ...] = ()
    target: str | None = None

    @property
    def values(self) -> list[str]:
        """The value columns."""
        return [c for c in self.rows.columns if c not in ("series_id", "event_time")]


@dataclass
class _ColumnRoles:
    """Notes taken while looking: the source's fields, reasons and questions."""

    source: dict[str, Any]
    reasons: dict[str, str]
    questions: list[str]


def inspect_files(asked: OwnerAnswers) -> InspectedFiles:
    """Read the files and say what they hold.

    Raises SourceError with file, row and the way out for what cannot be read.
    """
    files = find_files(asked.pattern)
    tables = [
        read_table(path, name, asked.format, asked.columns)
        for path, name in zip(files, build_link_names(files), strict=True)
    ]
    _check_same_columns(tables)
    tables = [_convert_types(table) for table in tables]
    notes = _ColumnRoles({"kind": "files", "format": asked.format}, {}, [])
    if asked.format == "csv":
        notes.source |= {"header": tables[0].header}
        notes.reasons["header"] = (
            "the first row names the columns" if tables[0].header else "the first row holds values already"
        )
        if tables[0].separator != ",":
            notes.source["separator"] = tables[0].separator
    time = _find_time_column(tables, asked, notes)
    if time is None and _is_row_per_series(tables[0], asked):
        return _build_from_row_series(tables, notes)
    tables = _add_bar_names(tables, time, asked, notes)
    if not tables[0].header:
        notes.source["columns"] = tables[0].frame.columns
    return _build_from_value_columns(tables, time, asked, notes)


# --- names and types
# --------------------------------------------------------------------------------------------------


def _check_same_columns(tables: Sequence[FileTable]) -> None:
    first = tables[0]
    for table in tables[1:]:
        if table.frame.columns != first.frame.columns:
            raise SourceError(
                f"{table.path} has columns {table.frame.columns[:8]}, {first.path} has"
                f" {first.frame.columns[:8]}. One dataset has one layout: give a narrower glob, or make two"
                " datasets."
            )


def _convert_types(table: FileTable) -> FileTable:
    return replace(table, frame=table.frame.select(_convert_column(table, c) for c in table.frame.columns))


def _convert_column(table: FileTable, name: str) -> pl.Series:
    """Numbers as float64, the rest as it came. Raises SourceError for text among numbers."""
    cells = table.frame[name]
    if cells.dtype.is_numeric() or cells.dtype == pl.Boolean:
        return cells.cast(pl.Float64)
    if cells.dtype != pl.String:
        return cells
    known = cells.len() - cells.null_count()
    numbers = cells.cast(pl.Float64, strict=False)
    odd = (numbers.is_null() & cells.is_not_null()).arg_true()
    if not len(odd):
        return numbers if known else cells.cast(pl.Float64)
    if len(odd) <= (1 - NUMBER_FRAC) * known:
        row = int(odd[0])
        raise SourceError(
            f"{table.row(row)}: {cells[row]!r} in column {name!r}, where {known - len(odd)} of {known} cells"
            f" are numbers ({len(odd)} are not). Mend the cell, or leave it empty when the value is unknown."
        )
    if cells.drop_nulls().head(50).str.contains(r"^[+-]?\d+,\d+$").all():
        raise SourceError(
            f"{table.row(0)}: column {name!r} has decimal commas, as in {cells.drop_nulls()[0]!r}. Write"
            " decimal points."
        )
    return cells


# --- time
# --------------------------------------------------------------------------------------------------


def _find_time_column(
    tables: Sequence[FileTable], asked: OwnerAnswers, notes: _ColumnRoles
) -> TimeColumn | None:
    """The column of time, or None when rows are steps.

    Raises SourceError when it is not there or two could be it.
    """
    first = tables[0]
    if asked.time is not None:
        return _find_asked_time(first, asked, notes)
    found = [t for name in first.frame.columns if (t := find_time_form(name, first.frame[name])) is not None]
    found = [t for t in found if t.name not in {asked.target, asked.series}]
    if len(found) > 1:
        found = _filter_known_at(first, found, asked, notes)
    if len(found) > 1:
        names = [t.name for t in found]
        raise SourceError(
            f"{first.path}: columns {names} could each be the time. Say which: `--time {names[0]}` or `--time"
            f" {names[1]}`."
        )
    if not found:
        return None
    notes.reasons["time_column"] = f"reads as {_describe_time_form(found[0].form)}; the only column of time"
    return _resolve_time_form(first, found[0], asked, notes)


def _find_asked_time(first: FileTable, asked: OwnerAnswers, notes: _ColumnRoles) -> TimeColumn | None:
    if asked.time == "none":
        return None
    if asked.time not in first.frame.columns:
        raise SourceError(
            f"`--time {asked.time}`: {first.path} has no such column, but {first.frame.columns[:12]}."
        )
    form = (
        TimeColumn(asked.time, asked.time_format)
        if asked.time_format
        else find_time_form(asked.time, first.frame[asked.time])
    )
    if form is None:
        raise SourceError(
            f"{first.row(0)}: {first.frame[asked.time][0]!r} in column {asked.time!r} reads as no time. Give"
            " `--time-format` with a strptime pattern."
        )
    notes.reasons["time_column"] = "as asked"
    return _resolve_time_form(first, form, asked, notes)


def _filter_known_at(
    first: FileTable, found: list[TimeColumn], asked: OwnerAnswers, notes: _ColumnRoles
) -> list[TimeColumn]:
    """Take away a column that says when a row was known: its name says so, and it is never
    before the other.
    """
    late = [t for t in found if re.search(_KNOWN_NAMES, t.name.lower())]
    rest = [t for t in found if t not in late]
    if len(late) != 1 or len(rest) != 1:
        return found
    zone = asked.time_zone or "UTC"
    known, event = (parse_time_column(first, t, zone) for t in (late[0], rest[0]))
    if (known < event).any():
        return found
    notes.source["known_at_column"] = late[0].name
    notes.reasons["known_at_column"] = f"by its name, and never before {rest[0].name}"
    return rest


def _resolve_time_form(
    first: FileTable, time: TimeColumn, asked: OwnerAnswers, notes: _ColumnRoles
) -> TimeColumn:
    if asked.time_format:
        return replace(time, form=asked.time_format, rivals=())
    if time.rivals:
        regular = {p: _compute_regularity(first, replace(time, form=p)) for p in (time.form, *time.rivals)}
        best, second = sorted(regular, key=lambda p: -regular[p])[:2]
        if regular[best] == regular[second]:
            raise SourceError(
                f"{first.row(0)}: {first.frame[time.name][0]!r} in column {time.name!r} reads as {best!r} and"
                f" as {second!r}. Say which: `--time-format '{best}'`."
            )
        notes.questions.append(
            f"Times are read as {best!r}, since they are then evenly spaced. If not, say --time-format."
        )
        return replace(time, form=best, rivals=())
    return time


def _compute_regularity(first: FileTable, time: TimeColumn) -> float:
    """Share of the commonest distance between successive times."""
    steps = parse_time_column(first, time, "UTC").unique().sort().diff().drop_nulls()
    return convert_to_float(steps.value_counts()["count"].max()) / max(1, len(steps)) if len(steps) else 0.0


def _describe_time_form(form: str) -> str:
    return {
        "iso": "ISO 8601",
        "s": "seconds since 1970",
        "ms": "milliseconds since 1970",
        "us": "microseconds since 1970",
    }.get(form, form)


# --- layouts
# --------------------------------------------------------------------------------------------------


def _is_row_per_series(first: FileTable, asked: OwnerAnswers) -> bool:
    """One row a series: a name that never repeats, then numbered columns of numbers, more than a
    table has.
    """
    names = first.frame.columns
    texts = [c for c in names if first.frame[c].dtype == pl.String]
    if texts != names[:1] or first.frame.width < MIN_ROWS or asked.target:
        return False
    if first.header and all(find_time_form("header", pl.Series([c])) is not None for c in names[1:6]):
        raise SourceError(
            f"{first.path}: the columns {names[1:3]}... are times and each row is a series. Turn it round:"
            " one column of time, one for each series."
        )
    return bool(first.frame[names[0]].is_unique().all()) and (
        not first.header or all(re.search(r"\d+$", c) for c in names[1:])
    )


def _build_from_row_series(tables: Sequence[FileTable], notes: _ColumnRoles) -> InspectedFiles:
    """M4's layout: series of unlike length, aligned at their last value."""
    frame = pl.concat([t.frame for t in tables])
    name = frame.columns[0]
    if frame[name].is_duplicated().any():
        raise SourceError(
            f"Series {frame[name].filter(frame[name].is_duplicated())[0]!r} stands in two rows. Give each"
            " series one row."
        )
    cells = frame.columns[1:]
    long = frame.rename({name: "series_id"}).unpivot(
        cells, index="series_id", variable_name="event_time", value_name="value"
    )
    long = (
        long.with_columns(
            pl.col("event_time").replace_strict(cells, range(len(cells)), return_dtype=pl.Int64)
        )
        .drop_nulls("value")
        .sort("series_id", "event_time")
    )
    rows = long.with_columns(pl.col("event_time") - pl.col("event_time").max().over("series_id"))
    notes.source |= {
        "layout": "row_per_series",
        "time_column": None,
        "series_column": name,
        "value_name": "value",
    }
    notes.reasons["layout"] = (
        f"{frame.height} rows with a name that never repeats, then {len(cells)} numbered columns"
    )
    notes.questions.append(
        "The rows have no time: each column is a step, and all series are taken to end together. If there is"
        " time, give it in a column."
    )
    return InspectedFiles(
        notes.source,
        rows,
        integer_time=True,
        bars=False,
        repeated=0,
        received=frame.height,
        n_files=len(tables),
        reasons=notes.reasons,
        questions=tuple(notes.questions),
        target="value",
    )


def _add_bar_names(
    tables: list[FileTable], time: TimeColumn | None, asked: OwnerAnswers, notes: _ColumnRoles
) -> list[FileTable]:
    """Give columns without names theirs: time, then the prices by what they must be to each
    other.
    """
    if asked.columns or tables[0].header or time is None:
        return tables
    frame = tables[0].frame.sort(time.name)
    numbers = [c for c in frame.columns if c != time.name and frame[c].dtype == pl.Float64]
    found = bars.find_bars_by_invariants(frame, numbers) if len(numbers) >= len(bars.PRICES) else None
    names = {time.name: "time"}
    if found is None:
        rest = [c for c in frame.columns if c != time.name]
        names |= {c: "value" if len(rest) == 1 else f"value_{i}" for i, c in enumerate(rest, 1)}
        notes.questions.append(
            f"The file names no columns; they are called {list(names.values())}. Say --columns with their"
            " names."
        )
    else:
        prices, sure = found
        rest = [c for c in frame.columns if c not in {time.name, *prices.values()}]
        names |= {c: p for p, c in prices.items()} | {
            c: "volume" if len(rest) == 1 else f"value_{i}" for i, c in enumerate(rest, 1)
        }
        order = [names[c] for c in frame.columns]
        notes.reasons["columns"] = (
            "high is the greatest and low the least in every row; open lies nearer to the close before it"
        )
        if not sure:
            notes.questions.append(
                f"The file names no columns; are they {','.join(order)}? open and close are hard to tell"
                " apart: say --columns."
            )
        else:
            notes.questions.append(
                f"The file names no columns; by their values they are {','.join(order)}. If not, say"
                " --columns."
            )
    renamed = replace(time, name="time")
    notes.reasons["time_column"] = f"reads as {_describe_time_form(renamed.form)}"
    return [replace(t, frame=t.frame.rename(names)) for t in tables]


def _build_from_value_columns(
    tables: list[FileTable], time: TimeColumn | None, asked: OwnerAnswers, notes: _ColumnRoles
) -> InspectedFiles:
    time = (
        replace(time, name="time") if time is not None and time.name not in tables[0].frame.columns else time
    )
    _add_time_fields(time, asked, notes)
    parts = [_add_time(t, time, asked.time_zone or "UTC") for t in tables]
    frame = pl.concat(parts)
    if "time_zone" in notes.source and not asked.time_zone and (frame["event_time"].dt.hour() != 0).any():
        notes.questions.append(
            "The times name no zone; UTC is assumed. If they are local, say --time-zone, for example"
            " Europe/Berlin."
        )
    series = _find_series_column(frame, time, asked, notes)
    numbers = _list_value_columns(tables[0], frame, time, series, notes)
    wide = _is_wide(frame, numbers, series, asked, notes)
    if wide:
        rows = (
            frame.select("event_time", *numbers)
            .unpivot(numbers, index="event_time", variable_name="series_id", value_name="value")
            .drop_nulls("value")
        )
        notes.source |= {"layout": "wide", "value_columns": numbers, "value_name": "value"}
        if len(tables) > 1:
            _is_one_series_in_parts(frame, tables, notes)
    else:
        notes.source |= {"layout": "long", "value_columns": numbers}
        rows = frame.select(_build_series_ids(frame, tables, series, notes), "event_time", *numbers)
    key = ["series_id", "event_time"]
    rows = rows.select(*key, pl.exclude(key)).sort(key, maintain_order=True)
    kept = (
        rows.filter((pl.struct(key) != pl.struct(key).shift()).fill_null(value=True))
        if _compute_repeat_frac(rows, key)
        else rows
    )
    if kept.height < MIN_ROWS:
        raise SourceError(
            f"{tables[0].path}: {kept.height} rows of values; at least {MIN_ROWS} are needed to say anything."
            " Give a longer history."
        )
    if time is None:
        kept = kept.with_columns(pl.col("event_time") - pl.col("event_time").max().over("series_id"))
    # A row in a hundred may be dirt
    is_bars = (
        not wide
        and bool(set(bars.PRICES) <= set(kept.columns))
        and bars.compute_broken_frac(kept, {p: p for p in bars.PRICES}) < 0.01
    )
    return InspectedFiles(
        notes.source,
        kept,
        time is None,
        is_bars,
        rows.height - kept.height,
        frame.height,
        len(tables),
        notes.reasons,
        tuple(notes.questions),
        "value" if wide else None,
    )


def _add_time_fields(time: TimeColumn | None, asked: OwnerAnswers, notes: _ColumnRoles) -> None:
    if time is None:
        notes.source["time_column"] = None
        notes.reasons["time_column"] = (
            "no column reads as time, so rows are steps, and series are aligned at their last"
        )
        notes.questions.append(
            "No column reads as time: rows are taken as steps in the order of the file. If there is one, say"
            " --time and --time-format."
        )
        return
    notes.source["time_column"] = time.name
    notes.source["time_format"] = time.form
    if not time.zoned and time.form not in {"s", "ms", "us"}:
        notes.source["time_zone"] = asked.time_zone or "UTC"
        notes.reasons["time_zone"] = "as asked" if asked.time_zone else "the times name no zone"


def _add_time(table: FileTable, time: TimeColumn | None, zone: str) -> pl.DataFrame:
    source = pl.lit(table.name.removesuffix(".gz").rsplit(".", 1)[0]).alias("__stem")
    if time is None:
        return table.frame.with_row_index("event_time").with_columns(
            pl.col("event_time").cast(pl.Int64), source
        )
    when = parse_time_column(table, time, zone).alias("event_time")
    if len(lost := when.is_null().arg_true()):
        raise SourceError(
            f"{table.row(int(lost[0]))}: column {time.name!r} is empty ({len(lost)} such rows). Give the row"
            " its time, or remove it."
        )
    return table.frame.drop(time.name).with_columns(when, source)


def _find_series_column(
    frame: pl.DataFrame, time: TimeColumn | None, asked: OwnerAnswers, notes: _ColumnRoles
) -> str | None:
    """The column that names the series: with it no time repeats.

    None: each file, or all, is one series.
    """
    if asked.series:
        if asked.series not in frame.columns:
            raise SourceError(
                f"`--series {asked.series}`: there is no such column, but"
                f" {[c for c in frame.columns if c not in ('event_time', '__stem')][:12]}."
            )
        notes.reasons["series_column"] = "as asked"
        return asked.series
    if time is None:
        return None
    repeats = _compute_repeat_frac(frame, ["event_time", "__stem"])
    candidates = [
        c
        for c in frame.columns
        if c not in {"event_time", "__stem", asked.target} and _is_name_candidate(frame, c, notes)
    ]
    if repeats < 0.05:
        return None
    left = {c: _compute_repeat_frac(frame, ["event_time", "__stem", c]) for c in candidates}
    good = sorted(
        (c for c in left if left[c] < 0.05),
        key=lambda c: (frame[c].dtype != pl.String, not re.search(_SERIES_NAMES, c.lower())),
    )
    if not good:
        raise SourceError(
            f"{frame['__stem'][0]}: {repeats:.0%} of the rows repeat a time, and no single column tells them"
            f" apart (tried {candidates or 'none'}). Say which column names the series: `--series NAME`; join"
            " two columns into one before, when it takes both."
        )
    if len(good) > 1 and left[good[0]] == left[good[1]] and frame[good[1]].dtype == pl.String:
        notes.questions.append(
            f"`{good[0]}` is taken as the series' name; {good[1:]} would do as well. Say --series."
        )
    notes.reasons["series_column"] = (
        f"times repeat, and with `{good[0]}` ({frame[good[0]].n_unique()} values) they do not"
    )
    return good[0]


def _compute_repeat_frac(frame: pl.DataFrame, key: list[str]) -> float:
    """Share of rows whose key came before."""
    time, *rest = key if key[0] == "event_time" else key[::-1]
    return 1.0 - convert_to_int(frame.group_by(rest).agg(pl.col(time).n_unique())[time].sum()) / frame.height


def _is_name_candidate(frame: pl.DataFrame, column: str, notes: _ColumnRoles) -> bool:
    if column == notes.source.get("known_at_column"):
        return False
    cells = frame[column]
    return cells.dtype == pl.String or (
        cells.dtype == pl.Float64
        and bool((cells == cells.floor()).all())
        and cells.n_unique() <= frame.height / 10
    )


def _list_value_columns(
    first: FileTable, frame: pl.DataFrame, time: TimeColumn | None, series: str | None, notes: _ColumnRoles
) -> list[str]:
    left_out = {"event_time", "__stem", series, notes.source.get("known_at_column")}
    numbers = [
        c
        for c in frame.columns
        if c not in left_out and frame[c].dtype == pl.Float64 and frame[c].null_count() < frame.height
    ]
    counting = [c for c in numbers if len(numbers) > 1 and _is_row_number(frame[c])]
    numbers = [c for c in numbers if c not in counting]
    if not numbers:
        kinds = {c: str(t) for c, t in first.frame.schema.items()}
        raise SourceError(
            f"{first.path}: no column of numbers to forecast; there are {kinds}. Give a file with at least"
            " one."
        )
    texts = [c for c in frame.columns if c not in left_out and frame[c].dtype == pl.String]
    if texts or counting:
        notes.reasons["value_columns"] = (
            f"numbers; left out: {', '.join([*texts, *(f'{c} (counts rows)' for c in counting)])}"
        )
    if time is None and series is None and texts and frame[texts[0]].n_unique() * 2 < frame.height:
        notes.questions.append(f"Does `{texts[0]}` name the series? say --series {texts[0]}")
    return numbers


def _is_row_number(cells: pl.Series) -> bool:
    steps = cells.diff().drop_nulls()
    return len(steps) > 0 and bool((steps == 1).all())


def _is_wide(
    frame: pl.DataFrame, numbers: list[str], series: str | None, asked: OwnerAnswers, notes: _ColumnRoles
) -> bool:
    """Whether each column is a series of its own: several numbers of one kind, and nothing that
    says that one of them is the target.
    """
    if asked.target and asked.target not in numbers:
        raise SourceError(
            f"`--target {asked.target}`: the columns of numbers are {numbers[:20]}. Give one of them."
        )
    if len(numbers) == 1:
        notes.reasons["layout"] = "one column of numbers"
        return False
    if series is not None or asked.target:
        notes.reasons["layout"] = (
            f"the series' name stands in `{series}`"
            if series
            else f"`{asked.target}` is the target as asked, the other columns go with it"
        )
        return False
    if bars.find_bars_by_name(numbers):
        notes.reasons["layout"] = "open, high, low and close belong together: a bar"
        return False
    sizes = [s for c in numbers if (s := convert_to_float(frame[c].abs().median()))]
    named = [c for c in numbers if c.lower() in _TARGET_NAMES[:8]]
    if named or (sizes and max(sizes) > _KIND_SPAN * min(sizes)):
        notes.reasons["layout"] = (
            f"`{named[0]}` sounds like a target"
            if named
            else "the columns differ in size by more than a thousand, so they are no series of one kind"
        )
        return False
    likely = next((c for c in numbers if c.lower() in _TARGET_NAMES), numbers[-1])
    notes.reasons["layout"] = f"{len(numbers)} columns of numbers of one kind: each is a series"
    notes.questions.append(
        f"Each of {numbers} is forecast as a series. Is one of them the target and the others go with it? say"
        f" --target {likely}"
    )
    return True


def _build_series_ids(
    frame: pl.DataFrame, tables: Sequence[FileTable], series: str | None, notes: _ColumnRoles
) -> pl.Expr:
    if series is not None:
        notes.source["series_column"] = series
        cells = pl.col(series)
        return (cells.cast(pl.Int64).cast(pl.String) if frame[series].dtype == pl.Float64 else cells).alias(
            "series_id"
        )
    if _is_one_series_in_parts(frame, tables, notes):
        return pl.lit(notes.source["series_id"]).alias("series_id")
    stems = frame["__stem"].unique(maintain_order=True).to_list()
    notes.source["series_from"] = "file_stem"
    pattern, names = _build_short_names(stems)
    if pattern:
        notes.source["series_pattern"] = pattern
    notes.reasons["series_from"] = (
        f"{len(stems)} files side by side in time: {', '.join(names[:4])}"
        if len(stems) > 1
        else "one file, one series"
    )
    return pl.col("__stem").replace_strict(stems, names).alias("series_id")


def _is_one_series_in_parts(frame: pl.DataFrame, tables: Sequence[FileTable], notes: _ColumnRoles) -> bool:
    """Several files that follow one another in time and differ in a number alone are one series."""
    if len(tables) == 1 or frame["event_time"].dtype == pl.Int64:
        return False
    spans = (
        frame.group_by("__stem")
        .agg(first=pl.col("event_time").min(), last=pl.col("event_time").max())
        .sort("first")
    )
    stems = spans["__stem"].to_list()
    bare = {re.sub(r"[\d_.\-]+$", "", s) for s in stems}
    if len(bare) > 1 or not (spans["first"][1:] > spans["last"][:-1]).all():
        return False
    name = bare.pop() or "series"
    notes.source |= {"series_from": "constant", "series_id": name}
    notes.reasons["series_from"] = (
        f"{len(stems)} files that follow one another in time, {stems[0]} to {stems[-1]}: one series"
    )
    return True


def _build_short_names(stems: list[str]) -> tuple[str | None, list[str]]:
    """A pattern that takes what all stems share at their end away, cut at a mark; and the names
    that remain.
    """
    if len(stems) < 2:
        return None, stems
    tail = stems[0]
    for stem in stems[1:]:
        while not stem.endswith(tail):
            tail = tail[1:]
    cut = re.search(r"[-_. ][^-_. ]*$", tail)
    if not cut:
        return None, stems
    ending = tail[cut.start() :]
    names = [s.removesuffix(ending) for s in stems]
    return (f"^(.+){ending.replace('.', '[.]')}", names) if all(names) else (None, stems)
