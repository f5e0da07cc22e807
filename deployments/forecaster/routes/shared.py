"""What the routes share: the parts of the service, and how a response is built."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from fastapi import Request, Response

from deployments.forecaster.loaded import LoadedRelease
from deployments.forecaster.metrics import ServiceMetrics
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.recorder import ResponseRecorder
from deployments.forecaster.request import SeriesRequest
from deployments.forecaster.source import ReleaseSource
from deployments.forecaster.versions import VersionCache
from deployments.forecaster.worker import BoundedWorker, WorkerBusyError
from tasks.edges.api_keys import Principal
from tasks.edges.audit import AuditEntry
from tasks.edges.served import StoredAnswer

RETRY_SOON = {"retry-after": "1"}
T = TypeVar("T")


class ServiceParts(NamedTuple):
    """Of one dataset: release and rows in use, store of answers, metrics.

    large: runs what a request can make slow, of all datasets. versions: for work that it runs.
    by_dataset: the parts of each of several datasets; empty where there is one.
    """

    source: ReleaseSource
    recorder: ResponseRecorder
    metrics: ServiceMetrics
    large: BoundedWorker
    versions: VersionCache
    by_dataset: Mapping[str, "ServiceParts"]


async def get_loaded_release(parts: ServiceParts, *, waits: bool = True) -> LoadedRelease:
    """The release in use. Raises ProblemError 503 when none is loaded. waits: for new rows."""
    if (loaded := await parts.source.refresh(waits=waits)) is None:
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
        rule = "What can take long (see docs/reference/http.md) is worked on one by one."
        raise ProblemError(429, "service", str(error), rule, "Retry in a second.", RETRY_SOON) from error


class Caller(NamedTuple):
    """Of a request, what the audit of its answers has.

    began_s: when it came, of time.perf_counter.
    """

    principal: Principal
    route: str
    loaded: LoadedRelease
    began_s: float


def get_caller(request: Request, loaded: LoadedRelease, began_s: float) -> Caller:
    """Who sent *request*, and to which route."""
    route = f"{request.method} {request.scope['route'].path}"
    return Caller(request.state.principal, route, loaded, began_s)


def add_entry(
    caller: Caller,
    asked: SeriesRequest,
    series: Sequence[str],
    answer: StoredAnswer,
    received: bytes,
    sent: bytes,
) -> StoredAnswer:
    """*answer* with its row of the audit.

    received, sent: the bytes whose digests are kept; of a batch, those of the item.
    """
    history, loaded = None if answer.history is None else answer.history.digest, caller.loaded
    content = {
        "series_id": series,
        "as_of": asked.as_of,
        "horizon_steps": asked.horizon_steps,
        "levels": asked.levels,
        "history": history,
    }
    entry = AuditEntry(
        caller.principal.name,
        caller.principal.tenant,
        caller.route,
        json.dumps(content),
        loaded.manifest.digest,
        loaded.choice.version,
        loaded.manifest.data_version,
        loaded.code_commit,
        None if history is not None else loaded.rows_version,
        int(1_000_000 * (time.perf_counter() - caller.began_s)),
        received,
        sent,
    )
    return answer._replace(entry=entry)


def build_json_response(content: Mapping[str, object], status: int = 200) -> Response:
    """*content* as JSON; an infinite number or NaN is an error."""
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")
