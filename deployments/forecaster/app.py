"""The routes. One FastAPI app, the same under uvicorn and mounted in BentoML.

Handlers are `async` with the sessions called inline: a model takes microseconds, a thread pool costs more and has ten times the tail.
What blocks the loop on purpose is the fsync that records each answer, about a millisecond.
"""

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.forecaster import shapes
from deployments.forecaster.answer import answer, champion
from deployments.forecaster.ask import MAX_BODY_BYTES, Ask, read_ask
from deployments.forecaster.metrics import UNIX_TYPE, Metrics
from deployments.forecaster.pages import openapi, page
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.source import ReleaseSource, Standing, describe
from tasks.core.errors import TidemillError
from tasks.edges.served import ServedStoreError, append_served, check_served

DRAINED_BYTES = 16 * MAX_BODY_BYTES  # of a body beyond the cap, so that its sender gets to read the 413
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": shapes.Problem, "description": "The body is no JSON, has a repeated key or a number that is not finite."},
    404: {"model": shapes.Problem, "description": "A series is unknown; close matches are named."},
    413: {"model": shapes.Problem, "description": f"The body has more than {MAX_BODY_BYTES:,} bytes."},
    422: {
        "model": shapes.Problem,
        "description": "The request asks for what cannot be: an unknown key, a time without a zone or before the first row.",
    },
    503: {"model": shapes.Problem, "description": "No release stands, or the answer cannot be recorded."},
}
_log = logging.getLogger("tidemill.forecaster")


def build_app(release_source: ReleaseSource) -> FastAPI:
    """The app that answers from what *release_source* holds; it loads when the app starts."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        release_source.prepare()
        yield

    app = FastAPI(
        title="Tidemill forecaster",
        version="1",
        description="Forecasts with quantiles, by series or from a history of your own.",
        docs_url=None,  # FastAPI's pages load scripts from a CDN and stay blank offline
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(_Measured, metrics=metrics)
    _add_problems(app)
    _add_forecasts(app, release_source, metrics)
    _add_health(app, release_source, metrics)
    _add_pages(app, release_source)
    return app


def create_app() -> FastAPI:
    """The app of this process's settings, without BentoML: `uvicorn --factory deployments.forecaster.app:create_app`."""
    return build_app(ReleaseSource())


def _add_forecasts(app: FastAPI, source: ReleaseSource, metrics: Metrics) -> None:
    body = {"required": True, "content": {"application/json": {"schema": _inlined(Ask.model_json_schema())}}}

    @app.post("/api/v1/predict", responses={200: {"model": shapes.Prediction}, **_PROBLEMS}, openapi_extra={"requestBody": body})
    async def predict(request: Request) -> Response:
        """Forecast one or several series from the rows the service holds, or one from the history in the request."""
        ask = read_ask(await _body(request))
        standing = await _standing(source)
        made = answer(standing, ask, datetime.now(UTC))
        try:
            append_served(made.body["dataset"], made.served, own_history=made.own_history, as_of=made.as_of)
        except ServedStoreError as error:
            raise ProblemError(
                503, "store of served forecasts", str(error), "Nothing is served that is not recorded.", "Tell the operator; then ask again."
            ) from error
        metrics.served.labels(standing.manifest.digest).inc(len(made.body["series"]))
        return _json(made.body)

    @app.get("/api/v1/models", responses={200: {"model": shapes.Models}, 503: _PROBLEMS[503]})
    async def models() -> Response:
        """The release that answers: its name, version, digest, members and what its evaluation found."""
        return _json({"champion": champion(await _standing(source))})


def _add_health(app: FastAPI, source: ReleaseSource, metrics: Metrics) -> None:
    @app.get("/api/v1/health/live", responses={200: {"model": shapes.Live}})
    async def live() -> Response:
        """The process answers."""
        return _json({"live": True})

    @app.get(
        "/api/v1/health/ready",
        responses={200: {"model": shapes.Ready}, 503: {"model": shapes.Ready, "description": "Not ready; the faults say why."}},
    )
    async def ready() -> Response:
        """A verified release is loaded and answers can be recorded."""
        await source.refresh()
        said = describe(source)
        try:
            check_served(source.dataset)
        except TidemillError as error:
            said = {**said, "ready": False, "faults": [*said["faults"], str(error)]}
        return _json(said, 200 if said["ready"] else 503)

    @app.get("/api/v1/metrics", response_class=Response, responses={200: {"content": {UNIX_TYPE: {}}}})
    async def scrape() -> Response:
        """Metrics for Prometheus."""
        metrics.show(await source.refresh(), source.n_swaps, faulty=bool(source.faults))
        return Response(metrics.text(), media_type=UNIX_TYPE)


def _add_pages(app: FastAPI, source: ReleaseSource) -> None:
    app.openapi = lambda: openapi(app, source.standing)  # type: ignore[method-assign]  # FastAPI's own way to extend it

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))

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
            error.status_code, f"{request.method} {request.url.path}"[:200], error.detail, f"There are {paths}.", "See /docs."
        ).response()

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        _log.error("unforeseen", exc_info=error)
        fact = f"{type(error).__name__}; the log has the details"
        return ProblemError(500, "service", fact, "This should not happen.", "Tell the operator the time of the request.").response()


async def _standing(source: ReleaseSource) -> Standing:
    if (standing := await source.refresh()) is None:
        raise ProblemError(
            503, "service", "; ".join(source.faults), "A verified release must be loaded first.", "Ask /api/v1/health/ready, then again."
        )
    return standing


async def _body(request: Request) -> bytes:
    body, n_bytes = bytearray(), 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        if n_bytes <= MAX_BODY_BYTES:
            body += chunk
        elif n_bytes > DRAINED_BYTES:
            break
    if n_bytes > MAX_BODY_BYTES:
        raise ProblemError(
            413, "body", f"more than {MAX_BODY_BYTES:,} bytes", "A body is capped.", "Send fewer rows; the features look back on the last ones only."
        )
    return bytes(body)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """*schema* with its `$defs` put where they are referred to, so that it can stand anywhere in a document."""
    defs = schema.pop("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return walk(defs[node["$ref"].rsplit("/", 1)[1]])
            return {key: walk(value) for key, value in node.items()}
        return [walk(value) for value in node] if isinstance(node, list) else node

    found: dict[str, Any] = walk(schema)
    return found


class _Measured:
    """Counts requests and their time by route. Plain ASGI: FastAPI's own middleware class halves the throughput."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
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
