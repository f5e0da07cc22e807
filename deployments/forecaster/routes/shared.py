"""What the routes share: the parts of the service, and how a response is built."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from fastapi import Request, Response

from deployments.forecaster import shapes
from deployments.forecaster.loaded import LoadedRelease
from deployments.forecaster.metrics import ServiceMetrics
from deployments.forecaster.pages import JsonObject
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.recorder import ResponseRecorder
from deployments.forecaster.request import ForecastRequest
from deployments.forecaster.source import ReleaseSource
from deployments.forecaster.worker import BoundedWorker, WorkerBusyError
from tasks.edges.api_keys import Principal
from tasks.edges.audit import AuditEntry
from tasks.edges.served import StoredAnswer

NOT_READY: JsonObject = {
    "model": shapes.Problem,
    "description": "No release is loaded, or the answer cannot be recorded.",
}


N_LARGE_WAITING = 7  # some 5 s; BentoML gives up after 10
BUSY: JsonObject = {
    "model": shapes.Problem,
    "description": f"{N_LARGE_WAITING + 1} large requests are worked on or wait.",
}
T = TypeVar("T")


class ServiceParts(NamedTuple):
    """The release and rows in use, the store of answers, and the service's metrics.

    large: runs what a request can make slow.
    """

    source: ReleaseSource
    recorder: ResponseRecorder
    metrics: ServiceMetrics
    large: BoundedWorker


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


async def run_large_request(parts: ServiceParts, work: Callable[..., T], *arguments: Any) -> T:
    """What *work* returns, run by the worker. Raises ProblemError 429 when its queue is full."""
    try:
        return await parts.large.run(work, *arguments)
    except WorkerBusyError as error:
        rule = "Large bodies, own histories, a new as_of and recorded answers are worked on one by one."
        raise ProblemError(429, "service", str(error), rule, "Retry in a second.") from error


async def record_answer(
    parts: ServiceParts,
    request: Request,
    loaded: LoadedRelease,
    asked: ForecastRequest,
    answer: StoredAnswer,
    received: bytes,
    sent: bytes,
    began_s: float,
) -> None:
    """Write *answer* and its row of the audit to disk.

    began_s: when the request came, of time.perf_counter.
    Raises ProblemError 503 when that fails.
    """
    principal: Principal = request.state.principal
    history = None if answer.history is None else answer.history.digest
    entry = AuditEntry(
        principal.name,
        principal.tenant,
        f"{request.method} {request.scope['route'].path}",
        json.dumps({"series_id": asked.series, "as_of": asked.as_of, "history": history}),
        loaded.manifest.digest,
        loaded.choice.version,
        loaded.manifest.data_version,
        loaded.code_commit,
        None if asked.history is not None else loaded.rows_version,
        int(1_000_000 * (time.perf_counter() - began_s)),
        received,
        sent,
    )
    await parts.recorder.write_answer(answer, entry)


def build_json_response(content: Mapping[str, object], status: int = 200) -> Response:
    """*content* as JSON; an infinite number or NaN is an error."""
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")
