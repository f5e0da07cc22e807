"""/api/v1/analyze: figures of the rows that the service holds, or of posted ones."""

from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request, Response

from deployments.forecaster import analysis_shapes, shapes
from deployments.forecaster.analysis import (
    MAX_VALUES,
    AnalyzeRequest,
    CorrelationRequest,
    DistributionRequest,
    correlate_rows,
    count_rows,
    describe_rows,
)
from deployments.forecaster.bodies import describe_body, read_request_bytes
from deployments.forecaster.loaded import LoadedRelease
from deployments.forecaster.problems import JsonObject
from deployments.forecaster.routes.shared import (
    ServiceParts,
    build_json_response,
    get_loaded_release,
    run_large_request,
)

_PROBLEMS: dict[int | str, JsonObject] = {
    404: {"model": shapes.Problem, "description": "A series is unknown; close matches are named."},
    422: {
        "model": shapes.Problem,
        "description": f"The request is not valid, or it asks for more than {MAX_VALUES:,} values.",
    },
}


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the routes to *app*."""

    @app.post(
        "/api/v1/analyze/describe",
        responses={200: {"model": analysis_shapes.Description}, **_PROBLEMS},
        openapi_extra=describe_body(AnalyzeRequest),
    )
    async def describe(request: Request) -> Response:
        """Counts, missing steps, moments, quantiles and autocorrelation of each column."""
        return await _respond(parts, request, describe_rows)

    @app.post(
        "/api/v1/analyze/correlation",
        responses={200: {"model": analysis_shapes.Correlation}, **_PROBLEMS},
        openapi_extra=describe_body(CorrelationRequest),
    )
    async def correlation(request: Request) -> Response:
        """Pearson and Spearman correlations between the columns, and with the target before."""
        return await _respond(parts, request, correlate_rows)

    @app.post(
        "/api/v1/analyze/distribution",
        responses={200: {"model": analysis_shapes.Distribution}, **_PROBLEMS},
        openapi_extra=describe_body(DistributionRequest),
    )
    async def distribution(request: Request) -> Response:
        """A histogram and quantiles of each column."""
        return await _respond(parts, request, count_rows)


async def _respond(
    parts: ServiceParts, request: Request, analyze: Callable[[LoadedRelease, bytes], Mapping[str, object]]
) -> Response:
    body, loaded = await read_request_bytes(request), await get_loaded_release(parts)
    return await run_large_request(parts, lambda: build_json_response(analyze(loaded, body)))
