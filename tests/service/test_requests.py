"""Strict input: what is not asked well is refused, with the thing, the fact, the rule and the
next move."""

import json

import pytest
from pydantic import TypeAdapter

from deployments.forecaster import shapes
from deployments.forecaster.request import MAX_BODY_BYTES

ROW = '{"event_time": "2021-01-01T00:00:00Z", "load": %s}'


def own(*rows: str, series_id: str = '"mine"') -> str:
    return f'{{"series_id": {series_id}, "history": [{", ".join(rows)}]}}'


REFUSED = {
    "nothing": ("", 400, "body"),
    "no JSON": ("{", 400, "body"),
    "no UTF-8": (b"\xff", 400, "body"),
    "another encoding": ('{"series_id": "north"}'.encode("utf-16"), 400, "body"),
    "nested without end": ("[" * 100_000, 400, "body"),
    "a key twice": ('{"series_id": "north", "series_id": "south"}', 400, "'series_id' repeats"),
    "a key twice in a row": (
        own('{"event_time": "2021-01-01T00:00:00Z", "load": 1, "load": 2}'),
        400,
        "'load' repeats",
    ),
    "NaN": (own(ROW % "NaN"), 400, "NaN"),
    "Infinity": (own(ROW % "Infinity"), 400, "Infinity"),
    "-Infinity": (own(ROW % "-Infinity"), 400, "-Infinity"),
    "a number beyond float64": (own(ROW % "1e999"), 400, "1e999"),
    "an integer beyond float64": (own(ROW % ("9" * 400)), 422, "history.0.load"),
    "an integer beyond all": (own(ROW % ("9" * 5000)), 400, "body"),
    "a list": ("[]", 422, "body"),
    "an empty object": ("{}", 422, "series_id"),
    "an unknown key": ('{"series_id": "north", "asof": "2021-01-01T00:00:00Z"}', 422, "Did you mean 'as_of'"),
    "a number for a series": ('{"series_id": 1}', 422, "series_id"),
    "an empty name": ('{"series_id": ""}', 422, "series_id"),
    "a name without end": (json.dumps({"series_id": "n" * 201}), 422, "series_id"),
    "half a surrogate": ('{"series_id": "\\ud800"}', 422, "series_id"),
    "half a surrogate as key": ('{"\\ud800": 1, "series_id": "north"}', 422, "valid string"),
    "no series": ('{"series_id": []}', 422, "series_id"),
    "a series twice": ('{"series_id": ["north", "south", "north"]}', 422, "'north' is there twice"),
    "an unknown series": ('{"series_id": "nort"}', 404, "Did you mean north"),
    "one unknown of two": ('{"series_id": ["north", "sooth"]}', 404, "(for 'sooth')"),
    "an unknown series unlike any": ('{"series_id": "xyzzy"}', 404, "north, south"),
    "a time without zone": (
        '{"series_id": "north", "as_of": "2021-01-01T00:00:00"}',
        422,
        "2021-01-01T00:00:00Z",
    ),
    "a date for a time": ('{"series_id": "north", "as_of": "2021-01-01"}', 422, "has no zone"),
    "no time": ('{"series_id": "north", "as_of": "yesterday"}', 422, "'yesterday' is no time"),
    "a number for a time": ('{"series_id": "north", "as_of": 1609459200}', 422, "as_of"),
    "a time before year 1": ('{"series_id": "north", "as_of": "0001-01-01T00:00:00+14:00"}', 422, "as_of"),
    "a time before the first row": (
        '{"series_id": "north", "as_of": "2019-12-31T00:00:00Z"}',
        422,
        "2020-01-02T00:00:00Z",
    ),
    "a time long after the last row": (
        '{"series_id": "north", "as_of": "2021-06-01T00:00:00Z"}',
        422,
        "last value is of 2021-02-03",
    ),
    "a time at the end of time": (
        '{"series_id": "north", "as_of": "9999-12-31T23:59:59Z"}',
        422,
        "last value",
    ),
    "more steps than the release has": ('{"series_id": "north", "horizon_steps": 6}', 422, "1 to 5"),
    "no steps": ('{"series_id": "north", "horizon_steps": 0}', 422, "horizon_steps"),
    "true for steps": ('{"series_id": "north", "horizon_steps": true}', 422, "horizon_steps"),
    "a level that the release has not": (
        '{"series_id": "north", "levels": [0.8, 0.5]}',
        422,
        "has the levels 0.8",
    ),
    "no levels": ('{"series_id": "north", "levels": []}', 422, "levels"),
    "an empty history": ('{"series_id": "mine", "history": []}', 422, "history"),
    "a history for two": (own(ROW % 1, series_id='["a", "b"]'), 422, "one series"),
    "a row without time": (own('{"load": 1}'), 422, "history.0.event_time"),
    "a row without zone": (
        own('{"event_time": "2021-01-01T00:00:00", "load": 1}'),
        422,
        "history[0].event_time",
    ),
    "a row without value": (own('{"event_time": "2021-01-01T00:00:00Z"}'), 422, "['load'] are missing"),
    "a row with an unknown column": (
        own('{"event_time": "2021-01-01T00:00:00Z", "lod": 1, "load": 1}'),
        422,
        "Did you mean 'load'",
    ),
    "text for a value": (own(ROW % '"1"'), 422, "history.0.load"),
    "true for a value": (own(ROW % "true"), 422, "history.0.load"),
    "a time twice": (own(ROW % 1, ROW % 2), 422, "2021-01-01T00:00:00Z is there twice"),
    "a row off the calendar": (
        own(ROW % 1, '{"event_time": "2021-01-02T00:30:00Z", "load": 1}'),
        422,
        "2021-01-02T00:30",
    ),
    "rows of another phase": (
        own('{"event_time": "2021-01-02T00:30:00Z", "load": 1}'),
        422,
        "2021-02-03T00:00:00Z is one",
    ),
    "rows of another age": (
        own(ROW % 1, '{"event_time": "9999-01-02T00:00:00Z", "load": 1}'),
        422,
        "1,000,000 steps",
    ),
    "a history asked at the end of time": (
        own(ROW % 1)[:-1] + ', "as_of": "9999-01-02T00:00:00Z"}',
        422,
        "last value",
    ),
    "nothing known in the history": (own(ROW % "null"), 422, "no value of load"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_is_refused_with_the_rule_and_a_way_out(server, case):
    body, status, said = REFUSED[case]
    reply = server.client.post("/api/v1/predict", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == status, reply.text
    error = TypeAdapter(shapes.Problem).validate_python(reply.json())
    assert all(error.values())
    assert reply.headers["content-type"] == "application/problem+json"
    assert said in error["detail"]


def test_a_body_beyond_the_cap_is_refused_and_the_next_one_is_answered(server):
    for size in (MAX_BODY_BYTES + 1, 5 * MAX_BODY_BYTES):
        assert server.client.post("/api/v1/predict", content=b" " * size).status_code == 413
    chunks = (b" " * 100_000 for _ in range(20))  # no content-length
    assert server.client.post("/api/v1/predict", content=chunks).status_code == 413
    assert server.predict(series_id="north").status_code == 200


def test_a_body_of_exactly_the_cap_is_read(server):
    ask = b'{"series_id": "north"}'
    assert (
        server.client.post("/api/v1/predict", content=ask + b" " * (MAX_BODY_BYTES - len(ask))).status_code
        == 200
    )


def test_many_repeated_keys_are_refused_at_once(server):
    body = "{" + ", ".join(f'"{k}": 1' for k in range(80_000)) + ', "0": 1}'
    assert server.client.post("/api/v1/predict", content=body, timeout=10).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/v1/forecast", 404), ("GET", "/api/v1/predict", 405), ("DELETE", "/api/v1/models", 405)],
)
def test_a_wrong_address_names_the_right_ones(server, method, path, status):
    reply = server.client.request(method, path)
    assert reply.status_code == status
    assert "/api/v1/predict" in reply.json()["rule"]


def test_nothing_refused_is_recorded_as_served(server):
    def n_served():
        lines = server.client.get("/api/v1/metrics").text.splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith("tidemill_forecasts_served_total")
        )

    before = n_served()
    assert server.predict(series_id="nobody").status_code == 404
    assert n_served() == before
    assert server.predict(series_id=["north", "south"]).status_code == 200
    assert n_served() == before + 2
