"""/api/v1/graphql: models, series, predictions and alarms in one query, read only."""

from typing import NotRequired

from fastapi import FastAPI, Request, Response
from pydantic import ConfigDict, ValidationError, with_config
from typing_extensions import TypedDict

from deployments.forecaster import shapes
from deployments.forecaster.bodies import describe_body, read_request_bytes
from deployments.forecaster.graphql_limits import MAX_COST, MAX_DEPTH
from deployments.forecaster.graphql_schema import GraphqlRequest, answer_query
from deployments.forecaster.loaded import LoadedRelease
from deployments.forecaster.problems import JsonObject, ProblemError
from deployments.forecaster.request import build_invalid_error, filter_unknown_keys, parse_json
from deployments.forecaster.routes.shared import (
    ServiceParts,
    build_json_response,
    get_loaded_release,
    run_large_request,
)
from tasks.edges.api_keys import Principal

_PROBLEMS: dict[int | str, JsonObject] = {
    422: {"model": shapes.Problem, "description": "The body is JSON and no request."},
}


@with_config(ConfigDict(extra="forbid"))
class GraphqlAnswer(TypedDict):
    """data: what was asked for. errors: what of it failed, or why nothing was computed."""

    data: NotRequired[dict[str, object] | None]
    errors: NotRequired[list[dict[str, object]]]


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the route to *app*."""

    @app.post(
        "/api/v1/graphql",
        responses={200: {"model": GraphqlAnswer}, **_PROBLEMS},
        openapi_extra=describe_body(GraphqlRequest),
        description=(
            "Models, series, predictions and alarms, read only; an introspection query gets the schema."
            f" A query has at most depth {MAX_DEPTH} and {MAX_COST:,} fields."
        ),
    )
    async def graphql(request: Request) -> Response:
        body = await read_request_bytes(request)
        try:
            loaded = await get_loaded_release(parts)
        except ProblemError as error:  # errors have GraphQL's form
            return build_json_response({"errors": [{"message": error.body["detail"]}]})
        return build_json_response(
            await run_large_request(parts, _answer, loaded, request.state.principal, body)
        )


def _answer(loaded: LoadedRelease, principal: Principal, body: bytes) -> dict[str, object]:
    content = parse_json(body, '{"query": "{ champion { version } }"}')
    try:
        known = GraphqlRequest.model_fields.keys()
        request = GraphqlRequest.model_validate(filter_unknown_keys(content, known))
    except ValidationError as error:
        raise build_invalid_error(error, GraphqlRequest, "query") from error
    return answer_query(loaded, principal, request)
