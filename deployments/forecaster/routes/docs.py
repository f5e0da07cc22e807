"""/docs, /redoc and /openapi.json: the routes, with examples from the loaded release.

The pages are Swagger UI and ReDoc, from files that travel with the service (assets/assets.json has
their packages). A browser may load nothing from another host, and run no other script.
"""

from functools import lru_cache, partial
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from deployments.forecaster.pages import build_openapi
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.routes.shared import ServiceParts

ASSETS = Path(__file__).parents[1] / "assets"
KINDS = {".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    # Both libraries make style elements; scripts are files of ours alone
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
SWAGGER = ("page.css", "swagger-ui.css", "swagger-ui-bundle.js", "swagger-page.js")
REDOC = ("page.css", "redoc.standalone.js", "redoc-page.js")


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the routes to *app*."""
    # Cached: it takes 50 ms, and each request for an unknown path uses it
    build_document = lru_cache(maxsize=1)(partial(build_openapi, app))
    # As FastAPI's documentation replaces it
    app.openapi = lambda: build_document(  # type: ignore[method-assign]
        parts.source.loaded, parts.source.dataset if parts.by_dataset else None
    )
    contents = {name: (ASSETS / name).read_bytes() for name in {*SWAGGER, *REDOC}}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return _build_page(app.title, SWAGGER)

    @app.get("/redoc", include_in_schema=False)
    async def redoc() -> HTMLResponse:
        return _build_page(app.title, REDOC)

    @app.get("/docs/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in contents:
            rule = f"There are {', '.join(sorted(contents))}."
            raise ProblemError(404, "asset", f"no {name[:60]!r}", rule, "See /docs.")
        headers = {**HEADERS, "cache-control": "private, max-age=86400"}
        return Response(contents[name], headers=headers, media_type=KINDS[Path(name).suffix])

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")


def _build_page(title: str, names: tuple[str, ...]) -> HTMLResponse:
    """Addresses are relative, so that a proxy may serve it below a path."""
    styles = [f'<link rel="stylesheet" href="docs/assets/{name}">' for name in names if name.endswith("css")]
    scripts = [f'<script src="docs/assets/{name}"></script>' for name in names if name.endswith("js")]
    head = f'<meta charset="utf-8"><title>{title}</title>{"".join(styles)}'
    page = f'<!doctype html><html lang="en"><head>{head}</head><body><div id="page"></div>{"".join(scripts)}'
    return HTMLResponse(f"{page}</body></html>", headers=HEADERS)
