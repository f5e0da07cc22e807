"""What names the series: a column, or the file."""

import re
from collections.abc import Sequence

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect.figures import convert_to_int
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, OwnerAnswers
from tasks.ingest.wizard.inspect.times import TimeColumn

MAX_REPEAT_FRAC = 0.05  # rows that repeat a key; more, and the key lacks a column
_SERIES_NAMES = (
    r"(^|_)(id|unique_id|series|symbol|ticker|store|item|sensor|meter|station|site|name|key|device|region)"
    r"($|_)"
)


def find_series_column(
    frame: pl.DataFrame, time: TimeColumn | None, answers: OwnerAnswers, roles: ColumnRoles
) -> str | None:
    """The column with which no time repeats; None if each file, or all together, is one series.

    Raises SourceError when times repeat and no single column names the series.
    """
    if answers.series:
        if answers.series not in frame.columns:
            columns = [c for c in frame.columns if c not in ("event_time", "__stem")]
            raise SourceError(
                f"`--series {answers.series}`: there is no such column; there are {columns[:12]}."
            )
        roles.reasons["series_column"] = "as asked"
        return answers.series
    if time is None:
        return None
    repeat_frac = compute_repeat_frac(frame, ["event_time", "__stem"])
    if repeat_frac < MAX_REPEAT_FRAC:
        return None
    candidates = [
        c
        for c in frame.columns
        if c not in {"event_time", "__stem", answers.target} and _is_name_candidate(frame, c, roles)
    ]
    frac_of_column = {c: compute_repeat_frac(frame, ["event_time", "__stem", c]) for c in candidates}
    names = sorted(
        (c for c in candidates if frac_of_column[c] < MAX_REPEAT_FRAC),
        key=lambda c: (frame[c].dtype != pl.String, not re.search(_SERIES_NAMES, c.lower())),
    )
    if not names:
        raise SourceError(
            f"{frame['__stem'][0]}: {repeat_frac:.0%} of the rows repeat a time, and no single column"
            f" distinguishes them (tried {candidates or 'none'}). Give the column that names the series:"
            " `--series NAME`; if it takes two columns, join them into one first."
        )
    if (
        len(names) > 1
        and frac_of_column[names[0]] == frac_of_column[names[1]]
        and frame[names[1]].dtype == pl.String
    ):
        roles.questions.append(
            f"`{names[0]}` is taken as the series' name; {names[1:]} would do as well. Give --series."
        )
    roles.reasons["series_column"] = (
        f"times repeat, and with `{names[0]}` ({frame[names[0]].n_unique()} values) they do not"
    )
    return names[0]


def compute_repeat_frac(frame: pl.DataFrame, key: list[str]) -> float:
    """Share of rows whose key has occurred before."""
    time, *rest = key if key[0] == "event_time" else key[::-1]
    return 1.0 - convert_to_int(frame.group_by(rest).agg(pl.col(time).n_unique())[time].sum()) / frame.height


def build_series_ids(
    frame: pl.DataFrame, tables: Sequence[FileTable], series: str | None, roles: ColumnRoles
) -> pl.Expr:
    """`series_id` from the column *series*, or from the names of the files."""
    if series is not None:
        roles.source["series_column"] = series
        cells = pl.col(series)
        is_number = frame[series].dtype == pl.Float64
        return (cells.cast(pl.Int64).cast(pl.String) if is_number else cells).alias("series_id")
    if is_one_series_in_parts(frame, tables, roles):
        return pl.lit(roles.source["series_id"]).alias("series_id")
    stems = frame["__stem"].unique(maintain_order=True).to_list()
    roles.source["series_from"] = "file_stem"
    pattern, names = _build_short_names(stems)
    if pattern:
        roles.source["series_pattern"] = pattern
    roles.reasons["series_from"] = (
        f"{len(stems)} files side by side in time: {', '.join(names[:4])}"
        if len(stems) > 1
        else "one file, one series"
    )
    return pl.col("__stem").replace_strict(stems, names).alias("series_id")


def is_one_series_in_parts(frame: pl.DataFrame, tables: Sequence[FileTable], roles: ColumnRoles) -> bool:
    """Whether the files follow one another in time and their names differ in a number alone."""
    if len(tables) == 1 or frame["event_time"].dtype == pl.Int64:
        return False
    spans = (
        frame.group_by("__stem")
        .agg(first=pl.col("event_time").min(), last=pl.col("event_time").max())
        .sort("first")
    )
    stems = spans["__stem"].to_list()
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
        and bool((cells == cells.floor()).all())
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
