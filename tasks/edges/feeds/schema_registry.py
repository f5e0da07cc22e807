"""A schema registry over HTTP, as Confluent's: a schema by its number, and those it refers to.

Answers are kept: a number never means another schema. Routes: `/schemas/ids/{id}` and
`/subjects/{subject}/versions/{version}`, for Protobuf with `?format=serialized` (a
FileDescriptorProto in base64).
Source: Confluent's Schema Registry API reference, "Schemas" and "Subjects"; wire format: magic byte
0, the number in four bytes, the record.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, cast

from tasks.core.errors import FeedError

_ANSWER_S = 5.0
_PAUSE_S = 1.0
_UNKNOWN_S = 10.0  # before an unknown number is asked for again: it may have been registered since
_REFUSED = {401, 403, 407}
_LATER = {408, 429}  # try again


class _Reference(TypedDict):
    """Another schema that a schema needs. name: under which it refers to it."""

    name: str
    subject: str
    version: int


class _SchemaAnswer(TypedDict, total=False):
    """What a route gives; other keys are not read."""

    schema: str
    references: list[_Reference] | None


class RegisteredSchema(NamedTuple):
    """A schema's text. references: name in it -> text, those that others need first."""

    text: str
    references: dict[str, str]


class SchemaRegistry:
    """The registry at *url*, with user and password in it where it asks for them.

    wait_s: how long a registry that does not answer is waited for.
    report_down: called with the reason when a wait begins.
    """

    def __init__(
        self, url: str, wait_s: float = 60.0, report_down: Callable[[str], Any] = lambda _: None
    ) -> None:
        import httpx

        self._client = httpx.Client(
            base_url=url,
            timeout=_ANSWER_S,
            headers={"Accept": "application/vnd.schemaregistry.v1+json, application/json"},
        )
        self._wait_s, self._report_down = wait_s, report_down
        self._host = httpx.URL(url).host
        self._kept: dict[tuple[int, str], RegisteredSchema] = {}
        self._unknown_until: dict[tuple[int, str], float] = {}

    def find_schema(self, number: int, form: str = "") -> RegisteredSchema | None:
        """The schema of *number*; None when the registry has none, or not all that it refers to.

        form: `serialized` for Protobuf.
        Raises FeedError when access is refused, or there was no answer for `wait_s`. The record is
        not to blame then, and is read again.
        """
        key = (number, form)
        if key in self._kept or time.monotonic() < self._unknown_until.get(key, 0.0):
            return self._kept.get(key)
        answer = self._fetch_json(f"/schemas/ids/{number}", form)
        references = {} if answer is None else self._fetch_references(answer, form)
        if answer is None or references is None:
            self._unknown_until[key] = time.monotonic() + _UNKNOWN_S
            return None
        self._kept[key] = RegisteredSchema(answer["schema"], references)
        return self._kept[key]

    def _fetch_references(self, answer: _SchemaAnswer, form: str) -> dict[str, str] | None:
        """Name -> text of all that *answer* refers to; None when one is missing."""
        texts: dict[str, str] = {}
        for reference in answer.get("references") or ():
            route = f"/subjects/{reference['subject']}/versions/{reference['version']}"
            referred = self._fetch_json(route, form)
            nested = None if referred is None else self._fetch_references(referred, form)
            if referred is None or nested is None:
                return None
            texts |= {**nested, reference["name"]: referred["schema"]}
        return texts

    def _fetch_json(self, route: str, form: str) -> _SchemaAnswer | None:
        """The answer; None when the registry does not have it."""
        import httpx

        begun, reason = time.monotonic(), ""
        while True:
            try:
                answer = self._client.get(route, params={"format": form} if form else {})
                if answer.status_code in _REFUSED:
                    raise FeedError(
                        f"The schema registry at {self._host} refuses {route}: {answer.status_code}. Check"
                        " user and password in TIDEMILL_SCHEMA_REGISTRY."
                    )
                if answer.is_client_error and answer.status_code not in _LATER:
                    return None
                return cast("_SchemaAnswer", dict(answer.raise_for_status().json()))
            except (httpx.HTTPError, ValueError) as error:
                if not reason:
                    reason = f"The schema registry at {self._host} does not answer {route}: {error}"
                    self._report_down(reason)
                if time.monotonic() - begun > self._wait_s:
                    raise FeedError(
                        f"{reason}. Nothing was quarantined for it, and what was read is read again. Start"
                        " it, or correct TIDEMILL_SCHEMA_REGISTRY."
                    ) from error
                time.sleep(_PAUSE_S)
