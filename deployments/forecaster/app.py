"""The routes. One FastAPI app, the same under uvicorn and mounted in BentoML.

Ordinary forecasts are made on the loop: a model takes microseconds, a thread pool costs more and
has ten times the tail. What a request can make slow goes to a worker (worker.py): large bodies, own
histories, times not asked for before, and the fsync of each answer.
"""

import gc
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.forecaster import shapes
from deployments.forecaster.answer import ForecastResponse, build_response, describe_champion, is_quick
from deployments.forecaster.ask import MAX_BODY_BYTES, ForecastRequest, parse_request
from deployments.forecaster.metrics import UNIX_TYPE, ServiceMetrics
from deployments.forecaster.pages import JsonObject, build_openapi, render_document
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.recorder import ResponseRecorder
from deployments.forecaster.source import LoadedRelease, ReleaseSource, describe_source
from deployments.forecaster.worker import BoundedWorker, WorkerBusyError

QUICK_BYTES = 10_000  # of a body that is read on the loop: 2 ms at worst
N_LARGE_WAITING = 7  # some 5 s; BentoML gives up after 10
SWITCH_S = 0.001  # for which a worker's Python code may hold up the loop, some ten times a request; else 5 ms
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
            "The request asks for what cannot be: an unknown key, a time without a zone or before the first"
            " row."
        ),
    },
    429: {
        "model": shapes.Problem,
        "description": f"{N_LARGE_WAITING + 1} large requests are worked on or wait.",
    },
    503: {"model": shapes.Problem, "description": "No release stands, or the answer cannot be recorded."},
}
_log = logging.getLogger("tidemill.forecaster")
T = TypeVar("T")


def build_app(release_source: ReleaseSource, recorder: ResponseRecorder) -> FastAPI:
    """The app that answers from what *release_source* holds, once *recorder* has the answer.

    It loads when the app starts.
    """
    metrics = ServiceMetrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        release_source.load_initial()
        gc.collect()
        gc.freeze()  # what is loaded now stays; collections need not walk it
        sys.setswitchinterval(SWITCH_S)
        yield

    app = FastAPI(
        title="Tidemill forecaster",
        version="1",
        description="Forecasts with quantiles, by series or from a history of your own.",
        docs_url=None,  # FastAPI's pages load scripts from a CDN and stay blank offline
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(_RequestMeter, metrics=metrics)
    _add_problems(app)
    _add_forecasts(app, release_source, recorder, metrics)
    _add_health(app, release_source, recorder, metrics)
    _add_pages(app, release_source)
    return app


def create_app() -> FastAPI:
    """The app of this process's settings, without BentoML: `uvicorn --factory
    deployments.forecaster.app:create_app`.
    """
    source = ReleaseSource()
    return build_app(source, ResponseRecorder(source))


async def describe_readiness(source: ReleaseSource, recorder: ResponseRecorder) -> shapes.Ready:
    """Which release is loaded, and whether answers can be recorded."""
    await source.refresh()
    ready, fault = describe_source(source), await recorder.find_fault()
    return ready if fault is None else {**ready, "ready": False, "faults": [*ready["faults"], fault]}


def _add_forecasts(
    app: FastAPI, source: ReleaseSource, recorder: ResponseRecorder, metrics: ServiceMetrics
) -> None:
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": _resolve_schema_refs(ForecastRequest.model_json_schema())}
        },
    }

    large = BoundedWorker("large", N_LARGE_WAITING)

    @app.post(
        "/api/v1/predict",
        responses={200: {"model": shapes.Prediction}, **_PROBLEMS},
        openapi_extra={"requestBody": body},
    )
    async def predict(request: Request) -> Response:
        """Forecast one or several series from the rows the service holds, or one from the
        history in the request.
        """
        content = await _read_request_bytes(request)
        ask = (
            parse_request(content)
            if len(content) <= QUICK_BYTES
            else await _run_large_request(large, parse_request, content)
        )
        standing = await _get_loaded_release(source)
        work = partial(_build_http_response, standing, ask, datetime.now(UTC))
        made, reply = work() if is_quick(standing, ask) else await _run_large_request(large, work)
        await recorder.write_response(made)
        metrics.served.labels(standing.manifest.digest).inc(len(made.body["series"]))
        return reply

    @app.get("/api/v1/models", responses={200: {"model": shapes.Models}, 503: _PROBLEMS[503]})
    async def models() -> Response:
        """The release that answers: its name, version, digest, members and what its evaluation
        found.
        """
        return _build_json_response({"champion": describe_champion(await _get_loaded_release(source))})


def _add_health(
    app: FastAPI, source: ReleaseSource, recorder: ResponseRecorder, metrics: ServiceMetrics
) -> None:
    @app.get("/api/v1/health/live", responses={200: {"model": shapes.Live}})
    async def live() -> Response:
        """The process answers."""
        return _build_json_response({"live": True})

    @app.get(
        "/api/v1/health/ready",
        responses={
            200: {"model": shapes.Ready},
            503: {"model": shapes.Ready, "description": "Not ready; the faults say why."},
        },
    )
    async def ready() -> Response:
        """A verified release is loaded and answers can be recorded."""
        readiness = await describe_readiness(source, recorder)
        return _build_json_response(readiness, 200 if readiness["ready"] else 503)

    @app.get("/api/v1/metrics", response_class=Response, responses={200: {"content": {UNIX_TYPE: {}}}})
    async def scrape() -> Response:
        """Metrics for Prometheus."""
        metrics.show(await source.refresh(), source.n_swaps, faulty=bool(source.faults))
        return Response(metrics.text(), media_type=UNIX_TYPE)


def _add_pages(app: FastAPI, source: ReleaseSource) -> None:
    # 50 ms; every wrong address asks for its paths
    document = lru_cache(maxsize=1)(partial(build_openapi, app))
    # FastAPI's way to extend it
    app.openapi = lambda: document(source.standing)  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_document(app.openapi()))

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        paths = ", ".join(sorted(app.openapi()["paths"]))
        return ProblemError(
            error.status_code,
            f"{request.method} {request.url.path}"[:200],
            error.detail,
            f"There are {paths}.",
            "See /docs.",
        ).response()

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        _log.error("unforeseen", exc_info=error)
        fact = f"{type(error).__name__}; the log has the details"
        return ProblemError(
            500, "service", fact, "This should not happen.", "Tell the operator the time of the request."
        ).response()


async def _get_loaded_release(source: ReleaseSource) -> LoadedRelease:
    if (standing := await source.refresh()) is None:
        raise ProblemError(
            503,
            "service",
            "; ".join(source.faults),
            "A verified release must be loaded first.",
            "Ask /api/v1/health/ready, then again.",
        )
    return standing


def _build_http_response(
    standing: LoadedRelease, ask: ForecastRequest, made_at: datetime
) -> tuple[ForecastResponse, Response]:
    made = build_response(standing, ask, made_at)
    return made, _build_json_response(made.body)


async def _run_large_request(worker: BoundedWorker, work: Callable[..., T], *arguments: Any) -> T:
    try:
        return await worker.run(work, *arguments)
    except WorkerBusyError as error:
        rule = "Large bodies, own histories and a new as_of take turns; all others are answered meanwhile."
        raise ProblemError(429, "service", str(error), rule, "Ask again in a second.") from error


async def _read_request_bytes(request: Request) -> bytes:
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
            "Send fewer rows; the features look back on the last ones only.",
        )
    return bytes(body)


def _build_json_response(content: Mapping[str, object], status: int = 200) -> Response:
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")


def _resolve_schema_refs(schema: JsonObject) -> JsonObject:
    """*schema* with its `$defs` put where they are referred to, so that it can stand anywhere in
    a document.
    """
    defs = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(defs[node["$ref"].rsplit("/", 1)[1]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: JsonObject = resolve(schema)
    return resolved


class _RequestMeter:
    """Counts requests and their time by route.

    Plain ASGI: FastAPI's own middleware class halves the throughput.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.observe(route, status, time.perf_counter() - started)
