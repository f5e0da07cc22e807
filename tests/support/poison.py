"""Records that break a rule, of every kind."""

import json

from landed import bar

GOOD = json.dumps(bar(volume=2.5)).encode()


def with_price(text: bytes) -> bytes:
    return GOOD.replace(b"1.0", text)


POISON = {
    "not json": (b"price: 1", "not_json"),
    "cut off": (GOOD[:-3], "not_json"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "not_json"),
    "bad utf-8": (GOOD.replace(b'"a"', b'"\xff"'), "not_json"),
    "no bytes": (b"", "empty"),
    "two objects": (GOOD + GOOD, "not_json"),
    "deep nesting": (with_price(b"[" * 100_000 + b"]" * 100_000), "not_json"),
    "an object inside": (with_price(b'{"a":1}'), "wrong_type"),
    "a list": (b"[" + GOOD + b"]", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "text for a number": (with_price(b'"1.0"'), "wrong_type"),
    "true for a number": (with_price(b"true"), "wrong_type"),
    "NaN": (with_price(b"NaN"), "not_json"),
    "Infinity": (with_price(b"-Infinity"), "not_json"),
    "infinite": (with_price(b"1e999"), "not_json"),
    "10^400": (with_price(b"1" + b"0" * 400), "not_json"),
    "null price": (with_price(b"null"), "missing"),
    "year 9999": (json.dumps({**bar(), "event_time": "9999-12-31T00:00:00Z"}).encode(), "no_time"),
    "a time to come": (json.dumps({**bar(), "event_time": "2024-02-02T00:00:00Z"}).encode(), "time_ahead"),
    "no time": (json.dumps({**bar(), "event_time": "yesterday"}).encode(), "no_time"),
    "equal keys": (GOOD[:-1] + b',"price":2}', "equal_keys"),
    "equal keys, spaced": (GOOD[:-1] + b',"price" : 2}', "equal_keys"),
    "a strange name": (GOOD[:-1] + b',"\\u0000; drop":2}', "unknown_field"),
    "the table's name": (GOOD[:-1] + b',"Place":"x"}', "unknown_field"),
    "other capitals": (GOOD[:-1] + b',"PRICE":2}', "unknown_field"),
    "thousands of fields": (
        json.dumps({**bar(volume=1), **{f"f{i}": i for i in range(5000)}}).encode(),
        "unknown_field",
    ),
    "no series": (GOOD.replace(b'"a"', b'""'), "no_series"),
    "too large": (with_price(b" " * 2_000_000 + b"1"), "too_large"),
    "renamed": (GOOD.replace(b"price", b"prize"), "renamed"),
    "removed": (json.dumps({k: v for k, v in bar(volume=1).items() if k != "price"}).encode(), "missing"),
}
