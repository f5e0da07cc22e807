"""/api/v1/predict: forecasts, each on disk before it is sent.

Small requests are answered on the event loop. Work that a request can make slow runs on a worker:
large bodies, own histories, times that were not requested before.
"""

import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response

from deployments.forecaster import shapes
from deployments.forecaster.pages import JsonObject
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import MAX_BODY_BYTES, ForecastRequest, parse_request
from deployments.forecaster.response import build_response, is_quick
from deployments.forecaster.routes.shared import (
    BUSY,
    NOT_READY,
    ServiceParts,
    get_loaded_release,
    record_answer,
    run_large_request,
)

QUICK_BYTES = 10_000  # of a body that is read on the loop: 2 ms at worst
DRAINED_BYTES = 16 * MAX_BODY_BYTES  # of a body beyond the cap, so that its sender gets to read the 413
_PROBLEMS: dict[int | str, JsonObject] = {
    400: {
        "model": shapes.Problem,
        "description": "The body is no JSON, has a repeated key or a number that is not finite.",
    },
    404: {"model": shapes.Problem, "description": "A series is unknown; close matches are named."},
    413: {"model": shapes.Problem, "description": f"The body has more than {MAX_BODY_BYTES:,} bytes."},
    422: {
        "model": shapes.Problem,
        "description": (
            "The request is not valid: an unknown key, a time without a zone or before the first row."
        ),
    },
    429: BUSY,
    503: NOT_READY,
}


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the route to *app*."""
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": _resolve_schema_refs(ForecastRequest.model_json_schema())}
        },
    }

    @app.post(
        "/api/v1/predict",
        responses={200: {"model": shapes.Prediction}, **_PROBLEMS},
        openapi_extra={"requestBody": body},
    )
    async def predict(request: Request) -> Response:
        """Forecast one or several series.

        From the rows that the service holds, or one series from the history in the request.
        """
        began_s = time.perf_counter()
        content = await _read_request_bytes(request)
        forecast_request = (
            parse_request(content)
            if len(content) <= QUICK_BYTES
            else await run_large_request(parts, parse_request, content)
        )
        loaded = await get_loaded_release(parts)
        work = partial(build_response, loaded, forecast_request, datetime.now(UTC))
        response = work() if is_quick(loaded, forecast_request) else await run_large_request(parts, work)
        sent = response.content.encode()
        await record_answer(parts, request, loaded, forecast_request, response.stored, content, sent, began_s)
        counter = parts.metrics.served if response.is_news else parts.metrics.what_if
        counter.labels(loaded.manifest.digest).inc(response.n_series)
        return Response(sent, media_type="application/json")


async def _read_request_bytes(request: Request) -> bytes:
    """The body. Raises ProblemError 413 when it is too long."""
    body, n_bytes = bytearray(), 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        if n_bytes <= MAX_BODY_BYTES:
            body += chunk
        elif n_bytes > DRAINED_BYTES:
            break
    if n_bytes > MAX_BODY_BYTES:
        raise ProblemError(
            413,
            "body",
            f"more than {MAX_BODY_BYTES:,} bytes",
            "A body is capped.",
            "Send fewer rows; the features use the last ones only.",
        )
    return bytes(body)


def _resolve_schema_refs(schema: JsonObject) -> JsonObject:
    """*schema* with the content of its `$defs` in place of the references."""
    defs = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(defs[node["$ref"].rsplit("/", 1)[1]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: JsonObject = resolve(schema)
    return resolved
