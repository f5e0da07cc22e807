"""/api/v1/predictions/{id}: an answer as it was recorded, and computed again."""

from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request, Response

from deployments.forecaster import shapes
from deployments.forecaster.loaded import LoadedRelease
from deployments.forecaster.problems import JsonObject, ProblemError
from deployments.forecaster.recompute import describe_answer, explain_answer
from deployments.forecaster.routes.shared import (
    ServiceParts,
    build_json_response,
    get_loaded_release,
    run_large_request,
)

_UNKNOWN: JsonObject = {
    "model": shapes.Problem,
    "description": "There is no such answer, or it is another tenant's.",
}


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the route to *app*."""

    @app.get(
        "/api/v1/predictions/{id}",
        responses={
            200: {"model": shapes.RecordedPrediction},
            404: _UNKNOWN,
        },
    )
    async def prediction(id: str, request: Request) -> Response:  # noqa: A002  (its name in the path)
        """An answer as it was recorded, and computed again from the same release and rows.

        A caller sees its own tenant's answers; a key with the scope `operate` or `admin` sees all.
        """
        return await _respond(parts, describe_answer, id, request)

    @app.get(
        "/api/v1/predictions/{id}/explain",
        responses={
            200: {"model": shapes.RecordedExplanation},
            404: _UNKNOWN,
            410: {
                "model": shapes.Problem,
                "description": "The release, the rows or the steps of the answer are not kept any more.",
            },
            422: {"model": shapes.Problem, "description": "It is more work than is done for a request."},
        },
    )
    async def explanation(id: str, request: Request) -> Response:  # noqa: A002  (its name in the path)
        """What each feature contributed to an answer, from the release and rows that answered.

        The parts of a step add up to its y_hat; twice asked, they are the same.
        """
        return await _respond(parts, explain_answer, id, request)


async def _respond(
    parts: ServiceParts,
    describe: Callable[[LoadedRelease, str, str | None], Mapping[str, object] | None],
    prediction_id: str,
    request: Request,
) -> Response:
    loaded, principal = await get_loaded_release(parts), request.state.principal
    tenant = None if principal.may("operate") else principal.tenant
    if (described := await run_large_request(parts, describe, loaded, prediction_id, tenant)) is None:
        raise ProblemError(
            404,
            "prediction_id",
            f"no answer {prediction_id[:60]!r}",
            "An answer has a prediction_id, and a key sees its own tenant's.",
            "Take the prediction_id of an answer.",
        )
    return build_json_response(described)
