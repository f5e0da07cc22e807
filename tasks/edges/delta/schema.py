"""Columns of a table: polars types on our side, Delta's in the log."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from deltalake import Field, Schema
from deltalake.schema import PrimitiveType

from tasks.core.errors import FeedError
from tasks.core.frames import UTC

Columns = Mapping[str, pl.DataType]

# Stored name of a partition column -> its name since then. A table that was made before goes on
# with the stored name, in its log and its folders; its rows are not rewritten.
FORMER_NAMES = {"place": "disposition"}

_NOTE = "tidemill."  # the keys of our notes on a column begin with it
_TYPES: dict[Any, str] = {
    pl.String(): "string",
    pl.Binary(): "binary",
    pl.Boolean(): "boolean",
    pl.Int32(): "integer",
    pl.Int64(): "long",
    pl.Float64(): "double",
    UTC: "timestamp",
}
_FRAME_TYPES: dict[str, Any] = {name: dtype for dtype, name in _TYPES.items()}


def build_schema(columns: Columns) -> Schema:
    """The Delta schema of *columns*. Raises FeedError for a type that a table does not hold."""
    return Schema([build_field(name, dtype) for name, dtype in columns.items()])


def build_field(name: str, dtype: pl.DataType, note: Mapping[str, str] | None = None) -> Field:
    """One nullable column. note: kept with it in the log."""
    if dtype not in _TYPES:
        raise FeedError(f"Column {name!r} is {dtype}; the feed's table holds {', '.join(map(str, _TYPES))}.")
    metadata = {f"{_NOTE}{key}": value for key, value in (note or {}).items()}
    return Field(name, PrimitiveType(_TYPES[dtype]), metadata=metadata)


def parse_columns(schema: Schema) -> dict[str, pl.DataType]:
    """Name -> type of each column of *schema*."""
    return {field.name: _FRAME_TYPES[field.type.type] for field in schema.fields}


def parse_notes(schema: Schema) -> dict[str, dict[str, str]]:
    """Name -> type and note of each column; the columns of a new table have no note."""
    return {
        field.name: {
            "type": str(_FRAME_TYPES[field.type.type]),
            **{k.removeprefix(_NOTE): v for k, v in field.metadata.items() if k.startswith(_NOTE)},
        }
        for field in schema.fields
    }
