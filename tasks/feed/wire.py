"""The head of a record whose schema a registry has: a zero, and the schema's number in four bytes.

That is Confluent's wire format.
"""

import struct

from tasks.feed.contract import UnreadableError

_HEAD = struct.Struct(">bI")


def split_schema_number(value: bytes) -> tuple[int, bytes]:
    """(number of the schema, the record). Raises UnreadableError when *value* has no such head."""
    if len(value) < _HEAD.size or value[0] != 0:
        raise UnreadableError(
            "no_schema_number", "the record does not begin with a zero and a schema's number"
        )
    return _HEAD.unpack_from(value)[1], value[_HEAD.size :]
