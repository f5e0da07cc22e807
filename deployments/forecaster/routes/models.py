"""/api/v1/models: the release that answers, and those of the registry."""

import asyncio
from typing import NoReturn

from fastapi import FastAPI, Response

from deployments.forecaster import shapes
from deployments.forecaster.problems import NOT_OFFERED, JsonObject
from deployments.forecaster.registered import describe_release, read_monitored
from deployments.forecaster.response import describe_champion
from deployments.forecaster.routes.shared import (
    ServiceParts,
    build_json_response,
    get_loaded_release,
)

_UNKNOWN: JsonObject = {
    "model": shapes.Problem,
    "description": "There is no such version, or no report of it.",
}
_OPERATE: JsonObject = {"status_code": 501, "response_model": shapes.Problem}


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the routes to *app*."""

    @app.get("/api/v1/models", responses={200: {"model": shapes.Models}})
    async def models() -> Response:
        """The release that answers, and one that takes over from it by steps.

        Its name, version, digest, members and the figures of its evaluation.
        """
        champion = describe_champion(await get_loaded_release(parts))
        return build_json_response({"champion": champion, "rollout": parts.source.slots.describe()})

    @app.get(
        "/api/v1/models/{version}",
        responses={200: {"model": shapes.ReleaseDetails}, 404: _UNKNOWN},
    )
    async def model(version: str) -> Response:
        """A release that is or was champion: card, metrics, provenance, gate and lineage."""
        dataset = (await get_loaded_release(parts)).manifest.dataset
        return build_json_response(await asyncio.to_thread(describe_release, dataset, version))

    @app.get(
        "/api/v1/models/{version}/monitoring",
        responses={200: {"model": dict[str, object]}, 404: _UNKNOWN},
    )
    async def monitoring(version: str) -> Response:
        """The monitor's last report of a release.

        How right its forecasts were, and drift of its inputs.
        """
        dataset = (await get_loaded_release(parts)).manifest.dataset
        content = await asyncio.to_thread(read_monitored, dataset, version)
        return Response(content, media_type="application/json")

    @app.post("/api/v1/models/deploy", **_OPERATE)
    @app.post("/api/v1/models/rollback", **_OPERATE)
    async def operate() -> NoReturn:
        """Not offered yet: the gate of the checkout alone changes which release answers."""
        raise NOT_OFFERED
