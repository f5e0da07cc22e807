"""What the routes share: the parts of the service, and how a response is built."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from fastapi import Response

from deployments.forecaster import shapes
from deployments.forecaster.loaded import LoadedRelease
from deployments.forecaster.metrics import ServiceMetrics
from deployments.forecaster.pages import JsonObject
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.recorder import ResponseRecorder
from deployments.forecaster.source import ReleaseSource

NOT_READY: JsonObject = {
    "model": shapes.Problem,
    "description": "No release is loaded, or the answer cannot be recorded.",
}


class ServiceParts(NamedTuple):
    """The release and rows in use, the store of answers, and the service's metrics."""

    source: ReleaseSource
    recorder: ResponseRecorder
    metrics: ServiceMetrics


async def get_loaded_release(parts: ServiceParts) -> LoadedRelease:
    """The release in use. Raises ProblemError 503 when none is loaded."""
    if (loaded := await parts.source.refresh()) is None:
        raise ProblemError(
            503,
            "service",
            "; ".join(parts.source.faults),
            "A verified release must be loaded first.",
            "See /api/v1/health/ready, then retry.",
        )
    return loaded


def build_json_response(content: Mapping[str, object], status: int = 200) -> Response:
    """*content* as JSON; an infinite number or NaN is an error."""
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")
