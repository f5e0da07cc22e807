"""Whatever arrives, each record gets one answer, the same by both ways of reading JSON."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed import NOON, bar, land, params_of, records_of, rows_of
from poison import GOOD, POISON
from polars.testing import assert_frame_equal

from tasks.feed.contract import DETAIL, RULE, RecordContract
from tasks.feed.decode import JsonDecoder, RecordDecoder, parse_json_object

FIELDS = {
    "series_id": pl.String(),
    "event_time": pl.String(),
    "price": pl.Float64(),
    "n": pl.Int64(),
    "up": pl.Boolean(),
    "volume": pl.Float64(),
}
CONTRACT = RecordContract(FIELDS, frozenset({"volume", "up"}), frozenset(), 4096, 3)


@pytest.mark.parametrize("kind", POISON)
def test_poison_lands_in_quarantine_with_its_bytes_and_rule_and_the_rest_goes_on(kind, tmp_path):
    value, rule = POISON[kind]
    good = [json.dumps(bar(minutes=i)).encode() for i in range(20)]
    table = land(tmp_path, [records_of([*good[:10], value, *good[10:]], headers='[["h", "1"]]', key=b"k")])
    rows = rows_of(table)
    assert rows.filter(pl.col("disposition") == "row")["_offset"].to_list() == [*range(10), *range(11, 21)]
    bad = rows.filter(pl.col("disposition") == "quarantine").row(0, named=True)
    assert (bad["_offset"], bad["_rule"], bad["_raw"], bad["_key"], bad["_headers"]) == (
        10,
        rule,
        value,
        b"k",
        '[["h", "1"]]',
    )
    assert bad["_source"] == "kafka:c/t/0"
    assert bad["_detail"]
    assert bad["price"] is None
    assert set(rows.columns) == set(table.columns)


def both_ways(values):
    """What the fast way and the slow one say of *values*."""
    series = pl.Series(values, dtype=pl.Binary)
    return JsonDecoder(CONTRACT).decode(series), RecordDecoder(CONTRACT, parse_json_object).decode(series)


numbers = st.one_of(
    st.floats().map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["1e5", "-0", "-0.0", "1E-7", "1.", ".5", "01", "1e400", "true", "null"]),
)
texts = st.one_of(
    st.text('ab:,"\\\né😀', max_size=8).map(json.dumps),
    st.sampled_from(['"a"', '"[x]"', '":b"', '"a\\"b"', "7", "true", "null", '["x"]', "{}", '"é"']),
)
ends = st.sampled_from(
    ["}", "}", "}", "}", "", "}x", ',"x":1}', ',"x":"y"}', ',"price":2}', ',"up" :true}', ',"Up":1}']
)
spaces = st.sampled_from(["", "", " ", "\n"])


@st.composite
def almost_records(draw):
    """An object of the contract's fields, nearly well."""
    written = {
        "series_id": draw(texts),
        "event_time": '"2024-01-02T11:00:00Z"',
        "price": draw(numbers),
        "n": draw(st.one_of(st.just("3"), numbers)),
        "up": draw(st.sampled_from(["true", "false", "null", "1"])),
        "volume": draw(numbers),
    }
    names = draw(st.permutations(list(written))) if draw(st.booleans()) else list(written)
    names = names[: draw(st.sampled_from([6, 6, 6, 5, 4]))]
    space = draw(spaces)
    return (
        "{" + f",{space}".join(f'"{name}":{space}{written[name]}' for name in names) + draw(ends)
    ).encode()


@settings(deadline=None)
@given(
    almost=st.lists(almost_records(), max_size=12),
    noise=st.lists(st.binary(max_size=40), max_size=3),
    cut=st.integers(0, 90),
    data=st.data(),
)
def test_both_ways_say_the_same_of_each_record(almost, noise, cut, data):
    """Well-written neighbours, so that the fast way has learnt its pattern; among them nearly
    well records, cut ones, changed bytes and noise."""
    neighbour = (
        b'{"series_id":"a","event_time":"2024-01-02T11:00:00Z","price":1.5,"n":1,"up":true,"volume":2}'
    )
    mutated = bytearray(neighbour)
    mutated[data.draw(st.integers(0, len(neighbour) - 1))] = data.draw(st.integers(0, 255))
    values = data.draw(st.permutations([*almost, *noise, neighbour[:cut], bytes(mutated), *[neighbour] * 16]))
    fast, slow = both_ways(values)
    assert fast.fields.height == len(values)
    assert_frame_equal(fast.fields, slow.fields, check_column_order=False, check_exact=True)
    assert (fast.added, fast.broken) == (slow.added, slow.broken)
    assert fast.fields[RULE].is_null().to_list() == fast.fields[DETAIL].is_null().to_list()


def test_most_records_of_a_usual_feed_go_the_fast_way():
    """In two orders, spaced or not, with and without the nullable fields."""
    one = {
        "series_id": "a",
        "event_time": "2024-01-02T11:00:00Z",
        "price": 1.5,
        "n": 1,
        "up": None,
        "volume": -2e-5,
    }
    values = [
        json.dumps(one).encode(),
        json.dumps(one, separators=(",", ":")).encode(),
        json.dumps(dict(reversed(one.items()))).encode(),
    ]
    values += [json.dumps({k: v for k, v in one.items() if k != "up"}).encode()]
    plain, _ = JsonDecoder(CONTRACT).find_plain(pl.Series(values * 10, dtype=pl.Binary))
    assert plain.all()


def test_a_key_that_is_no_text_stops_nothing(tmp_path):
    params = params_of(series_field=None)
    value = json.dumps({k: v for k, v in bar().items() if k != "series_id"}).encode()
    rows = rows_of(
        land(
            tmp_path, [records_of([value], key=b"\xff"), records_of([value, value], key=b"s").tail(1)], params
        )
    )
    assert rows.select("series_id", "_rule").rows() == [(None, "no_series"), ("s", None)]


def test_a_field_that_quarantined_records_alone_have_becomes_no_column(tmp_path):
    late_fault = {**bar(volume=1), "event_time": "9999-01-01T00:00:00Z", "extra": 1}
    assert (
        "extra" not in land(tmp_path, [records_of([json.dumps(late_fault).encode(), GOOD], at=NOON)]).columns
    )
