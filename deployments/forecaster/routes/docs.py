"""/docs and /openapi.json: the routes, with examples from the loaded release."""

from functools import lru_cache, partial

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse

from deployments.forecaster.pages import build_openapi, render_document
from deployments.forecaster.routes.shared import ServiceParts


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the routes to *app*."""
    # Cached: it takes 50 ms, and each request for an unknown path uses it
    build_document = lru_cache(maxsize=1)(partial(build_openapi, app))
    # As FastAPI's documentation replaces it
    app.openapi = lambda: build_document(parts.source.loaded)  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_document(app.openapi()))

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")
