"""The client against the real service, and against a busy one; the how-to as it is written."""

import asyncio
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from how_to_blocks import list_blocks, run_block
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from deployments.client import AsyncServiceClient, RetryPolicy, ServiceClient, ServiceProblemError
from deployments.client.calls import parse_retry_after
from deployments.forecaster import shapes
from tasks.edges.processes import find_free_port

# Those that need more than the tests' own service: tests/service/test_webhooks.py, test_job_fits.py
OTHERS = re.compile(r"def read_call|start_job\(\"forecast\"")
BLOCKS = [b for b in list_blocks("call-the-api", "jobs-and-webhooks") if not OTHERS.search(b[1])]
NOW = datetime(2024, 1, 1, tzinfo=UTC)
QUICK = RetryPolicy(first_s=0.01)


@pytest.fixture(scope="module")
def client(server):
    with ServiceClient(str(server.client.base_url)) as client:
        yield client


def test_each_method_gets_what_its_type_says(client):
    forecast = client.predict("north", horizon_steps=2, levels=[0.8])
    assert len(TypeAdapter(shapes.Prediction).validate_python(forecast)["series"][0]["steps"]) == 2
    batch = client.predict_batch([{"series_id": "north"}, {"series_id": "nort"}])
    assert TypeAdapter(shapes.BatchPrediction).validate_python(batch)["n_failed"] == 1
    assert TypeAdapter(shapes.Models).validate_python(client.get_models())
    assert TypeAdapter(shapes.Health).validate_python(client.get_health())["ready"]
    known_at = datetime.fromisoformat(forecast["series"][0]["as_of"]) - timedelta(days=1)
    assert client.predict(["north", "south"], as_of=known_at)["series"][1]["cutoff"] == f"{known_at:%FT%TZ}"
    explained = client.predict("north", model="champion", explain=True)
    assert (
        TypeAdapter(shapes.Prediction).validate_python(explained)["explanations"][0]["series_id"] == "north"
    )
    again = client.explain_prediction(explained["prediction_id"])
    assert again["explanations"] == explained["explanations"]
    assert client.predict_batch([{"series_id": "north"}], model="champion")["n_failed"] == 0
    asked = client.query("query($id: String!) { series(seriesId: $id) { seriesId } }", {"id": "north"})
    assert asked == {"data": {"series": {"seriesId": "north"}}}
    assert client.analyze("distribution", bins=3)["series"][1]["columns"]["load"]["counts"]
    own = [{"event_time": "2021-01-01T00:00:00Z", "load": 1.0}]
    assert client.predict("mine", history=own)["rows_version"] is None


def test_an_error_has_the_reason_of_the_service(client):
    with pytest.raises(ServiceProblemError, match="Did you mean north") as caught:
        client.predict("nort")
    assert (caught.value.status, caught.value.problem["thing"]) == (404, "series_id")
    for ask in (client.get_release, client.get_monitoring):
        with pytest.raises(ServiceProblemError, match="registry"):
            ask("9.9.9")
        with pytest.raises(ServiceProblemError, match="404"):
            ask("../health/live")


def test_the_async_client_has_the_same_methods_and_answers(server, client):
    async def ask():
        async with AsyncServiceClient(str(server.client.base_url)) as other:
            with pytest.raises(ServiceProblemError, match="Did you mean north"):
                await other.predict("nort")
            with pytest.raises(ServiceProblemError, match="registry"):
                await other.get_release("1")
            assert (await other.query("{ champion { version } }"))["data"]["champion"]
            assert (await other.analyze("describe", series_id="north"))["series"]
            with pytest.raises(ServiceProblemError, match="no answer"):
                await other.explain_prediction("1")
            with pytest.raises(ServiceProblemError, match="registry"):
                await other.get_monitoring("1")
            assert (await other.get_health())["ready"]
            started = await other.start_job("backtest", stride_steps=9, idempotency_key="async")
            assert (
                started["job_id"]
                == client.start_job("backtest", stride_steps=9, idempotency_key="async")["job_id"]
            )
            await other.cancel_job(started["job_id"])
            ended = await other.wait_for_job(started["job_id"])
            assert ended == await other.get_job(started["job_id"]) == (await other.list_jobs())["jobs"][0]
            assert ended["state"] == "cancelled"
            with pytest.raises(ServiceProblemError, match="it is cancelled"):
                await other.get_result(started["job_id"])
            with pytest.raises(ServiceProblemError, match="contract"):
                await other.send_observations(
                    [{"series_id": "north", "event_time": "2021-01-01T00:00:00Z", "load": 1.0}]
                )
            assert (await other.predict_batch([{"series_id": "south"}]))["n_failed"] == 0
            return await asyncio.gather(other.predict("north"), other.get_models())

    forecast, models = asyncio.run(ask())
    assert forecast["series"] == client.predict("north")["series"]
    assert models == client.get_models()
    public = [{name for name in dir(kind) if name[0] != "_"} for kind in (ServiceClient, AsyncServiceClient)]
    assert public[0] == public[1]


class Busy(BaseHTTPRequestHandler):
    """Answers the statuses of `server.answers` one by one, and counts."""

    def do_GET(self):
        status, headers, body = self.server.answers.pop(0)
        self.server.times.append(datetime.now(UTC))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def busy():
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        server.answers, server.times, server.address = [], [], f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(address, retry, is_async):
    if not is_async:
        with ServiceClient(address, retry=retry) as client:
            return client.get_health()

    async def run():
        async with AsyncServiceClient(address, retry=retry) as client:
            return await client.get_health()

    return asyncio.run(run())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_busy_service_is_asked_again_no_sooner_than_it_says(busy, is_async):
    busy.answers = [(429, {"retry-after": "1"}, b""), (503, {}, b""), (200, {}, b'{"ready": true}')]
    assert ask(busy.address, QUICK, is_async) == {"ready": True}
    first, second, third = busy.times
    assert second - first >= timedelta(seconds=1)
    assert third - second < timedelta(seconds=1)


@pytest.mark.parametrize("is_async", [False, True])
def test_it_gives_up_and_says_why(busy, is_async):
    problem = {"detail": "rows: too old", "status": 503}
    busy.answers = [(503, {"retry-after": "60"}, json.dumps(problem).encode())]  # longer than max_s
    with pytest.raises(ServiceProblemError, match="503 rows: too old"):
        ask(busy.address, QUICK, is_async)
    busy.answers = [(503, {}, b"")] * 3
    with pytest.raises(ServiceProblemError, match="The service answers JSON"):
        ask(busy.address, RetryPolicy(attempts=3, first_s=0.01), is_async)
    busy.answers = [(502, {}, b"<html>Bad gateway</html>")]  # not asked again: it may have been recorded
    with pytest.raises(ServiceProblemError, match="Bad gateway"):
        ask(busy.address, QUICK, is_async)
    assert busy.answers == []
    with pytest.raises(httpx.ConnectError):
        ask(
            f"http://127.0.0.1:{find_free_port('127.0.0.1')}", RetryPolicy(attempts=2, first_s=0.01), is_async
        )


@given(st.integers(1, 8), st.none() | st.integers(0, 100), st.sampled_from([200, 404, 429, 500, 503]))
def test_waits_grow_have_a_limit_and_are_never_shorter_than_asked(attempt, asked_s, status):
    policy = RetryPolicy(attempts=6, first_s=0.5, max_s=10)
    headers = {} if asked_s is None else {"retry-after": str(asked_s)}
    wait_s = policy.find_wait(httpx.Response(status, headers=headers), attempt, NOW)
    if attempt >= 6 or status not in {429, 503} or (asked_s or 0) > 10:
        assert wait_s is None
    elif wait_s is not None:
        assert max(asked_s or 0, 0.5 * 2 ** (attempt - 1) / 2) <= wait_s <= 10
    else:
        assert 0.5 * 2 ** (attempt - 1) > 10


def test_retry_after_is_seconds_or_a_date():
    assert parse_retry_after("7", NOW) == 7
    assert parse_retry_after(format_datetime(NOW + timedelta(seconds=90), usegmt=True), NOW) == 90
    assert parse_retry_after(format_datetime(NOW - timedelta(seconds=90), usegmt=True), NOW) == 0
    assert parse_retry_after("soon", NOW) is None
    assert parse_retry_after(None, NOW) is None


@pytest.mark.parametrize("k", range(len(BLOCKS)), ids=[name for name, _ in BLOCKS])
def test_the_how_to_runs_as_written(server, k):
    """With the address and the series of the tests' own service."""
    language, text = BLOCKS[k]
    for name, ours in {
        "localhost:3000": f"127.0.0.1:{server.client.base_url.port}",
        "sp500": "north",
        "nasdaq": "south",
        "2018-12-04": "2021-01-04",
    }.items():
        text = text.replace(name, ours)
    done = run_block(language, text, "none")
    expected = (
        r"2021-02-0\dT00:00:00Z|prediction_id|0 of 2 failed|^done \w{12} 5$"
        r'|"state": "done"|^5 \d+ \d+\.\d+ 0\.\d+'
    )
    assert re.search(expected, done.stdout, flags=re.MULTILINE), done.stdout
