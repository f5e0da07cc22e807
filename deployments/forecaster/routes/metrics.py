"""/api/v1/metrics: for Prometheus."""

from fastapi import FastAPI, Request, Response

from deployments.forecaster.metrics import UNIX_TYPE, render_by_dataset
from deployments.forecaster.routes.shared import ServiceParts


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the route to *app*."""

    @app.get("/api/v1/metrics", response_class=Response, responses={200: {"content": {UNIX_TYPE: {}}}})
    async def scrape(request: Request) -> Response:
        """Metrics for Prometheus; of several datasets those that the caller sees, with a label."""
        sees = request.state.principal.sees
        seen = {name: found for name, found in parts.by_dataset.items() if sees(name)}
        for found in seen.values() or [parts]:
            loaded, source = await found.source.refresh(), found.source
            found.metrics.update(loaded, source.n_swaps, source.targets, faulty=bool(source.faults))
        if seen:
            content = render_by_dataset({name: found.metrics for name, found in seen.items()})
        else:
            content = parts.metrics.render()
        return Response(content, media_type=UNIX_TYPE)
