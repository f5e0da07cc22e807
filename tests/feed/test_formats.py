"""Avro and Protobuf, by a file and by a registry that speaks HTTP; what cannot be read is
quarantined, and a registry that is away quarantines nothing."""

import base64
import io
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import fastavro
import polars as pl
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import SOURCE, Given, params_of, records_of, rows_of

from tasks.core.errors import FeedError
from tasks.core.records import PolledRecords
from tasks.edges.feeds.schema_registry import SchemaRegistry
from tasks.edges.settings import read_settings
from tasks.feed import avro, protobuf
from tasks.feed.contract import RULE, UnreadableError
from tasks.feed.decode import RecordDecoder
from tasks.feed.formats import build_reader
from tasks.feed.land import LandingBuffer, build_contract, open_table
from tasks.feed.params import FeedParams

UNIT = {"type": "enum", "name": "Unit", "symbols": ["usd", "eur"]}
BAR = {
    "type": "record",
    "name": "Bar",
    "fields": [
        {"name": "series_id", "type": "string"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "price", "type": "double"},
        {"name": "volume", "type": ["null", "double"]},
        {"name": "unit", "type": "Unit"},
    ],
}
MILLIS = params_of(time_format="ms")
NOON_MS = 1_704_196_800_000
CONTRACT = build_contract(MILLIS, {})


def in_avro(record, schema, number=None):
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, record)
    return stream.getvalue() if number is None else struct.pack(">bI", 0, number) + stream.getvalue()


def alone(schema):
    """BAR with the enum inside, for a file."""
    return {**schema, "fields": [{**f, "type": UNIT} if f["type"] == "Unit" else f for f in schema["fields"]]}


def bar_proto(name="bar.proto"):
    """message Bar { string series_id = 1; google.protobuf.Timestamp event_time = 2; double price
    = 3; optional double volume = 4; }"""
    file = descriptor_pb2.FileDescriptorProto(
        name=name, package="p", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    message = file.message_type.add(name="Bar")
    f = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="series_id", number=1, type=f.TYPE_STRING, label=f.LABEL_OPTIONAL)
    message.field.add(
        name="event_time",
        number=2,
        type=f.TYPE_MESSAGE,
        type_name=".google.protobuf.Timestamp",
        label=f.LABEL_OPTIONAL,
    )
    message.field.add(name="price", number=3, type=f.TYPE_DOUBLE, label=f.LABEL_OPTIONAL)
    message.oneof_decl.add(name="_volume")
    message.field.add(
        name="volume",
        number=4,
        type=f.TYPE_DOUBLE,
        label=f.LABEL_OPTIONAL,
        oneof_index=0,
        proto3_optional=True,
    )
    return file


def bar_message():
    pool, own = descriptor_pool.DescriptorPool(), descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(own)
    pool.Add(own)
    pool.Add(bar_proto())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.Bar"))


def in_protobuf(**fields):
    made = bar_message()(series_id="a", price=1.5, **fields)
    made.event_time.FromJsonString("2024-01-02T11:00:00.25Z")
    return made.SerializeToString()


class Registry:
    """A server with the registry's two routes. schemas: number -> answer; subjects: (name,
    version) -> answer; status: of every answer."""

    def __init__(self):
        self.schemas, self.subjects, self.status, self.asked = {}, {}, 200, []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                registry.asked.append(self.path)
                parts = urlparse(self.path).path.strip("/").split("/")
                found = (
                    registry.schemas.get(int(parts[2]))
                    if parts[0] == "schemas"
                    else registry.subjects.get((parts[1], int(parts[3])))
                )
                body = json.dumps(found or {"error_code": 40403, "message": "Schema not found"}).encode()
                self.send_response(registry.status if registry.status != 200 else 200 if found else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def registry():
    made = Registry()
    made.schemas[1] = {
        "schema": json.dumps(BAR),
        "references": [{"name": "Unit", "subject": "unit", "version": 3}],
    }
    made.subjects["unit", 3] = {"schema": json.dumps(UNIT)}
    made.schemas[2] = {"schema": "syntax = 'proto3';", "schemaType": "PROTOBUF"}
    made.schemas[7] = {"schema": base64.b64encode(bar_proto("").SerializeToString()).decode()}
    yield made
    made.close()


def rules(reader, values, params=MILLIS):
    return (
        RecordDecoder(build_contract(params, {}), reader)
        .decode(pl.Series(values, dtype=pl.Binary))
        .fields[RULE]
        .to_list()
    )


def landed(folder, values, params, reader):
    records = records_of(values)
    table = open_table(folder, params)
    landing = LandingBuffer(table, params, None, Given([]), reader)
    landing.add_records(PolledRecords(records, {"kafka:c/t/0": len(values)}))
    landing.commit()
    return rows_of(table)


@pytest.mark.parametrize("form", ["avro", "protobuf"])
def test_a_format_without_a_schema_file_is_read_by_the_registry_of_the_settings(form, registry, monkeypatch):
    params = FeedParams.model_validate({"source": SOURCE, "format": form})
    with pytest.raises(FeedError, match=r"Set `feed.schema_file`, or TIDEMILL_SCHEMA_REGISTRY"):
        build_reader(params)
    monkeypatch.setenv("TIDEMILL_SCHEMA_REGISTRY", registry.url)
    read_settings.cache_clear()
    try:
        read = build_reader(params)
    finally:
        monkeypatch.undo()
        read_settings.cache_clear()
    with pytest.raises(UnreadableError, match="the registry has no schema 99"):
        read(struct.pack(">bI", 0, 99) + b"\x00")


def test_avro_of_a_registry_lands_with_references_and_asks_once_for_a_schema(registry, tmp_path):
    named = {}
    fastavro.parse_schema(UNIT, named_schemas=named)
    schema = fastavro.parse_schema(BAR, named_schemas=named)
    one = {"series_id": "a", "event_time": NOON_MS, "price": 1.5, "volume": None, "unit": "eur"}
    values = [in_avro({**one, "event_time": NOON_MS - 60_000 * i}, schema, 1) for i in range(3)]
    rows = landed(tmp_path, values, MILLIS, avro.build_registered_avro_reader(SchemaRegistry(registry.url)))
    assert rows.select("disposition", "price", "volume", "unit").rows() == [("row", 1.5, None, "eur")] * 3
    assert rows["event_time"].dt.epoch("ms").to_list() == [NOON_MS, NOON_MS - 60_000, NOON_MS - 120_000]
    assert registry.asked == ["/schemas/ids/1", "/subjects/unit/versions/3"]


def test_what_avro_cannot_read_is_quarantined_with_its_rule(registry):
    good = in_avro(
        {"series_id": "a", "event_time": NOON_MS, "price": 1.5, "volume": 2.0, "unit": "usd"},
        fastavro.parse_schema(alone(BAR)),
        1,
    )
    poison = {
        good: None,
        good[:-3]: "not_avro",
        good + b"x": "not_avro",
        b"\x00\x00\x00\x00\x63" + good[5:]: "unknown_schema",
        b"\x00\x00\x00\x00\x02" + good[5:]: "bad_schema",
        b"{}": "no_schema_number",
        b"\x01" + good[1:]: "no_schema_number",
        b"": "empty",
        good.replace(struct.pack("<d", 1.5), struct.pack("<d", float("nan"))): "not_finite",
    }
    assert rules(avro.build_registered_avro_reader(SchemaRegistry(registry.url)), list(poison)) == list(
        poison.values()
    )
    assert registry.asked.count("/schemas/ids/99") == 1


def test_avro_by_a_file_reads_bare_records_of_its_schema():
    reader = avro.build_avro_reader(json.dumps(alone(BAR)))
    one = {"series_id": "a", "event_time": NOON_MS, "price": 1.5, "volume": 2.0, "unit": "usd"}
    assert reader(in_avro(one, fastavro.parse_schema(alone(BAR)))) == one
    with pytest.raises(FeedError, match="none"):
        avro.build_avro_reader('{"type": "nothing"}')


def test_protobuf_lands_by_a_registry_and_by_a_descriptor_set(registry, tmp_path):
    value = in_protobuf(volume=2.0)
    head = struct.pack(">bI", 0, 7)
    by_registry = protobuf.build_registered_protobuf_reader(SchemaRegistry(registry.url))
    rows = landed(
        tmp_path / "r",
        [head + b"\x00" + value, head + b"\x02\x00" + in_protobuf()],
        params_of(dedupe=False),
        by_registry,
    )
    assert rows.select("disposition", "series_id", "price", "volume").rows() == [
        ("row", "a", 1.5, 2.0),
        ("row", "a", 1.5, None),
    ]
    assert str(rows["event_time"][0]) == "2024-01-02 11:00:00.250000+00:00"
    by_file = protobuf.build_protobuf_reader(
        descriptor_pb2.FileDescriptorSet(file=[bar_proto()]).SerializeToString(), "p.Bar"
    )
    assert by_file(value) == by_registry(head + b"\x00" + value)
    with pytest.raises(FeedError, match=r"p\.Other"):
        protobuf.build_protobuf_reader(
            descriptor_pb2.FileDescriptorSet(file=[bar_proto()]).SerializeToString(), "p.Other"
        )


def test_what_protobuf_cannot_read_is_quarantined_with_its_rule(registry):
    good, head = in_protobuf(), struct.pack(">bI", 0, 7)
    unknown = good + b"\xfa\x01\x01x"  # field 31
    poison = {
        head + b"\x00" + good: None,
        head + b"\x00" + good[:-3]: "not_protobuf",
        head + b"\x00" + unknown: "unknown_field",
        head: "not_protobuf",
        head + b"\x02\x08" + good: "not_protobuf",
        head + b"\xff" * 12: "not_protobuf",
        struct.pack(">bI", 0, 2) + b"\x00" + good: "bad_schema",
        struct.pack(">bI", 0, 99) + b"\x00" + good: "unknown_schema",
        head + b"\x00" + good.replace(b"a", b"\xff", 1): "not_protobuf",
    }
    assert rules(
        protobuf.build_registered_protobuf_reader(SchemaRegistry(registry.url)), list(poison), params_of()
    ) == list(poison.values())


@settings(deadline=None)
@given(value=st.binary(max_size=60))
def test_any_bytes_have_an_answer_in_every_format(value):
    text = avro.build_avro_reader(json.dumps(alone(BAR)))
    message = protobuf.build_protobuf_reader(
        descriptor_pb2.FileDescriptorSet(file=[bar_proto()]).SerializeToString(), "p.Bar"
    )
    assert len(rules(text, [value])) == len(rules(message, [value], params_of())) == 1


def test_a_registry_that_is_away_is_waited_for_and_quarantines_nothing(registry, tmp_path, monkeypatch):
    """It comes back while it is waited for: the record lands.

    It stays away: the landing ends, and the table is as it was.
    """
    value = in_avro(
        {"series_id": "a", "event_time": NOON_MS, "price": 1.5, "volume": 2.0, "unit": "usd"},
        fastavro.parse_schema(alone(BAR)),
        1,
    )
    monkeypatch.setattr("tasks.edges.feeds.schema_registry._PAUSE_S", 0.02)
    registry.status, said = 503, []
    with pytest.raises(FeedError, match="read again"):
        landed(
            tmp_path,
            [value],
            MILLIS,
            avro.build_registered_avro_reader(
                SchemaRegistry(registry.url, wait_s=0.1, report_down=said.append)
            ),
        )
    assert rows_of(open_table(tmp_path, MILLIS)).is_empty()
    waiting = SchemaRegistry(registry.url, wait_s=20, report_down=lambda _: setattr(registry, "status", 200))
    assert landed(tmp_path, [value], MILLIS, avro.build_registered_avro_reader(waiting))[
        "disposition"
    ].to_list() == ["row"]
    assert len(said) == 1
    registry.status = 401
    with pytest.raises(FeedError, match="user and password"):
        SchemaRegistry(registry.url).find_schema(1)


def test_settings_that_say_no_schema_are_refused():
    for given_, said in (
        (({"schema_file": "x"}), "feed.format"),
        ({"format": "protobuf", "schema_file": "x"}, "feed.message"),
    ):
        with pytest.raises(ValueError, match=said):
            FeedParams.model_validate({"source": {"kind": "kafka", "topic": "t"}, **given_})
