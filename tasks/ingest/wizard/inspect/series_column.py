"""What names the series: a column, or the file."""

import re
from collections.abc import Sequence

import polars as pl

from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect.figures import convert_to_int
from tasks.ingest.wizard.inspect.files import FileTable
from tasks.ingest.wizard.inspect.inspected import ColumnRoles, OwnerAnswers
from tasks.ingest.wizard.inspect.times import TimeColumn

_SERIES_NAMES = (
    r"(^|_)(id|unique_id|series|symbol|ticker|store|item|sensor|meter|station|site|name|key|device|region)"
    r"($|_)"
)


def find_series_column(
    frame: pl.DataFrame, time: TimeColumn | None, asked: OwnerAnswers, notes: ColumnRoles
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
    repeats = compute_repeat_frac(frame, ["event_time", "__stem"])
    candidates = [
        c
        for c in frame.columns
        if c not in {"event_time", "__stem", asked.target} and _is_name_candidate(frame, c, notes)
    ]
    if repeats < 0.05:
        return None
    left = {c: compute_repeat_frac(frame, ["event_time", "__stem", c]) for c in candidates}
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


def compute_repeat_frac(frame: pl.DataFrame, key: list[str]) -> float:
    """Share of rows whose key came before."""
    time, *rest = key if key[0] == "event_time" else key[::-1]
    return 1.0 - convert_to_int(frame.group_by(rest).agg(pl.col(time).n_unique())[time].sum()) / frame.height


def _is_name_candidate(frame: pl.DataFrame, column: str, notes: ColumnRoles) -> bool:
    if column == notes.source.get("known_at_column"):
        return False
    cells = frame[column]
    return cells.dtype == pl.String or (
        cells.dtype == pl.Float64
        and bool((cells == cells.floor()).all())
        and cells.n_unique() <= frame.height / 10
    )


def build_series_ids(
    frame: pl.DataFrame, tables: Sequence[FileTable], series: str | None, notes: ColumnRoles
) -> pl.Expr:
    """`series_id` from the column *series*, or from the names of the files."""
    if series is not None:
        notes.source["series_column"] = series
        cells = pl.col(series)
        return (cells.cast(pl.Int64).cast(pl.String) if frame[series].dtype == pl.Float64 else cells).alias(
            "series_id"
        )
    if is_one_series_in_parts(frame, tables, notes):
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


def is_one_series_in_parts(frame: pl.DataFrame, tables: Sequence[FileTable], notes: ColumnRoles) -> bool:
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
