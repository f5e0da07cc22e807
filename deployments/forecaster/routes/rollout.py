"""/api/v1/rollout: hold the rollout of a challenger, go on with it, or take it back."""

import asyncio
from typing import Annotated

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.forecaster import shapes
from deployments.forecaster.bodies import describe_body, read_request_bytes
from deployments.forecaster.problems import JsonObject, ProblemError
from deployments.forecaster.request import build_invalid_error, filter_unknown_keys, parse_json
from deployments.forecaster.routes.shared import ServiceParts, build_json_response, get_loaded_release
from deployments.forecaster.slots import describe_rollout
from tasks.core.errors import RolloutError
from tasks.edges.rollouts import Command, apply_rollout_command

_RESPONSES: dict[int | str, JsonObject] = {
    200: {"model": shapes.RolloutState},
    409: {"model": shapes.Problem, "description": "No rollout is active."},
}


class RolloutRequest(BaseModel):
    """The body of each: why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Annotated[str, Field(max_length=300, description="Why; it is in the journal.")] = ""


_BODY = describe_body(RolloutRequest, {"with a reason": {"reason": "the meters are being replaced"}})


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the routes to *app*."""

    @app.post("/api/v1/rollout/pause", responses=_RESPONSES, openapi_extra=_BODY)
    async def pause(request: Request) -> Response:
        """Hold the weight of the challenger; if it must, it still goes back."""
        return await _apply(parts, request, "pause")

    @app.post("/api/v1/rollout/resume", responses=_RESPONSES, openapi_extra=_BODY)
    async def resume(request: Request) -> Response:
        """Go on with a rollout that is paused."""
        return await _apply(parts, request, "resume")

    @app.post("/api/v1/rollout/abort", responses=_RESPONSES, openapi_extra=_BODY)
    async def abort(request: Request) -> Response:
        """Take the challenger back: the champion answers for all series again."""
        return await _apply(parts, request, "abort")


async def _apply(parts: ServiceParts, request: Request, command: Command) -> Response:
    content = parse_json(await read_request_bytes(request), '{"reason": "..."}')
    try:
        body = RolloutRequest.model_validate(filter_unknown_keys(content, RolloutRequest.model_fields.keys()))
    except ValidationError as error:
        raise build_invalid_error(error, RolloutRequest, "none") from error
    dataset = (await get_loaded_release(parts)).manifest.dataset
    by = request.state.principal.name
    try:
        rollout = await asyncio.to_thread(apply_rollout_command, dataset, command, by, body.reason)
    except RolloutError as error:
        rule = "Only a rollout that is active can be moved."
        raise ProblemError(409, "rollout", str(error), rule, "See /api/v1/models.") from error
    return build_json_response(describe_rollout(rollout))
