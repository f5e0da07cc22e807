"""What names the series: a column, or the file."""

import re
from collections.abc import Sequence

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.tables import format_ids
from tasks.ingest.wizard.inspect.event_times import STEM, TIME
from tasks.ingest.wizard.inspect.figures import convert_to_float, convert_to_int
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, OwnerAnswers
from tasks.ingest.wizard.inspect.time_column import TimeColumn

MIN_ROWS_OF_SERIES = 10
MIN_EVEN_FRAC = 0.8  # of the distances between times of a series that are its usual one
MAX_REPEAT_FRAC = 0.05  # rows that repeat a key; with more, a column of the key is missing
_SERIES_NAMES = (
    r"(^|_)(id|unique_id|series|symbol|ticker|store|item|sensor|meter|station|site|name|key|device|region|country|shop|plant|router|node|host|machine|channel|product|sku|customer|area|zone|location)"
    r"($|_)"
)


def find_series_column(
    frame: pl.DataFrame,
    tables: Sequence[FileTable],
    time: TimeColumn | None,
    answers: OwnerAnswers,
    roles: ColumnRoles,
) -> str | None:
    """The column with which no time repeats; None if each file, or all together, is one series.

    Raises SourceError when times repeat and no single column names the series.
    """
    if answers.series == "none":
        return None
    if answers.series:
        if answers.series not in frame.columns:
            columns = [c for c in frame.columns if c not in (TIME, STEM)]
            raise SourceError(
                f"`--series {answers.series}`: there is no such column; there are {columns[:12]}."
            )
        roles.reasons["series_column"] = "as asked"
        return answers.series
    if time is None:
        return None
    repeat_frac = compute_repeat_frac(frame, [TIME, STEM])
    if repeat_frac < MAX_REPEAT_FRAC:
        return _find_staggered_series(frame, answers, roles)
    candidates = [
        c
        for c in frame.columns
        if c not in {TIME, STEM, answers.target} and _is_name_candidate(frame, c, roles)
    ]
    numbers = {c for c in candidates if frame[c].dtype == pl.Float64}
    # names as written: `NA`, and 7 next to 007, are names of their own
    ids = [pl.concat([format_ids(t.raw[c]) for t in tables]).alias(c) for c in candidates]
    frame = frame.with_columns(ids)
    frac_of_column = {c: compute_repeat_frac(frame, [TIME, STEM, c]) for c in candidates}
    names = sorted(
        (c for c in candidates if frac_of_column[c] < MAX_REPEAT_FRAC),
        key=lambda c: (c in numbers, not re.search(_SERIES_NAMES, c.lower())),
    )
    if not names:
        raise SourceError(
            f"{frame[STEM][0]}: {repeat_frac:.0%} of the rows repeat a time, and no single column"
            f" distinguishes them (tried {candidates or 'none'}). Give the column that names the series:"
            " `--series NAME`; if it takes two columns, join them into one first."
        )
    if len(names) > 1 and frac_of_column[names[0]] == frac_of_column[names[1]] and names[1] not in numbers:
        roles.questions.append(
            f"`{names[0]}` is taken as the series' name; {names[1:]} would do as well. Give --series."
        )
    roles.reasons["series_column"] = (
        f"times repeat, and with `{names[0]}` ({frame[names[0]].n_unique()} values) they do not"
    )
    return names[0]


def compute_repeat_frac(frame: pl.DataFrame, key: list[str]) -> float:
    """Share of rows whose key has occurred before."""
    time, *rest = key if key[0] == TIME else key[::-1]
    return 1.0 - convert_to_int(frame.group_by(rest).agg(pl.col(time).n_unique())[time].sum()) / frame.height


def _find_staggered_series(frame: pl.DataFrame, answers: OwnerAnswers, roles: ColumnRoles) -> str | None:
    """The column whose series have steps of their own that are even, though no time repeats."""
    candidates = [
        c
        for c in frame.columns
        if c not in {TIME, STEM, answers.target}
        and _is_name_candidate(frame, c, roles)
        and 2 <= frame[c].n_unique() <= frame.height / MIN_ROWS_OF_SERIES
        and not frame[c].null_count()
        and not _is_calendar_column(frame, c)
    ]
    merged = _compute_even_frac(frame.select(TIME).sort(TIME)[TIME])
    for name in sorted(candidates, key=lambda c: not re.search(_SERIES_NAMES, c.lower())):
        is_named = re.search(_SERIES_NAMES, name.lower()) is not None
        if not is_named and frame[name].dtype != pl.String:
            continue
        steps = frame.sort(name, TIME).select(
            pl.when(pl.col(name) == pl.col(name).shift()).then(pl.col(TIME).diff()).alias("d"), name
        )
        even = convert_to_float(
            steps.drop_nulls("d")
            .group_by(name)
            .agg((pl.col("d") == pl.col("d").mode().min()).mean())["d"]
            .mean()
        )
        if even < MIN_EVEN_FRAC and not (is_named and even >= merged):
            continue
        n = frame[name].n_unique()
        if is_named or even > merged:
            roles.reasons["series_column"] = f"each of its {n} values has steps of its own ({even:.0%} even)"
            roles.facts.append(f"`{name}` has {n} values, each with steps of its own: each is a series.")
            return name
        shown = frame.head(3).select(name, TIME).rows()
        rows = "; ".join(f"{value!r} at {time:%F %R}" for value, time in shown)
        roles.unanswered.append(
            f"Column {name!r} has {n} values, each with even steps of its own ({rows}): are these {n} series,"
            f" or one? Give `--series {name}` or `--series none`."
        )
        return name
    return None


def _compute_even_frac(times: pl.Series) -> float:
    steps = times.diff().drop_nulls()
    return convert_to_float((steps == steps.mode().min()).mean()) if len(steps) else 0.0


def _is_calendar_column(frame: pl.DataFrame, name: str) -> bool:
    """Whether the column follows from the time, as the name of the weekday does."""
    for part in (
        pl.col(TIME).dt.weekday(),
        pl.col(TIME).dt.month(),
        pl.col(TIME).dt.hour(),
        pl.col(TIME).dt.date(),
    ):
        if (
            frame.select(n=pl.struct(part, name).n_unique(), p=part.n_unique()).row(0)[0]
            == frame.select(part.n_unique()).item()
        ):
            return frame[name].n_unique() > 1
    return False


def build_series_ids(
    frame: pl.DataFrame, tables: Sequence[FileTable], series: str | None, roles: ColumnRoles
) -> pl.Expr | pl.Series:
    """`series_id` from the column *series*, or from the names of the files.

    Raises SourceError for a row without one.
    """
    if series is not None:
        roles.source["series_column"] = series
        ids = [format_ids(t.raw[series]) for t in tables]
        for table, names_of in zip(tables, ids, strict=True):
            if n := names_of.null_count():
                raise SourceError(
                    f"{table.format_row(int(names_of.is_null().arg_true()[0]))}, column {series!r}: no series"
                    f" in {n} rows. Correct or remove them."
                )
        return pl.concat(ids).alias("series_id")
    if is_one_series_in_parts(frame, tables, roles):
        return pl.lit(roles.source["series_id"]).alias("series_id")
    stems = frame[STEM].unique(maintain_order=True).to_list()
    roles.source["series_from"] = "file_stem"
    pattern, names = _build_short_names(stems)
    if pattern:
        roles.source["series_pattern"] = pattern
    roles.reasons["series_from"] = (
        f"{len(stems)} files side by side in time: {', '.join(names[:4])}"
        if len(stems) > 1
        else "one file, one series"
    )
    return pl.col(STEM).replace_strict(stems, names).alias("series_id")


def is_one_series_in_parts(frame: pl.DataFrame, tables: Sequence[FileTable], roles: ColumnRoles) -> bool:
    """Whether the files follow one another in time and their names differ in a number alone."""
    if len(tables) == 1 or frame[TIME].dtype == pl.Int64:
        return False
    spans = frame.group_by(STEM).agg(first=pl.col(TIME).min(), last=pl.col(TIME).max()).sort("first")
    stems = spans[STEM].to_list()
    names = {re.sub(r"[\d_.\-]+$", "", s) for s in stems}
    if len(names) > 1 or not (spans["first"][1:] > spans["last"][:-1]).all():
        return False
    roles.source |= {"series_from": "constant", "series_id": names.pop() or "series"}
    roles.reasons["series_from"] = (
        f"{len(stems)} files that follow one another in time, {stems[0]} to {stems[-1]}: one series"
    )
    return True


def _is_name_candidate(frame: pl.DataFrame, column: str, roles: ColumnRoles) -> bool:
    """Whether a column could name series: text, or few whole numbers."""
    if column == roles.source.get("known_at_column"):
        return False
    cells = frame[column]
    return cells.dtype == pl.String or (
        cells.dtype == pl.Float64
        and bool((cells == cells.floor()).fill_null(value=True).all())
        and cells.n_unique() <= frame.height / 10
    )


def _build_short_names(stems: list[str]) -> tuple[str | None, list[str]]:
    """A pattern that removes the ending, from a separator on, that all stems share; the names."""
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
