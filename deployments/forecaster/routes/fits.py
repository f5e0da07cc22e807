"""/api/v1/forecast and /api/v1/ml/automl: models of the dataset fitted on request, as jobs."""

from functools import partial

from fastapi import FastAPI, Request, Response

from deployments.forecaster.bodies import describe_body
from deployments.forecaster.job_requests import AutomlFit, ForecastFit, parse_job
from deployments.forecaster.routes.jobs import ACCEPTED, IdempotencyKey, accept_job
from deployments.forecaster.routes.shared import ServiceParts


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the routes to *app*."""

    @app.post(
        "/api/v1/forecast/{model}",
        status_code=202,
        responses=ACCEPTED,
        openapi_extra=describe_body(ForecastFit, {"the dataset's rows": {}}),
    )
    async def forecast(model: str, request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Fit one model of the dataset and forecast, as a job.

        On the dataset's rows or on those of the request. It changes no release.
        """
        parse = partial(parse_job, given={"kind": "forecast", "model": model})
        return await accept_job(parts, request, parse, idempotency_key)

    @app.post(
        "/api/v1/ml/automl",
        status_code=202,
        responses=ACCEPTED,
        openapi_extra=describe_body(AutomlFit, {"all models": {}}),
    )
    async def automl(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Walk models of the dataset forward, rank them, and forecast with the best, as a job.

        On the dataset's rows or on those of the request. It changes no release.
        """
        return await accept_job(parts, request, partial(parse_job, given={"kind": "automl"}), idempotency_key)
