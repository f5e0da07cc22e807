"""/api/v1/metrics: for Prometheus."""

from fastapi import FastAPI, Response

from deployments.forecaster.metrics import UNIX_TYPE
from deployments.forecaster.routes.shared import ServiceParts


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the route to *app*."""

    @app.get("/api/v1/metrics", response_class=Response, responses={200: {"content": {UNIX_TYPE: {}}}})
    async def scrape() -> Response:
        """Metrics for Prometheus."""
        loaded = await parts.source.refresh()
        parts.metrics.update(
            loaded, parts.source.n_swaps, parts.source.targets, faulty=bool(parts.source.faults)
        )
        return Response(parts.metrics.render(), media_type=UNIX_TYPE)
