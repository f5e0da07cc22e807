"""Avro records: with a registry's number before each, or by one schema for all.

Logical types are read as what they are stored as: a timestamp-millis is a number, and
`feed.time_format: ms` makes it a time.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

from tasks.core.errors import FeedError
from tasks.edges.feeds.schema_registry import SchemaRegistry
from tasks.feed.contract import RecordReader, UnreadableError
from tasks.feed.wire import split_schema_number


def build_avro_reader(text: str) -> RecordReader:
    """A reader of bare records by the schema *text*. Raises FeedError when it is none."""
    try:
        schema = _parse_schema(text, {})
    except UnreadableError as error:
        raise FeedError(f"`feed.schema_file`: {error.detail}.") from error
    return lambda value: _read_record(value, schema)


def build_registered_avro_reader(registry: SchemaRegistry) -> RecordReader:
    """A reader of records with their schema's number."""
    schemas: dict[int, Any] = {}

    def read(value: bytes) -> Mapping[str, Any]:
        number, record = split_schema_number(value)
        if number not in schemas:
            if (registered := registry.find_schema(number)) is None:
                raise UnreadableError("unknown_schema", f"the registry has no schema {number}")
            schemas[number] = _parse_schema(registered.text, registered.references)
        return _read_record(record, schemas[number])

    return read


def _parse_schema(text: str, references: Mapping[str, str]) -> Any:
    import fastavro

    named: dict[str, Any] = {}
    try:
        for reference in references.values():
            fastavro.parse_schema(_convert_to_stored_schema(json.loads(reference)), named_schemas=named)
        return fastavro.parse_schema(_convert_to_stored_schema(json.loads(text)), named_schemas=named)
    except Exception as error:
        raise UnreadableError(
            "bad_schema", f"what should be an Avro schema is none: {error}"[:200]
        ) from error


def _convert_to_stored_schema(schema: Any) -> Any:
    """*schema* without logical types."""
    if isinstance(schema, dict):
        return {
            key: _convert_to_stored_schema(value) for key, value in schema.items() if key != "logicalType"
        }
    return [_convert_to_stored_schema(part) for part in schema] if isinstance(schema, list) else schema


def _read_record(value: bytes, schema: Any) -> Mapping[str, Any]:
    import fastavro

    stream = io.BytesIO(value)
    try:
        content = fastavro.schemaless_reader(stream, schema, None)
    except Exception as error:
        raise UnreadableError("not_avro", f"{type(error).__name__}: {error}"[:200]) from error
    if stream.tell() != len(value):
        raise UnreadableError("not_avro", f"{len(value) - stream.tell()} bytes after the record")
    if not isinstance(content, dict):
        raise UnreadableError("not_an_object", "the schema is no record")
    return content
