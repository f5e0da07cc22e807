"""/api/v1/models: the releases in the service's slots."""

from fastapi import FastAPI, Response

from deployments.forecaster import shapes
from deployments.forecaster.response import describe_champion
from deployments.forecaster.routes.shared import (
    NOT_READY,
    ServiceParts,
    build_json_response,
    get_loaded_release,
)


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the route to *app*."""

    @app.get("/api/v1/models", responses={200: {"model": shapes.Models}, 503: NOT_READY})
    async def models() -> Response:
        """The release that answers.

        Its name, version, digest, members and the figures of its evaluation.
        """
        return build_json_response({"champion": describe_champion(await get_loaded_release(parts))})
