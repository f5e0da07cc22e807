"""/api/v1/predict and its batch: forecasts, each on disk before it is sent.

Small requests are answered on the event loop. Work that a request can make slow runs on a worker:
large bodies, batches, own histories, times that were not requested before.
"""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from deployments.forecaster import shapes
from deployments.forecaster.batch import build_batch_response
from deployments.forecaster.bodies import describe_body, read_request_bytes
from deployments.forecaster.loaded import LoadedRelease
from deployments.forecaster.problems import JsonObject
from deployments.forecaster.request import (
    CHAMPION,
    BatchItem,
    BatchRequest,
    ForecastRequest,
    parse_request,
)
from deployments.forecaster.response import ForecastResponse, build_response, is_quick
from deployments.forecaster.routes.shared import (
    Caller,
    ServiceParts,
    add_entry,
    get_caller,
    get_loaded_release,
    run_large_request,
)
from tasks.edges.served import StoredAnswer

CHUNK_BYTES = 100_000
QUICK_BYTES = 10_000  # of a body that is read on the loop: 2 ms at worst
_PROBLEMS: dict[int | str, JsonObject] = {
    404: {
        "model": shapes.Problem,
        "description": "A series is unknown, close matches are named; or a version, those kept are named.",
    },
    422: {
        "model": shapes.Problem,
        "description": (
            "The request is not valid: an unknown key, a time without a zone or before the first row."
        ),
    },
}


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the route to *app*."""

    @app.post(
        "/api/v1/predict",
        responses={200: {"model": shapes.Prediction}, **_PROBLEMS},
        openapi_extra=describe_body(ForecastRequest),
    )
    async def predict(request: Request) -> Response:
        """Forecast one or several series.

        From the rows that the service holds, or one series from the history in the request.
        """
        began_s = time.perf_counter()
        content = await read_request_bytes(request)
        forecast_request = (
            parse_request(content)
            if len(content) <= QUICK_BYTES
            else await run_large_request(parts, parse_request, content)
        )
        loaded, response = await _answer(parts, forecast_request)
        sent, caller = response.content.encode(), get_caller(request, loaded, began_s)
        stored = add_entry(caller, forecast_request, forecast_request.series, response.stored, content, sent)
        await parts.recorder.write_answers([stored])
        counter = parts.metrics.served if response.is_news else parts.metrics.what_if
        counter.labels(loaded.manifest.digest).inc(response.n_series)
        return Response(sent, media_type="application/json")

    @app.post(
        "/api/v1/predict/batch",
        responses={200: {"model": shapes.BatchPrediction}, **_PROBLEMS},
        openapi_extra=describe_body(BatchRequest),
    )
    async def predict_batch(request: Request) -> Response:
        """Forecast many series, each as a request of its own.

        An item that fails has its error in its place; the others are answered. All are recorded in
        one transaction.
        """
        began_s = time.perf_counter()
        content = await read_request_bytes(request)
        loaded = await get_loaded_release(parts)
        add = partial(_add_item_entry, get_caller(request, loaded, began_s))
        arguments = (loaded, content, datetime.now(UTC), parts.source.rules, add, parts.versions.find)
        response = await run_large_request(parts, build_batch_response, *arguments)
        if response.stored:
            await parts.recorder.write_answers(response.stored)
        parts.metrics.served.labels(response.digest).inc(response.n_news)
        parts.metrics.what_if.labels(response.digest).inc(response.n_what_if)
        headers = {"content-length": str(len(response.content))}
        chunks = _split_content(response.content)
        return StreamingResponse(chunks, headers=headers, media_type="application/json")


async def _answer(parts: ServiceParts, request: ForecastRequest) -> tuple[LoadedRelease, ForecastResponse]:
    """The forecasts, and the release that made them.

    What the challenger of a rollout fails, the champion answers.
    """

    async def work(loaded: LoadedRelease) -> ForecastResponse:
        build = partial(build_response, loaded, request, datetime.now(UTC), parts.source.rules)
        return build() if is_quick(loaded, request) else await run_large_request(parts, build)

    # New rows are read meanwhile; to wait for them is the longest stall of all
    champion, slots = await get_loaded_release(parts, waits=False), parts.source.slots
    if request.model != CHAMPION:
        named = await run_large_request(parts, parts.versions.find, champion, request.model)
        return named, await work(named)
    fault = None
    if (challenger := slots.select(champion, request.series)) is not champion:
        try:
            return challenger, await work(challenger)
        except Exception as error:  # noqa: BLE001  (of any kind; the champion has the same if it is the request's)
            fault = error
    response = await work(champion)
    if fault is not None:
        slots.report_error(fault)
    slots.mirror(champion, lambda loaded: build_response(loaded, request, datetime.now(UTC)))
    return champion, response


def _add_item_entry(
    caller: Caller, loaded: LoadedRelease, item: BatchItem, answer: StoredAnswer, content: str
) -> StoredAnswer:
    received = item.model_dump_json(exclude_none=True).encode()
    return add_entry(
        caller._replace(loaded=loaded), item, [item.series_id], answer, received, content.encode()
    )


async def _split_content(content: bytes) -> AsyncIterator[bytes]:
    """In parts that each take the loop less than a millisecond, as fast as the caller reads."""
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]
