"""/api/v1/predictions/{id}: an answer as it was recorded, and computed again."""

from fastapi import FastAPI, Request, Response

from deployments.forecaster import shapes
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.recompute import describe_answer
from deployments.forecaster.routes.shared import (
    BUSY,
    NOT_READY,
    ServiceParts,
    build_json_response,
    get_loaded_release,
    run_large_request,
)


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the route to *app*."""

    @app.get(
        "/api/v1/predictions/{id}",
        responses={
            200: {"model": shapes.RecordedPrediction},
            404: {
                "model": shapes.Problem,
                "description": "There is no such answer, or it is another tenant's.",
            },
            429: BUSY,
            503: NOT_READY,
        },
    )
    async def prediction(id: str, request: Request) -> Response:  # noqa: A002  (its name in the path)
        """An answer as it was recorded, and computed again from the same release and rows.

        A caller sees its own tenant's answers; a key with the scope `operate` or `admin` sees all.
        """
        loaded = await get_loaded_release(parts)
        principal = request.state.principal
        tenant = None if principal.may("operate") else principal.tenant
        if (described := await run_large_request(parts, describe_answer, loaded, id, tenant)) is None:
            raise ProblemError(
                404,
                "prediction_id",
                f"no answer {id[:60]!r}",
                "An answer has a prediction_id, and a key sees its own tenant's.",
                "Take the prediction_id of an answer.",
            )
        return build_json_response(described)
