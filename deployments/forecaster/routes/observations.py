"""/api/v1/observations: rows of consumers, on disk before they are answered."""

from datetime import UTC, datetime

import polars as pl
from fastapi import FastAPI, Request, Response

from deployments.forecaster import shapes
from deployments.forecaster.bodies import describe_body, read_request_bytes
from deployments.forecaster.loaded import LoadedRelease, list_value_columns
from deployments.forecaster.observations import (
    Observations,
    ObservationsBody,
    add_observations,
    parse_observations,
    read_contract,
)
from deployments.forecaster.problems import JsonObject, ProblemError
from deployments.forecaster.routes.shared import (
    ServiceParts,
    build_json_response,
    get_loaded_release,
    run_large_request,
)
from tasks.core.errors import JournalError

_RESPONSES: dict[int | str, JsonObject] = {
    200: {"model": Observations},
    422: {"model": shapes.Problem, "description": "No rows of the dataset: a column is missing or unknown."},
}


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the route to *app*."""

    @app.post("/api/v1/observations", responses=_RESPONSES, openapi_extra=describe_body(ObservationsBody))
    async def observe(request: Request) -> Response:
        """Add rows to the dataset: actuals, or corrections of what is known.

        Each row gets a verdict by the dataset's contract. The same rows again change nothing. Under
        `tidemill up` the next forecast is made from them within seconds.
        """
        body = await read_request_bytes(request)
        loaded = await get_loaded_release(parts)
        return build_json_response(await run_large_request(parts, _observe, loaded, body))


def _observe(loaded: LoadedRelease, body: bytes) -> Observations:
    now = datetime.now(UTC)
    sent = parse_observations(loaded, body, now)
    contract = read_contract(loaded.manifest.dataset, list_value_columns(sent))
    try:
        return add_observations(loaded, contract, sent, now)
    except (OSError, JournalError, pl.exceptions.PolarsError) as error:
        rule = "A row is on disk before it is answered."
        raise ProblemError(503, "observations", str(error), rule, "Report it to the operator.") from error
