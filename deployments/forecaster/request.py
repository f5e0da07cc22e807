"""Parsing the bytes of a request.

Strict: finite numbers, no unknown and no repeated keys, a zone on every time.
"""

import json
import math
from collections.abc import KeysView, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError

from deployments.forecaster.problems import ProblemError

MAX_BODY_BYTES = 1_000_000  # some 10,000 rows of own history; BentoML itself accepts 100 MB
MAX_OPENED = 25_000  # as many as a body of MAX_BODY_BYTES has rows: one takes 40 bytes
MAX_SERIES = 1_000
MAX_ITEMS, MAX_TIMES = 10_000, 8  # of a batch: a new as_of takes as long as a large request
T = TypeVar("T", str, datetime)
Name = Annotated[str, Field(min_length=1, max_length=200)]


class HistoryRow(BaseModel):
    """One step of an own history: its start and every value column; null where a value is unknown.

    It describes rows in the OpenAPI document; `build_history_columns` checks them, up to the first
    fault.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None]

    event_time: Annotated[str, Field(description="Start of the step, ISO 8601 with a zone.")]


class SeriesRequest(BaseModel):
    """What any request for forecasts may say in addition to its series."""

    model_config = ConfigDict(extra="forbid", strict=True)

    as_of: Annotated[
        str | None,
        Field(
            description=(
                "Forecast from what was known at this time, ISO 8601 with a zone; without it, from the newest"
                " known."
            )
        ),
    ] = None
    horizon_steps: Annotated[
        int | None, Field(ge=1, description="The first steps alone; without it, all that the release has.")
    ] = None
    levels: Annotated[
        Annotated[list[float], Field(min_length=1, max_length=100)] | None,
        Field(description="Of the release's intervals those alone, by their level, as 0.8."),
    ] = None

    @property
    def as_of_time(self) -> datetime | None:
        """as_of in UTC. Raises ProblemError when it is no time or has no zone."""
        return None if self.as_of is None else parse_time(self.as_of, "as_of")


CHAMPION = "champion"
ModelVersion = Annotated[
    Name,
    Field(
        description=(
            "The release that answers: `champion`, or a version that was champion and is kept. Its answer"
            " counts as a what-if."
        )
    ),
]


Explain = Annotated[
    bool, Field(description="Add what each feature contributes to each step, in the target's unit.")
]


class ForecastRequest(SeriesRequest):
    """A request for a forecast of stored series, or of the history in it."""

    series_id: Annotated[
        Name | Annotated[list[Name], Field(min_length=1, max_length=MAX_SERIES)],
        Field(description="One series, a list of them, or the name of the own history."),
    ]
    history: Annotated[
        SkipValidation[Annotated[list[HistoryRow], Field(min_length=1)] | None],
        Field(description="Rows to forecast from instead of those that the service holds, in any order."),
    ] = None
    model: ModelVersion = CHAMPION
    explain: Explain = False

    @property
    def series(self) -> list[str]:
        """The requested series."""
        return [self.series_id] if isinstance(self.series_id, str) else self.series_id


class BatchItem(SeriesRequest):
    """One request of a batch."""

    series_id: Name
    explain: Explain = False

    @property
    def series(self) -> list[str]:
        """The requested series."""
        return [self.series_id]


class BatchRequest(BaseModel):
    """The body of a batch, for the OpenAPI document; `parse_batch` checks it item by item."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[BatchItem], Field(min_length=1, max_length=MAX_ITEMS)]
    model: ModelVersion = CHAMPION


_REQUEST_KEYS, _ITEM_KEYS = ForecastRequest.model_fields.keys(), BatchItem.model_fields.keys()


def parse_request(body: bytes) -> ForecastRequest:
    """The request in *body*.

    Raises ProblemError: 400 when it is no JSON, 422 when it is JSON that is no valid request.
    """
    content = parse_json(body, '{"series_id": "sp500"}')
    try:
        request = ForecastRequest.model_validate(filter_unknown_keys(content, _REQUEST_KEYS))
    except ValidationError as error:
        raise build_invalid_error(error, ForecastRequest) from error
    if (repeated := _find_first_repeat(sorted(request.series))) is not None:
        raise ProblemError(
            422,
            "series_id",
            f"{repeated!r} is there twice",
            "A series is requested once.",
            "Remove the repeats.",
        )
    if request.history is not None and not isinstance(request.series_id, str):
        raise ProblemError(
            422,
            "series_id",
            "a list, together with a history",
            "An own history is one series.",
            "Send its name as a string.",
        )
    if request.history is not None and not (isinstance(request.history, list) and request.history):
        rule = "A history is a list of rows."
        raise ProblemError(422, "history", "no list with a row in it", rule, "See /docs for an example.")
    return request


class ParsedBatch(NamedTuple):
    """items: in the order of the batch; of one that is no valid request its error."""

    items: list[BatchItem | ProblemError]
    model: str


def parse_batch(body: bytes) -> ParsedBatch:
    """The batch in *body*.

    Raises ProblemError when the body as a whole is none, or has more than MAX_TIMES times.
    """
    content = parse_json(body, '{"items": [{"series_id": "sp500"}]}')
    listed = content.get("items") if isinstance(content, dict) else None
    model = content.get("model", CHAMPION) if isinstance(content, dict) else CHAMPION
    is_known = isinstance(content, dict) and content.keys() <= BatchRequest.model_fields.keys()
    if not isinstance(listed, list) or not is_known or not 0 < len(listed) <= MAX_ITEMS:
        fact = f"{len(listed):,} of them" if isinstance(listed, list) else "no list"
        rule = (
            f"A batch is an object with the key items, a list of 1 to {MAX_ITEMS:,} requests, and at most the"
            " key model."
        )
        raise ProblemError(422, "items", fact, rule, "See /docs for an example.")
    if not isinstance(model, str):
        raise ProblemError(422, "model", "no text", "A model is `champion` or a version.", "Send a string.")
    items = [_parse_item(item) for item in listed]
    times = {item.as_of for item in items if isinstance(item, BatchItem)} - {None}
    if len(times) > MAX_TIMES:
        rule = f"The items of a batch have at most {MAX_TIMES} different times."
        raise ProblemError(422, "items", f"{len(times):,} different as_of", rule, "Send several batches.")
    return ParsedBatch(items, model)


def _parse_item(content: Any) -> BatchItem | ProblemError:
    try:
        item = BatchItem.model_validate(filter_unknown_keys(content, _ITEM_KEYS))
        item.as_of_time  # noqa: B018  (raises for no time)
    except ValidationError as error:
        return build_invalid_error(error, BatchItem)
    except ProblemError as error:
        return error
    return item


def parse_time(text: str, where: str) -> datetime:
    """A time in UTC. Raises ProblemError 422 when *text* is no ISO 8601 time or has no zone."""
    rule = "Times are ISO 8601 with a zone, so that none is guessed."
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ProblemError(
            422, where, f"{text[:60]!r} is no time", rule, "Write for example 2018-12-31T21:00:00Z."
        ) from error
    raise ProblemError(
        422, where, f"{text[:60]!r} has no zone", rule, f"Write {time.isoformat()}Z when it is UTC."
    )


def build_history_columns(history: Sequence[Any], columns: Sequence[str]) -> dict[str, list[Any]]:
    """The history as columns: `event_time` and each of *columns*.

    Raises ProblemError for an item that is no row, an unknown, missing or infinite value, or a
    repeated time.
    """
    names = {"event_time", *columns}
    for k, row in enumerate(history):
        _check_row(k, row, names, columns)
    times = [parse_time(row["event_time"], f"history[{k}].event_time") for k, row in enumerate(history)]
    if (repeated := _find_first_repeat(sorted(times))) is not None:
        raise ProblemError(
            422,
            "history",
            f"{repeated:%FT%TZ} is there twice",
            "One row for each step.",
            "Keep the row that is right.",
        )
    return {"event_time": times, **{c: _convert_values(history, c) for c in columns}}


def parse_json(body: bytes, example: str) -> Any:
    """The content of *body*, strictly. Raises ProblemError 400 with an *example*."""
    if (n_opened := body.count(b"{") + body.count(b"[")) > MAX_OPENED:  # before any object is made of them
        rule = f"A body opens at most {MAX_OPENED:,} objects and lists."
        raise ProblemError(
            400, "body", f"not accepted: it opens {n_opened:,}", rule, "Send the newest rows alone."
        )
    try:
        return json.loads(
            body.decode(),
            object_pairs_hook=_parse_unique_pairs,
            parse_constant=_check_no_constant,
            parse_float=_parse_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ProblemError(
            400,
            "body",
            f"not accepted: {error}"[:300],
            "The body is one JSON object in UTF-8.",
            f"Send for example {example}.",
        ) from error


def _check_row(k: int, row: Any, names: set[str], columns: Sequence[str]) -> None:
    rule = f"A row has event_time and exactly {', '.join(columns)}."
    if not isinstance(row, dict):
        raise ProblemError(422, f"history.{k}", "no object", rule, "See /docs for an example.")
    if not isinstance(row.get("event_time"), str):
        fact = "no text" if "event_time" in row else "missing"
        way_out = "Write for example 2018-12-31T21:00:00Z."
        raise ProblemError(422, f"history.{k}.event_time", fact, rule, way_out)
    if row.keys() == names:
        return
    check_unknown_columns(f"history[{k}]", row, names, columns, rule)
    missing = [c for c in columns if c not in row]
    fact = f"column(s) {missing} are missing"
    raise ProblemError(422, f"history[{k}]", fact, rule, "Send null where a value is unknown.")


def check_unknown_columns(
    where: str, row: Mapping[str, object], names: set[str], columns: Sequence[str], rule: str
) -> None:
    """Raise ProblemError for a key of *row* that is none of *names*. columns: that may be meant."""
    if unknown := sorted(set(row) - names):
        close = get_close_matches(unknown[0], columns, n=1)
        way_out = f"Did you mean {close[0]!r}?" if close else "Remove them."
        raise ProblemError(422, where, f"unknown column(s) {unknown[:10]}"[:200], rule, way_out)


def _convert_values(history: Sequence[Any], column: str) -> list[float | None]:
    return [convert_value(row[column], f"history.{k}.{column}") for k, row in enumerate(history)]


def convert_value(value: Any, where: str) -> float | None:
    """*value* as a number; None where it is unknown. Raises ProblemError 422 for anything else."""
    is_wrong = isinstance(value, bool | str)  # float would accept both
    number = None
    try:
        number = None if value is None or is_wrong else float(value)
    except (TypeError, OverflowError):
        is_wrong = True
    if is_wrong:
        rule = "A value is a number that a float64 holds, or null where it is unknown."
        raise ProblemError(422, where, "no such number", rule, "Send a number or null.")
    return number


def filter_unknown_keys(content: Any, known: KeysView[str]) -> Any:
    """*content* with its first unknown key only, so that many unknown keys cost nothing."""
    if not isinstance(content, dict) or content.keys() <= known:
        return content
    unknown = next((key for key in content if key not in known), None)
    return {key: value for key, value in content.items() if key in known or key == unknown}


def _parse_unique_pairs(pairs: list[tuple[str, Any]]) -> Mapping[str, object]:
    if len(content := dict(pairs)) < len(pairs):
        repeated = _find_first_repeat(sorted(key for key, _ in pairs)) or ""
        raise ValueError(f"the key {repeated[:60]!r} repeats")
    return content


def _find_first_repeat(ascending: list[T]) -> T | None:
    return next((a for a, b in pairwise(ascending) if a == b), None)


def _check_no_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON and no finite number; a missing value is null")


def _parse_finite(token: str) -> float:
    if not math.isfinite(value := float(token)):
        raise ValueError(f"{token[:30]} is beyond what a float64 holds")
    return value


def build_invalid_error(
    error: ValidationError, kind: type[BaseModel], required: str = "series_id"
) -> ProblemError:
    """What is wrong with a body that should be *kind*, with its first fault."""
    first = error.errors(include_url=False)[0]
    where = (
        ".".join(
            str(part)
            for part in first["loc"]
            if part not in {"str", "constrained-str", "list[constrained-str]"}
        )
        or "body"
    )
    fields = ", ".join(kind.model_fields)
    if first["type"] == "extra_forbidden":
        close = get_close_matches(where, list(kind.model_fields), n=1)
        return ProblemError(
            422,
            where[:60],
            "unknown key",
            f"Keys are {fields}.",
            f"Did you mean {close[0]!r}?" if close else "Remove it.",
        )
    return ProblemError(
        422,
        where,
        first["msg"],
        f"Keys are {fields}; {required} is required.",
        "See /docs for an example of each request.",
    )
