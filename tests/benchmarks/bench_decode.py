"""Decoding alone: clean, with 1 % poison of ten kinds, in two orders of fields, and in each
format."""

import io
import random
import time

import fastavro
import orjson
import polars as pl
import pytest
from poison import POISON

from tasks.feed import avro
from tasks.feed.contract import RecordContract
from tasks.feed.decode import JsonDecoder, RecordDecoder, parse_json_object

pytestmark = pytest.mark.bench
N = 50_000
NUMBERS = ("open", "high", "low", "close", "volume")
CONTRACT = RecordContract(
    {"series_id": pl.String(), "event_time": pl.String(), **dict.fromkeys(NUMBERS, pl.Float64())},
    frozenset({"volume"}),
    frozenset(),
    1 << 20,
    5,
)
SCHEMA = {
    "type": "record",
    "name": "Bar",
    "fields": [{"name": n, "type": "double" if n in NUMBERS else "string"} for n in CONTRACT.fields],
}
KINDS = (
    "not json",
    "cut off",
    "bad utf-8",
    "no bytes",
    "two objects",
    "null",
    "NaN",
    "10^400",
    "true for a number",
    "removed",
)


def bars():
    numbers = {"open": 1.25, "high": 2.5, "low": 1.0, "close": 2.0, "volume": 3.5e3}
    return [
        {
            "series_id": f"s{i % 16}",
            "event_time": f"2024-01-{i % 28 + 1:02d}T00:00:00Z",
            **numbers,
            "open": 1.25 + i,
        }
        for i in range(N)
    ]


def best_ms(decoder, values):
    series, times = pl.Series(values, dtype=pl.Binary), []
    for _ in range(5):
        begun = time.perf_counter()
        decoder.decode(series)
        times.append(time.perf_counter() - begun)
    return min(times) * 1000


def in_avro(record, schema):
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, record)
    return stream.getvalue()


def test_decoding():
    random.seed(1)
    clean = [orjson.dumps(one) for one in bars()]
    poison = [
        random.choice([POISON[kind][0] for kind in KINDS]) if random.random() < 0.01 else value
        for value in clean
    ]
    two = [orjson.dumps(dict(reversed(one.items()))) if i % 2 else clean[i] for i, one in enumerate(bars())]
    schema = fastavro.parse_schema(SCHEMA)
    print()
    for name, decoder, values in (
        ("clean", JsonDecoder(CONTRACT), clean),
        ("1 % poison", JsonDecoder(CONTRACT), poison),
        ("two orders", JsonDecoder(CONTRACT), two),
        ("slow way", RecordDecoder(CONTRACT, parse_json_object), clean),
        (
            "avro",
            RecordDecoder(CONTRACT, avro.build_avro_reader(orjson.dumps(SCHEMA).decode())),
            [in_avro(one, schema) for one in bars()],
        ),
    ):
        print(f"{name:<12}{best_ms(decoder, values):6.1f} ms for {N:,} records")
