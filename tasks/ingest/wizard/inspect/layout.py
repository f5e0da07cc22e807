"""How rows and columns make series: a row each, a column each, or one below the other."""

import re
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect import bars
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, InspectedFiles, OwnerAnswers
from tasks.ingest.wizard.inspect.series_column import (
    build_series_ids,
    compute_repeat_frac,
    find_series_column,
    is_one_series_in_parts,
)
from tasks.ingest.wizard.inspect.time_column import add_time, add_time_fields, describe_time_form
from tasks.ingest.wizard.inspect.times import TimeColumn, find_time_form

MIN_ROWS = 20
_TARGET_NAMES = ("y", "target", "value", "sales", "demand", "load", "count", "price", "close", "ot")

_KIND_SPAN = 1000.0  # columns whose typical sizes differ by more are no series of one kind


def is_row_per_series(first: FileTable, asked: OwnerAnswers) -> bool:
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


def build_from_row_series(tables: Sequence[FileTable], notes: ColumnRoles) -> InspectedFiles:
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


def add_bar_names(
    tables: list[FileTable], time: TimeColumn | None, asked: OwnerAnswers, notes: ColumnRoles
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
    notes.reasons["time_column"] = f"reads as {describe_time_form(renamed.form)}"
    return [replace(t, frame=t.frame.rename(names)) for t in tables]


def build_from_value_columns(
    tables: list[FileTable], time: TimeColumn | None, asked: OwnerAnswers, notes: ColumnRoles
) -> InspectedFiles:
    """Series from columns of numbers, each a series of its own or all of each series."""
    time = (
        replace(time, name="time") if time is not None and time.name not in tables[0].frame.columns else time
    )
    add_time_fields(time, asked, notes)
    parts = [add_time(t, time, asked.time_zone or "UTC") for t in tables]
    frame = pl.concat(parts)
    if "time_zone" in notes.source and not asked.time_zone and (frame["event_time"].dt.hour() != 0).any():
        notes.questions.append(
            "The times name no zone; UTC is assumed. If they are local, say --time-zone, for example"
            " Europe/Berlin."
        )
    series = find_series_column(frame, time, asked, notes)
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
            is_one_series_in_parts(frame, tables, notes)
    else:
        notes.source |= {"layout": "long", "value_columns": numbers}
        rows = frame.select(build_series_ids(frame, tables, series, notes), "event_time", *numbers)
    key = ["series_id", "event_time"]
    rows = rows.select(*key, pl.exclude(key)).sort(key, maintain_order=True)
    kept = (
        rows.filter((pl.struct(key) != pl.struct(key).shift()).fill_null(value=True))
        if compute_repeat_frac(rows, key)
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


def _list_value_columns(
    first: FileTable, frame: pl.DataFrame, time: TimeColumn | None, series: str | None, notes: ColumnRoles
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
    frame: pl.DataFrame, numbers: list[str], series: str | None, asked: OwnerAnswers, notes: ColumnRoles
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
