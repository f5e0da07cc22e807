"""Parameters of a feed: its source, the fields of its records, what is late, when it commits.

`feed` of a dataset's entry in params.yaml.
"""

from typing import Annotated, Any, Literal

import polars as pl
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from tasks.core.errors import FeedError
from tasks.core.strict import Strict
from tasks.edges.feeds import get_feed_class
from tasks.edges.feeds.base import SourceParams
from tasks.feed.contract import RESERVED_NAMES

FieldType = Literal["float", "int", "string", "bool"]
TYPES: dict[str, pl.DataType] = {
    "float": pl.Float64(),
    "int": pl.Int64(),
    "string": pl.String(),
    "bool": pl.Boolean(),
}


def parse_source(content: Any) -> Any:
    """`feed.source` as the parameters of its kind.

    Raises ValueError for an unknown kind, or without one.
    """
    if not isinstance(content, dict):
        return content
    try:
        kind = get_feed_class(str(content.get("kind", "")))
    except FeedError as error:
        raise ValueError(str(error)) from error
    return kind.Params.model_validate(content)


class FieldSpec(Strict):
    """One field of a record. nullable: it may be null or absent."""

    type: FieldType = "float"
    nullable: bool = False


class BarColumn(Strict):
    """One column of a bar: *by* of the field *of*, over the ticks of a window in event time.

    `count` without a field counts ticks.
    """

    by: Literal["first", "last", "min", "max", "sum", "mean", "count"]
    of: str | None = None

    @model_validator(mode="after")
    def _has_a_field(self) -> "BarColumn":
        if self.of is None and self.by != "count":
            raise ValueError(f"`by: {self.by}` needs `of`, the field it is taken of.")
        return self


class AggregateParams(Strict):
    """From ticks to bars, a row a series and window.

    kind: `tumbling` windows are a step of *every* each; `sliding` ones end with each step and hold
    period_steps of them; a `session` ends where a series is silent for gap_s.
    """

    kind: Literal["tumbling", "sliding", "session"] = "tumbling"
    every: Annotated[str, Field(pattern=r"^[1-9]\d*(mo|[yqwdhms]|ms|us)$")] = "1m"
    period_steps: Annotated[int, Field(ge=1)] = 1
    gap_s: Annotated[float, Field(gt=0)] | None = None
    columns: Annotated[dict[str, BarColumn], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_kind(self) -> "AggregateParams":
        if (self.period_steps > 1) != (self.kind == "sliding"):
            raise ValueError(
                f"`period_steps: {self.period_steps}` with `kind: {self.kind}`: sliding windows have 2 steps"
                " or more, the others 1."
            )
        if (self.gap_s is not None) != (self.kind == "session"):
            raise ValueError(
                f"`gap_s: {self.gap_s}` with `kind: {self.kind}`: a session needs it, the others have none."
            )
        if taken := sorted(name for name in self.columns if name in RESERVED_NAMES or name.startswith("_")):
            raise ValueError(
                f"`columns` has {taken}; these names (and those with a leading _) are the table's own. Choose"
                " others."
            )
        return self

    @property
    def fields(self) -> list[str]:
        """The fields of a tick that it reads."""
        return sorted({column.of for column in self.columns.values() if column.of is not None})


class FeedParams(Strict):
    """The section `feed` of params.yaml, overlaid by the dataset's.

    series_field: names the series; None: the record's key does.
    time_field: start of the step, or moment of the tick.
    time_format: `iso`, or an epoch in `s`, `ms`, `us`.
    known_at_field: when the values were known; None: the step's end plus `about.publish_delay_s`.
    closed_field: true in a record whose bar is closed.
    closed_by_time: a bar that was produced before its step ended is not closed; None: so on a
    continuous calendar (a trading day's bar is complete before its day ends).
    fields: further fields. What `validate.columns` names and is not among them is a float; nullable
    as it says there.
    id_fields: what makes a record the same one, in addition to series and time (and known_at); a
    tick's number for example.
    dedupe: off where no field does.
    window: the chain sees rows up to the end of the last closed window of that length, from 1970.
    silent_s: a series whose newest row was produced that long before the table's newest holds no
    window open.
    aggregate: records are ticks, and the chain sees the bars of them; None: it sees the records.
    lateness_s: a record that far behind its series' newest is late.
    max_ahead_s: an event time that far after its record's production is no time.
    max_record_kb: larger records are quarantined unread.
    max_added_fields: unknown fields that may become columns; 0: they are quarantined.
    commit_rows, commit_every_s: the first that is reached ends a commit.
    max_buffer_mb: of records held.
    max_ids: remembered by dedupe, 32 bytes each.
    format: `json`; `avro` or `protobuf`: by the schema registry of TIDEMILL_SCHEMA_REGISTRY with
    its five bytes before each record, or by schema_file without them.
    schema_file: an Avro schema; or a Protobuf descriptor set, and message: the full name in it.
    alert_quarantine_frac, alert_late_frac: an event is raised when more of the records of
    alert_window_s (by the clock) go there.
    sync: files and log are on disk before a commit counts.
    keep_h: files that no version needs are removed after that; keep_log_h: versions.
    """

    source: SerializeAsAny[Annotated[SourceParams, BeforeValidator(parse_source)]]
    series_field: str | None = "series_id"
    time_field: str = "event_time"
    time_format: Literal["iso", "s", "ms", "us"] = "iso"
    known_at_field: str | None = None
    closed_field: str | None = None
    closed_by_time: bool | None = None
    fields: dict[str, FieldSpec] = Field(default_factory=dict)
    id_fields: tuple[str, ...] = ()
    dedupe: bool = True
    lateness_s: Annotated[float, Field(ge=0)] = 3600.0
    max_ahead_s: Annotated[float, Field(ge=0)] = 86_400.0
    max_record_kb: Annotated[int, Field(ge=1)] = 1024
    max_added_fields: Annotated[int, Field(ge=0)] = 20
    commit_rows: Annotated[int, Field(ge=1)] = 50_000
    commit_every_s: Annotated[float, Field(gt=0)] = 0.5
    max_buffer_mb: Annotated[int, Field(ge=8)] = 32
    max_ids: Annotated[int, Field(ge=0)] = 500_000
    window: str = "1d"
    silent_s: Annotated[float, Field(gt=0)] = 86_400.0
    aggregate: AggregateParams | None = None
    partition_by: Literal["year", "month", "day"] = "month"
    format: Literal["json", "avro", "protobuf"] = "json"
    schema_file: str | None = None
    message: str | None = None
    alert_quarantine_frac: Annotated[float, Field(ge=0, le=1)] = 0.05
    alert_late_frac: Annotated[float, Field(ge=0, le=1)] = 0.05
    alert_window_s: Annotated[float, Field(gt=0)] = 600.0
    sync: bool = True
    keep_h: Annotated[float, Field(ge=1)] = 24.0
    keep_log_h: Annotated[int, Field(ge=1)] = 6

    @model_validator(mode="after")
    def _check_free_names(self) -> "FeedParams":
        if taken := sorted(name for name in self.fields if name in RESERVED_NAMES or name.startswith("_")):
            raise ValueError(
                f"`feed.fields` has {taken}; these names (and those with a leading _) are the table's own."
                " Rename the fields at the producer, or leave them out."
            )
        if unknown := sorted(set(self.id_fields) - set(self.fields)):
            raise ValueError(f"`feed.id_fields` names {unknown}, which `feed.fields` does not have.")
        if self.aggregate is not None and (
            strange := [
                n for n in self.aggregate.fields if n not in self.fields or self.fields[n].type == "string"
            ]
        ):
            raise ValueError(
                f"`feed.aggregate.columns` reads {strange}, which are no numbers of `feed.fields`. Declare"
                " them there."
            )
        if self.format != "json" and self.source.is_json:
            raise ValueError(
                f"`feed.format` is {self.format}, and the records of kind {self.source.kind} are JSON."
                " Remove it."
            )
        return self

    @model_validator(mode="after")
    def _check_format(self) -> "FeedParams":
        if self.format == "json" and (self.schema_file or self.message):
            raise ValueError(
                "`feed.schema_file` and `feed.message` say how avro or protobuf is read. Set `feed.format`,"
                " or remove them."
            )
        if self.format == "protobuf" and self.schema_file and not self.message:
            raise ValueError(
                "`feed.schema_file` may describe many messages. Name the one that records are in"
                " `feed.message`, with its package."
            )
        return self

    def add_contract(self, columns: dict[str, Any]) -> "FeedParams":
        """These, with the columns of the dataset's contract as fields.

        columns: `validate.columns`. Those that are named already stay; of a feed of ticks they are
        columns of bars, and no fields.
        """
        if self.aggregate is not None:
            return self
        derived = {
            name: FieldSpec(nullable=bool((rules or {}).get("nullable", False)))
            for name, rules in columns.items()
            if name not in {*self.fields, self.series_field, self.time_field, self.known_at_field}
        }
        return self.model_copy(update={"fields": {**derived, **self.fields}})
