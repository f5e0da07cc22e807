"""The formats that `feed.format` names, as decoders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.core.errors import FeedError, ParamsError
from tasks.edges.feeds.schema_registry import SchemaRegistry
from tasks.edges.settings import ROOT, settings
from tasks.feed.decode import Contract, Decoder, JsonDecoder, Reader
from tasks.feed.params import FeedParams


def reader_of(params: FeedParams, told: Callable[[str], Any] = lambda _: None, root: Path = ROOT) -> Reader | None:
    """How records of *params*' format are read; None for JSON. told: called when the schema registry does not answer.

    Raises ParamsError when the schema's file is not there, FeedError when it is none, or nothing says where a registry is.
    """
    if params.format == "json":
        return None
    from tasks.feed import avro, protobuf  # noqa: PLC0415  (most feeds never need them)

    if params.schema_file is None:
        if not (url := settings().schema_registry):
            raise FeedError(
                f"`feed.format` is {params.format}, and nothing says by which schema. Set `feed.schema_file`, or TIDEMILL_SCHEMA_REGISTRY."
            )
        return (avro if params.format == "avro" else protobuf).by_registry(SchemaRegistry(url, told=told))
    path = root / params.schema_file
    if not path.is_file():
        raise ParamsError(f"`feed.schema_file` names {path}, which is not there. Paths count from the checkout's root.")
    if params.format == "avro":
        return avro.by_schema(path.read_text())
    return protobuf.by_descriptor_set(path.read_bytes(), params.message or "")


def decoder_of(contract: Contract, reader: Reader | None) -> Decoder:
    """The decoder of a format (see reader_of)."""
    return JsonDecoder(contract) if reader is None else Decoder(contract, reader)
