"""What a message of a socket or an answer of REST holds: records, with their numbers. Pure."""

import contextlib
from typing import NamedTuple

import orjson

_MAX_NUMBER = (1 << 63) - 1


class NumberedRecord(NamedTuple):
    """A record and its number."""

    number: int
    value: bytes


def parse_numbered(message: bytes, records_field: str | None, sequence_field: str) -> list[NumberedRecord]:
    """Those records of *message* that have a number, which may be written as a text.

    records_field: the field that holds the record, or a list of them; None: the message does.
    Raises ValueError when *message* is no JSON.
    """
    records = []
    for fields, value in _parse_objects(message, records_field):
        number = fields.get(sequence_field)
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if type(number) is int and 0 <= number < _MAX_NUMBER:
            records.append(NumberedRecord(number, value))
    return records


def parse_values(message: bytes, records_field: str | None) -> list[bytes]:
    """The records of *message* where they have no numbers; none when it does not have the field."""
    if records_field is None:
        return [message]
    with contextlib.suppress(ValueError):
        return [value for _, value in _parse_objects(message, records_field)]
    return []


def _parse_objects(message: bytes, field: str | None) -> list[tuple[dict[str, object], bytes]]:
    """The records of *message*, parsed and as bytes."""
    content = orjson.loads(message)
    if field is None and isinstance(content, dict):
        return [(content, message)]
    records = content.get(field) if isinstance(content, dict) else content
    return [
        (record, orjson.dumps(record))
        for record in (records if isinstance(records, list) else [records])
        if isinstance(record, dict)
    ]
