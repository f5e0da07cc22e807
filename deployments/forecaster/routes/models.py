"""/api/v1/models: the release that answers, and those of the registry."""

import asyncio

from fastapi import FastAPI, Request, Response

from deployments.forecaster import shapes
from deployments.forecaster.bodies import describe_body, read_request_bytes
from deployments.forecaster.champion_changes import (
    DEPLOY_EXAMPLES,
    ROLLBACK_EXAMPLES,
    ChampionChange,
    DeployBody,
    RollbackBody,
    change_champion,
    parse_change,
)
from deployments.forecaster.problems import JsonObject
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
_CHANGED: dict[int | str, JsonObject] = {
    200: {"model": ChampionChange},
    404: {"model": shapes.Problem, "description": "There is no such release, or it is not kept."},
    409: {"model": shapes.Problem, "description": "It does not verify, or no champion is served here."},
}


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

    _add_change_routes(app, parts)


def _add_change_routes(app: FastAPI, parts: ServiceParts) -> None:
    @app.post(
        "/api/v1/models/deploy",
        responses=_CHANGED,
        openapi_extra=describe_body(DeployBody, DEPLOY_EXAMPLES),
    )
    async def deploy(request: Request) -> Response:
        """Make a kept release champion, for example one that was taken back.

        Its bytes are verified first; the service answers from it within a second. The same request
        again changes nothing.
        """
        return await _change(request, parse_change(await read_request_bytes(request), DeployBody))

    @app.post(
        "/api/v1/models/rollback",
        responses=_CHANGED,
        openapi_extra=describe_body(RollbackBody, ROLLBACK_EXAMPLES),
    )
    async def rollback(request: Request) -> Response:
        """Take the champion back to a release before it.

        Its bytes are verified first; the service answers from it within a second. The gate does not
        promote what was taken back again on the same evidence. The same request again changes
        nothing.
        """
        return await _change(request, parse_change(await read_request_bytes(request), RollbackBody))

    async def _change(request: Request, asked: DeployBody | RollbackBody) -> Response:
        loaded, by = await get_loaded_release(parts), request.state.principal.name
        return build_json_response(await asyncio.to_thread(change_champion, loaded, asked, by))
