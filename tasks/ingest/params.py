"""The section `ingest`: where the rows come from and how their cells become columns.

The wizard writes the same structure.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.core.strict import Strict

_KEY = frozenset({"series_id", "event_time", "known_at"})


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
    columns: names for a file without any: no header, or JSON that is a list of lists.
    time_column: None means that rows are steps.
    time_format: `iso`, an epoch unit (`s`, `ms`, `us`) or a strptime pattern.
    time_zone: of times without an offset.
    series_column: names the series of a row (`long`, `row_per_series`); None: see series_from.
    series_from: the file's name without its ending, or `constant`, which is series_id.
    series_pattern: a regular expression on the file name; its one group is the series (used before
    series_from).
    value_columns: `long`: the columns to keep; `wide`: the columns that are series;
    `row_per_series`: nothing (all other columns).
    snap_times: align each time to the start of its step (counted from 1970), for clocks that jitter
    or series whose steps start at different moments.
    value_name: the value column of `wide` and `row_per_series`.
    max_rows_per_series keeps the newest rows, max_series the first series by name.
    """

    kind: Literal["files"]
    files: tuple[str, ...] = ()
    format: Literal["csv", "parquet", "json", "jsonl"]
    layout: Literal["long", "wide", "row_per_series"]
    header: bool = True
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    columns: tuple[str, ...] | None = None
    time_column: str | None
    time_format: str = "iso"
    time_zone: str = "UTC"
    snap_times: bool = False
    series_column: str | None = None
    series_from: Literal["file_stem", "constant"] = "constant"
    series_id: str = "series"
    series_pattern: str | None = None
    value_columns: tuple[str, ...] = ()
    value_name: str = "value"
    known_at_column: str | None = None
    max_rows_per_series: Annotated[int, Field(ge=1)] | None = None
    max_series: Annotated[int, Field(ge=1)] | None = None

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
        if taken := _KEY & {self.value_name, *(self.value_columns if self.layout == "long" else ())}:
            raise ValueError(f"{sorted(taken)} are the names of the key; a value column needs another name.")
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
