"""The section `ingest`: where the rows come from and how their cells become columns.

The wizard writes the same structure.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.core.strict import Strict

# columns of the chain's own tables, which a column of a file would overwrite
RESERVED_NAMES = frozenset(
    {
        "series_id", "event_time", "known_at", "file", "fate", "rule", "reason", "is_gap", "z", "step",
        "cutoff", "model", "y_hat",
    }
)  # fmt: skip


class ArchSource(Strict):
    """The daily index bars that are part of the package `arch`."""

    kind: Literal["arch"]
    series: tuple[Literal["sp500", "nasdaq"], ...] = ("sp500", "nasdaq")


class FilesSource(Strict):
    """All files in data/source except source.json, read the same way.

    files: paths or globs that `tidemill use` links into data/source; relative ones count from the
    checkout. Ingest itself reads the links.
    layout: `long` has a row per series and step, `wide` a column per series, `row_per_series` a row
    per series and a column per step.
    encoding: of text files, as Python names it.
    columns: names for a file without any: no header, or JSON that is a list of lists.
    time_column: None means that rows are steps.
    time_parts: further columns that complete the time, in the order of the pattern (a clock, an
    hour, a month); the cells are joined by a space.
    time_format: `iso`, an epoch unit (`s`, `ms`, `us`, `ns`), `excel` (serial days), or a strptime
    pattern, with `%q` for quarters and `%N` for the number of a step within its day; `iso/...` or
    `PATTERN - ...` for intervals, which are read at their start.
    time_zone: of times without an offset. Steps of a day or more are days of this zone, and end
    with them; `as_written`: the days that the cells show.
    stamps: whether a time is the start of its step (`hour_beginning`) or its end (`hour_ending`).
    series_column: names the series of a row (`long`, `row_per_series`); None: see series_from.
    series_from: the file's name without its ending, or `constant`, which is series_id.
    series_pattern: a regular expression on the file name; its one group is the series (used before
    series_from).
    value_columns: `long`: the columns to keep; `wide`: the columns that are series;
    `row_per_series`: nothing (all other columns).
    snap_times: align each time to the start of its step (counted from 1970), for clocks that jitter
    or series whose steps start at different moments.
    value_name: the value column of `wide` and `row_per_series`.
    rename: {column of the file: its name here}, for names that the chain uses itself.
    decimal, thousands, affixes: how numbers are written: the decimal sign, what groups digits, and
    currencies or units around numbers, which are not read.
    missing: numbers that mean that a value is missing, for example -999.
    aggregate: what becomes of several rows of a series in one step; None: the first counts.
    known_ahead_columns: columns that are known `known_ahead_steps` steps before their step; each
    step gets a further row, without the other columns, that was known then.
    unanswered: questions of the wizard; ingest refuses until they are answered.
    assumed: readings that were taken without an answer (`tidemill new --yes`).
    max_rows_per_series keeps the newest rows, max_series the first series by name.
    """

    kind: Literal["files"]
    files: tuple[str, ...] = ()
    format: Literal["csv", "parquet", "json", "jsonl"]
    layout: Literal["long", "wide", "row_per_series"]
    header: bool = True
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8"
    columns: tuple[str, ...] | None = None
    time_column: str | None
    time_parts: tuple[str, ...] = ()
    time_format: str = "iso"
    time_zone: str = "UTC"
    stamps: Literal["hour_beginning", "hour_ending"] = "hour_beginning"
    snap_times: bool = False
    series_column: str | None = None
    series_from: Literal["file_stem", "constant"] = "constant"
    series_id: str = "series"
    series_pattern: str | None = None
    value_columns: tuple[str, ...] = ()
    value_name: str = "value"
    rename: dict[str, str] = Field(default_factory=dict)
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ",", ".", " ", "'"] = ""
    affixes: tuple[str, ...] = ()
    missing: tuple[float, ...] = ()
    aggregate: Literal["mean", "sum", "last"] | None = None
    known_ahead_columns: tuple[str, ...] = ()
    known_ahead_steps: Annotated[int, Field(ge=1)] = 1
    known_at_column: str | None = None
    max_rows_per_series: Annotated[int, Field(ge=1)] | None = None
    max_series: Annotated[int, Field(ge=1)] | None = None
    unanswered: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_layout(self) -> "FilesSource":
        if self.layout != "row_per_series" and not self.value_columns:
            raise ValueError(f"layout `{self.layout}` needs `value_columns`: the columns that hold numbers.")
        if self.layout == "row_per_series" and self.time_column is not None:
            raise ValueError(
                "layout `row_per_series` has no time in its rows: set `time_column: null`, steps are counted"
                " from the last value."
            )
        if self.layout == "wide" and self.series_column is not None:
            raise ValueError("layout `wide` takes its series from the column names: remove `series_column`.")
        names = [self.rename.get(c, c) for c in self.value_columns] if self.layout == "long" else []
        if taken := RESERVED_NAMES & {self.value_name, *names}:
            raise ValueError(
                f"{sorted(taken)} are names of the key or of the chain; a value column needs another name."
                f" Add `rename: {{{min(taken)}: {min(taken)}_value}}`."
            )
        if len(names) != len(set(names)):
            raise ValueError(
                f"`rename` gives a name twice: {sorted({n for n in names if names.count(n) > 1})}."
            )
        if self.decimal == self.thousands:
            raise ValueError(f"`decimal` and `thousands` are both {self.decimal!r}.")
        if self.series_pattern is not None and re.compile(self.series_pattern).groups != 1:
            raise ValueError(
                f"`series_pattern` {self.series_pattern!r} needs exactly one group: the part of the file name"
                " that is the series."
            )
        return self


class ExtensionSource(Strict):
    """Files that a class of your own reads, one by one.

    of: `<file>:<Class>`, a file in `tasks/extensions`; the class has `read(path)`, which returns
    series_id, event_time (start of the step, UTC), the value columns and, if known, known_at.
    files: paths or globs, as in FilesSource.
    options: arguments of the class, by name.
    """

    kind: Literal["extension"]
    of: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    options: dict[str, Any] = Field(default_factory=dict)


class FeedSource(Strict):
    """The feed's table, up to the window in data/source/window.json, which tasks.feed writes.

    known_at: of rows without one. `produced`: not before the record was produced. `nominal`: the
    step's end plus the publish delay whenever the record arrived, for a topic that was filled with
    history afterwards.
    """

    kind: Literal["feed"]
    known_at: Literal["produced", "nominal"] = "produced"


SourceParams = ArchSource | FilesSource | ExtensionSource | FeedSource


class IngestParams(Strict):
    """The section `ingest` of params.yaml, overlaid by the dataset's."""

    source: Annotated[SourceParams, Field(discriminator="kind")]
