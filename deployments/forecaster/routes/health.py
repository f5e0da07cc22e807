"""/api/v1/health: whether the process runs, and whether it can answer."""

from fastapi import FastAPI, Response

from deployments.forecaster import shapes
from deployments.forecaster.recorder import ResponseRecorder
from deployments.forecaster.routes.shared import ServiceParts, build_json_response
from deployments.forecaster.source import ReleaseSource, describe_source


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the routes to *app*."""

    @app.get("/api/v1/health/live", responses={200: {"model": shapes.Live}})
    async def live() -> Response:
        """The process answers."""
        return build_json_response({"live": True})

    @app.get(
        "/api/v1/health/ready",
        responses={
            200: {"model": shapes.Ready},
            503: {"model": shapes.Ready, "description": "Not ready; the faults give the reasons."},
        },
    )
    async def ready() -> Response:
        """A verified release is loaded and answers can be recorded."""
        readiness = await describe_readiness(parts.source, parts.recorder)
        return build_json_response(readiness, 200 if readiness["ready"] else 503)


async def describe_readiness(source: ReleaseSource, recorder: ResponseRecorder) -> shapes.Ready:
    """Which release is loaded, and whether answers can be recorded."""
    await source.refresh()
    ready, fault = describe_source(source), await recorder.find_fault()
    return ready if fault is None else {**ready, "ready": False, "faults": [*ready["faults"], fault]}
