"""The formats that `feed.format` names, as decoders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.core.errors import FeedError, ParamsError
from tasks.edges.feeds.schema_registry import SchemaRegistry
from tasks.edges.settings import ROOT, read_settings
from tasks.feed.contract import RecordContract, RecordReader
from tasks.feed.decode import JsonDecoder, RecordDecoder
from tasks.feed.params import FeedParams


def build_reader(
    params: FeedParams, report_down: Callable[[str], Any] = lambda _: None, root: Path = ROOT
) -> RecordReader | None:
    """How records of *params*' format are read; None for JSON.

    report_down: called when the schema registry does not answer.
    Raises ParamsError when the schema's file is not there, FeedError when it is no schema, or no
    setting says where a registry is.
    """
    if params.format == "json":
        return None
    from tasks.feed import avro, protobuf

    if params.schema_file is None:
        if not (url := read_settings().schema_registry):
            raise FeedError(
                f"`feed.format` is {params.format}, and nothing says by which schema. Set `feed.schema_file`,"
                " or TIDEMILL_SCHEMA_REGISTRY."
            )
        registry = SchemaRegistry(url, report_down=report_down)
        if params.format == "avro":
            return avro.build_registered_avro_reader(registry)
        return protobuf.build_registered_protobuf_reader(registry)
    path = root / params.schema_file
    if not path.is_file():
        raise ParamsError(
            f"`feed.schema_file` names {path}, which is not there. Paths count from the checkout's root."
        )
    if params.format == "avro":
        return avro.build_avro_reader(path.read_text())
    return protobuf.build_protobuf_reader(path.read_bytes(), params.message or "")


def build_decoder(contract: RecordContract, reader: RecordReader | None) -> RecordDecoder:
    """The decoder of a format; *reader* is what `build_reader` returned."""
    return JsonDecoder(contract) if reader is None else RecordDecoder(contract, reader)
