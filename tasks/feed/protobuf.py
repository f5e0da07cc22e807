"""Protobuf records: with a registry's number before each, or by one message for all.

A field number that is not in the schema is refused: its name is not known, so it could only be
dropped without notice. A google.protobuf.Timestamp is read as ISO text, an enum as the name of its
value.
"""

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.core.errors import FeedError
from tasks.edges.feeds.schema_registry import RegisteredSchema, SchemaRegistry
from tasks.feed.contract import RecordReader, UnreadableError
from tasks.feed.wire import split_schema_number

_TIMESTAMP = "google.protobuf.Timestamp"
_VARINT_MORE, _VARINT_BITS = 0x80, 7


def build_protobuf_reader(content: bytes, message: str) -> RecordReader:
    """A reader of bare records that are *message* of the descriptor set *content*.

    content: of `protoc --include_imports --descriptor_set_out`.
    Raises FeedError when *content* is none, or has no such message.
    """
    from google.protobuf import descriptor_pb2

    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(content).file
        reader = _build_message_reader(_build_pool(files).FindMessageTypeByName(message))
    except Exception as error:
        raise FeedError(
            f"`feed.schema_file` is no descriptor set with a message {message!r}: {error}. Make it by `protoc"
            " --include_imports --descriptor_set_out`."
        ) from error
    return reader


def build_registered_protobuf_reader(registry: SchemaRegistry) -> RecordReader:
    """A reader of records with their schema's number and the index of their message in it."""
    readers: dict[tuple[int, tuple[int, ...]], RecordReader] = {}

    def read(value: bytes) -> Mapping[str, Any]:
        number, rest = split_schema_number(value)
        path, record = _parse_message_path(rest)
        if (number, path) not in readers:
            if (registered := registry.find_schema(number, "serialized")) is None:
                raise UnreadableError("unknown_schema", f"the registry has no schema {number}")
            readers[number, path] = _build_message_reader(_get_message(registered, path))
        return readers[number, path](record)

    return read


def _get_message(registered: RegisteredSchema, path: tuple[int, ...]) -> Any:
    """The descriptor of the message at *path*. Raises UnreadableError when there is none."""
    from google.protobuf import descriptor_pb2

    files = []
    try:
        for name, text in {**registered.references, "record.proto": registered.text}.items():
            files.append(descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text)))
            files[-1].name = name
        file = _build_pool(files).FindFileByName("record.proto")
    except Exception as error:
        raise UnreadableError(
            "bad_schema", f"what should be a Protobuf schema is none: {error}"[:200]
        ) from error
    try:
        message = list(file.message_types_by_name.values())[path[0]]
        for nth in path[1:]:
            message = message.nested_types[nth]
    except IndexError as error:
        raise UnreadableError("not_protobuf", f"the schema has no message at {list(path)}") from error
    return message


def _build_pool(files: Any) -> Any:
    """A pool of *files* and of Google's timestamp, which they may import."""
    from google.protobuf import descriptor_pb2, descriptor_pool, timestamp_pb2

    pool = descriptor_pool.DescriptorPool()
    if timestamp_pb2.DESCRIPTOR.name not in {file.name for file in files}:
        timestamp = descriptor_pb2.FileDescriptorProto()
        timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
        pool.Add(timestamp)
    for file in files:
        pool.Add(file)
    return pool


def _parse_message_path(value: bytes) -> tuple[tuple[int, ...], bytes]:
    """(index of the message, index inside it, ...; the record).

    A count and indexes as zigzag varints; one zero for the first message.
    """
    count, position = _parse_varint(value, 0)
    if not 0 <= count <= len(value):
        raise UnreadableError("not_protobuf", f"{count} is no number of message indexes")
    path = []
    for _ in range(count):
        index, position = _parse_varint(value, position)
        path.append(index)
    if any(index < 0 for index in path):
        raise UnreadableError("not_protobuf", f"{path} is no path of a message")
    return tuple(path) or (0,), value[position:]


def _parse_varint(value: bytes, position: int) -> tuple[int, int]:
    """(the number that begins at *position*, the position after it)."""
    number = shift = 0
    while position < len(value):
        byte = value[position]
        number |= (byte & ~_VARINT_MORE) << shift
        position, shift = position + 1, shift + _VARINT_BITS
        if not byte & _VARINT_MORE:
            return (number >> 1) ^ -(number & 1), position
    raise UnreadableError("not_protobuf", "the record ends before its message is named")


def _build_message_reader(descriptor: Any) -> RecordReader:
    from google.protobuf import message_factory, unknown_fields

    message_class = message_factory.GetMessageClass(descriptor)
    fields = [(field.name, field.has_presence, _build_value_getter(field)) for field in descriptor.fields]

    def read(value: bytes) -> Mapping[str, Any]:
        message = message_class()
        try:
            message.ParseFromString(value)
        except Exception as error:
            raise UnreadableError("not_protobuf", f"{type(error).__name__}: {error}"[:200]) from error
        if unknown := [field.field_number for field in unknown_fields.UnknownFieldSet(message)]:
            raise UnreadableError(
                "unknown_field",
                f"field {unknown[0]} is not in the schema. Give `feed.schema_file` the producer's newest one",
            )
        return {
            name: get_value(getattr(message, name))
            for name, has_presence, get_value in fields
            if not has_presence or message.HasField(name)
        }

    return read


def _build_value_getter(field: Any) -> Callable[[Any], Any]:
    """How the value of *field* becomes one of a record."""
    if field.is_repeated:
        return list
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, str(number))
    if field.message_type is not None and field.message_type.full_name == _TIMESTAMP:
        return _format_iso
    return lambda value: {} if field.message_type is not None else value


def _format_iso(timestamp: Any) -> str:
    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
            seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000
        )
    except OverflowError:
        return "no time"
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
