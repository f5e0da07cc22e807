"""The layout of the rows: one row per series, one column per series, or one row per observation."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.params import RESERVED_NAMES
from tasks.ingest.wizard.inspect import bars
from tasks.ingest.wizard.inspect.event_times import (
    STEM,
    TIME,
    add_times,
    describe_zone_question,
    find_stamps,
    find_zone,
    is_local_clock,
    read_final_times,
)
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, InspectedFiles, OwnerAnswers
from tasks.ingest.wizard.inspect.series_column import (
    build_series_ids,
    compute_repeat_frac,
    find_series_column,
    is_one_series_in_parts,
)
from tasks.ingest.wizard.inspect.time_column import (
    TimeColumn,
    add_time_fields,
    describe_time_form,
    replace_name,
)
from tasks.ingest.wizard.inspect.time_forms import find_readings

MIN_ROWS = 20
MIN_TIME_COLUMNS, N_NAMES = 5, 12  # of the first names, those that are times in a file with a column per step
_KEY = ["series_id", "event_time"]
TARGET_NAMES = ("y", "target", "value", "sales", "demand", "load", "count", "price", "close", "ot")
_SURE_TARGET_NAMES = TARGET_NAMES[:8]  # of wide columns, one called `close` may be a series too
_MAX_SIZE_RATIO = 1000.0  # columns whose typical sizes differ by more are no series of one kind
_MAX_BROKEN_BARS_FRAC = 0.01  # a row in a hundred may be faulty


def is_row_per_series(first: FileTable, answers: OwnerAnswers) -> bool:
    """Whether each row is a series: a unique name, then numbered columns of numbers.

    Raises SourceError when the columns are times instead.
    """
    names = first.frame.columns
    texts = [c for c in names if first.frame[c].dtype == pl.String]
    dated = [c for c in names[:N_NAMES] if re.search(r"\d{2}", c) and find_readings(pl.Series([c]), "time")]
    if first.header and len(dated) >= MIN_TIME_COLUMNS:
        raise SourceError(
            f"{first.path}: the columns {dated[:2]}... are times and each row is a series. Transpose it:"
            " one column of time, one for each series."
        )
    if texts != names[:1] or first.frame.width < MIN_ROWS or answers.target:
        return False
    return bool(first.frame[names[0]].is_unique().all()) and (
        not first.header or all(re.search(r"\d+$", c) for c in names[1:])
    )


def build_from_row_series(tables: Sequence[FileTable], roles: ColumnRoles) -> InspectedFiles:
    """Series in rows, as in M4: their lengths differ, and they are aligned at their last value.

    Raises SourceError for a name in two rows.
    """
    frame = pl.concat([t.frame for t in tables])
    name = frame.columns[0]
    if frame[name].is_duplicated().any():
        raise SourceError(
            f"Series {frame[name].filter(frame[name].is_duplicated())[0]!r} is in two rows. Give each series"
            " one row."
        )
    steps = frame.columns[1:]
    number = pl.col("event_time").replace_strict(steps, range(len(steps)), return_dtype=pl.Int64)
    rows = (
        frame.rename({name: "series_id"})
        .unpivot(steps, index="series_id", variable_name="event_time", value_name="value")
        .with_columns(number)
        .drop_nulls("value")
        .sort(_KEY)
        .with_columns(pl.col("event_time") - pl.col("event_time").max().over("series_id"))
    )
    roles.source |= {
        "layout": "row_per_series",
        "time_column": None,
        "series_column": name,
        "value_name": "value",
    }
    roles.reasons["layout"] = (
        f"{frame.height} rows with a name that never repeats, then {len(steps)} numbered columns"
    )
    roles.questions.append(
        "The rows have no time: each column is a step, and all series are taken to end together. If there is"
        " time, give it in a column."
    )
    return InspectedFiles(
        roles.source,
        rows,
        integer_time=True,
        bars=False,
        repeated=0,
        received=frame.height,
        n_files=len(tables),
        reasons=roles.reasons,
        questions=tuple(roles.questions),
        unanswered=tuple(roles.unanswered),
        facts=tuple(roles.facts),
        target="value",
    )


def add_column_names(
    tables: list[FileTable], time: TimeColumn | None, answers: OwnerAnswers, roles: ColumnRoles
) -> tuple[list[FileTable], TimeColumn | None]:
    """Name the columns of files without a header: time, then prices by the invariants of a bar."""
    if answers.columns or tables[0].header or time is None:
        return tables, time
    frame = tables[0].frame.with_columns(add_times(tables[0], time, "UTC")[TIME]).sort(TIME).drop(TIME)
    numbers = [c for c in frame.columns if c not in time.columns and frame[c].dtype == pl.Float64]
    found_bars = bars.find_bars_by_invariants(frame, numbers) if len(numbers) >= len(bars.PRICES) else None
    prices, is_sure = found_bars or ({}, False)
    others = [c for c in frame.columns if c not in {*time.columns, *prices.values()}]
    other_name = "volume" if prices else "value"
    times = {c: "time" if i == 0 else f"time_{i + 1}" for i, c in enumerate(time.columns)}
    names = times | {c: price for price, c in prices.items()}
    names |= {c: other_name if len(others) == 1 else f"value_{i}" for i, c in enumerate(others, 1)}
    if prices:
        roles.reasons["columns"] = (
            "high is the greatest and low the least in every row; open is nearer to the close before it"
        )
    order = ",".join(names[c] for c in frame.columns)
    if not prices:
        question = f"they are called {list(names.values())}. Give their names: --columns."
    elif is_sure:
        question = f"by their values they are {order}. If not, give --columns."
    else:
        question = f"are they {order}? open and close are hard to distinguish: give --columns."
    roles.questions.append(f"The file names no columns; {question}")
    roles.reasons["time_column"] = f"reads as {describe_time_form(time.form)}"
    renamed = [
        replace(t, frame=t.frame.rename(names), cells=t.cells._replace(frame=t.raw.rename(names)))
        for t in tables
    ]
    return renamed, replace_name(time, names)


def build_from_value_columns(
    tables: list[FileTable], time: TimeColumn | None, answers: OwnerAnswers, roles: ColumnRoles
) -> InspectedFiles:
    """Series from columns of numbers: each column is one, or all of them belong to each series.

    Raises SourceError when too few rows are left, or as the functions that find the columns.
    """
    zone = find_zone(tables, time, answers, roles)
    stamps = find_stamps(tables, time, answers, roles)
    add_time_fields(time, zone, answers, roles)
    frame = pl.concat([add_times(t, time, zone) for t in tables])
    if zone == "UTC" and "time_zone" in roles.source and not answers.time_zone and is_local_clock(frame):
        roles.questions.append(describe_zone_question(time))
    series = find_series_column(frame, tables, time, answers, roles)
    if time is not None:
        frame = read_final_times(frame, tables, time, zone, series, answers, stamps)
    numbers = _list_value_columns(tables[0], frame, time, series, roles)
    is_wide = _is_wide(frame, numbers, series, answers, roles)
    received = _build_rows(frame, tables, series, numbers, answers, roles, is_wide=is_wide)
    rows = _remove_repeated(received)
    if rows.height < MIN_ROWS:
        raise SourceError(
            f"{tables[0].path}: {rows.height} rows of values; at least {MIN_ROWS} are needed to conclude"
            " anything. Give a longer history."
        )
    if time is None:
        rows = rows.with_columns(pl.col("event_time") - pl.col("event_time").max().over("series_id"))
    return InspectedFiles(
        roles.source,
        rows,
        integer_time=time is None,
        bars=not is_wide and _has_bars(rows),
        repeated=received.height - rows.height,
        received=frame.height,
        n_files=len(tables),
        reasons=roles.reasons,
        questions=tuple(roles.questions),
        unanswered=tuple(roles.unanswered),
        facts=tuple(roles.facts),
        every=time.every if time else None,
        target="value" if is_wide else None,
    )


def _build_rows(
    frame: pl.DataFrame,
    tables: list[FileTable],
    series: str | None,
    numbers: list[str],
    answers: OwnerAnswers,
    roles: ColumnRoles,
    *,
    is_wide: bool,
) -> pl.DataFrame:
    """series_id, event_time and the value columns, sorted."""
    if is_wide:
        rows = (
            frame.select(pl.col(TIME).alias("event_time"), *numbers)
            .unpivot(numbers, index="event_time", variable_name="series_id", value_name="value")
            .drop_nulls("value")
        )
        roles.source |= {"layout": "wide", "value_columns": numbers, "value_name": "value"}
        if len(tables) > 1:
            is_one_series_in_parts(frame, tables, roles)
    else:
        roles.source |= {"layout": "long", "value_columns": numbers}
        names = _rename_reserved(numbers, answers, roles)
        ids = frame.with_columns(build_series_ids(frame, tables, series, roles))["series_id"]
        values = frame.select(pl.col(c).alias(names.get(c, c)) for c in numbers)
        rows = pl.DataFrame([ids, frame[TIME].alias("event_time")]).hstack(values)
    return rows.select(*_KEY, pl.exclude(_KEY)).sort(_KEY, maintain_order=True)


def _rename_reserved(numbers: list[str], answers: OwnerAnswers, roles: ColumnRoles) -> dict[str, str]:
    """New names for columns whose names the chain uses itself."""
    names: dict[str, str] = {}
    likely = [c for c in numbers if c.lower() in TARGET_NAMES]
    target = answers.target or ("bars" if bars.find_bars_by_name(numbers) else likely[0] if likely else None)
    for name in numbers:
        if name in RESERVED_NAMES or (name == "y" and target != "y"):  # the chain calls the target y
            new = f"{name}_value"
            while new in numbers:
                new += "_"
            names[name] = new
    if names:
        roles.source["rename"] = names
        renamed = ", ".join(f"`{old}` is called `{new}`" for old, new in names.items())
        roles.facts.append(f"Names that Tidemill uses itself are changed: {renamed}.")
    return names


def _remove_repeated(rows: pl.DataFrame) -> pl.DataFrame:
    """The first row of each key. rows: sorted by it."""
    if not compute_repeat_frac(rows, _KEY):
        return rows
    return rows.filter((pl.struct(_KEY) != pl.struct(_KEY).shift()).fill_null(value=True))


def _has_bars(rows: pl.DataFrame) -> bool:
    if not set(bars.PRICES) <= set(rows.columns):
        return False
    return bars.compute_broken_frac(rows, {p: p for p in bars.PRICES}) < _MAX_BROKEN_BARS_FRAC


def _list_value_columns(
    first: FileTable, frame: pl.DataFrame, time: TimeColumn | None, series: str | None, roles: ColumnRoles
) -> list[str]:
    """The columns of numbers, without those that only count rows.

    Raises SourceError when there is none.
    """
    no_values = {TIME, STEM, series, roles.source.get("known_at_column")}
    others = [c for c in frame.columns if c not in no_values]
    empty = [c for c in others if frame[c].null_count() == frame.height]
    numbers = [c for c in others if frame[c].dtype == pl.Float64 and c not in empty]
    row_numbers = [c for c in numbers if len(numbers) > 1 and _is_row_number(frame[c])]
    numbers = [c for c in numbers if c not in row_numbers]
    if not numbers:
        _raise_no_numbers(first, others)
    texts = [c for c in others if frame[c].dtype == pl.String and c not in empty]
    left_out = dict.fromkeys(texts, "text") | dict.fromkeys(empty, "empty")
    left_out |= dict.fromkeys(row_numbers, "counts rows")
    left_out |= {c: str(frame[c].dtype) for c in others if c not in left_out and c not in numbers}
    if left_out:
        listed = ", ".join(f"{c} ({why})" for c, why in left_out.items())
        roles.reasons["value_columns"] = f"numbers; left out: {listed}"
        roles.facts.append(f"Columns left out: {listed}.")
    if time is None and series is None and texts and frame[texts[0]].n_unique() * 2 < frame.height:
        roles.questions.append(f"Does `{texts[0]}` name the series? give --series {texts[0]}")
    return numbers


def _raise_no_numbers(first: FileTable, others: list[str]) -> NoReturn:
    """Raises SourceError with a cell, since its writing shows what keeps it from being a number."""
    types = {c: str(first.raw[c].dtype) for c in others}
    for name in others:
        cells = first.raw[name].drop_nulls()
        if first.raw[name].dtype == pl.String and len(cells) and cells.str.contains(r"\d").mean() > 0.5:  # type: ignore[operator]
            raise SourceError(
                f"{first.format_row(0)}, column {name!r}: {cells[0]!r} is not read as a number. Write numbers"
                " with one decimal sign, one kind of thousands separator and one unit or currency a column."
            )
    raise SourceError(
        f"{first.path}: no column of numbers to forecast; there are {types}. Give a file with at least one."
    )


def _is_row_number(cells: pl.Series) -> bool:
    steps = cells.diff().drop_nulls()
    return len(steps) > 0 and bool((steps == 1).all())


def _is_wide(
    frame: pl.DataFrame, numbers: list[str], series: str | None, answers: OwnerAnswers, roles: ColumnRoles
) -> bool:
    """Whether each column is a series: several numbers of one kind, none a likely target."""
    if answers.target and answers.target not in numbers:
        raise SourceError(
            f"`--target {answers.target}`: the columns of numbers are {numbers[:20]}. Give one of them."
        )
    medians = [m for c in numbers if (m := convert_to_float(frame[c].abs().median()))]
    targets = [c for c in numbers if c.lower() in _SURE_TARGET_NAMES]
    if len(numbers) == 1:
        reason = "one column of numbers"
    elif series is not None:
        reason = f"the series' name is in `{series}`"
    elif answers.target:
        reason = f"`{answers.target}` is the target as asked, the other columns go with it"
    elif bars.find_bars_by_name(numbers):
        reason = "open, high, low and close belong together: a bar"
    elif targets:
        reason = f"`{targets[0]}` sounds like a target"
    elif medians and max(medians) > _MAX_SIZE_RATIO * min(medians):
        reason = "the columns differ in size by more than a thousand, so they are no series of one kind"
    else:
        likely = next((c for c in numbers if c.lower() in TARGET_NAMES), numbers[-1])
        roles.reasons["layout"] = f"{len(numbers)} columns of numbers of one kind: each is a series"
        roles.questions.append(
            f"Each of {numbers} is forecast as a series. Is one of them the target and the others go with"
            f" it? give --target {likely}"
        )
        return True
    roles.reasons["layout"] = reason
    return False
