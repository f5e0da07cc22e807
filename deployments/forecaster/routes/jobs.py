"""/api/v1/jobs: work that takes longer than a request, done by the job loop of `tidemill up`."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import FileResponse

from deployments.forecaster import shapes
from deployments.forecaster.bodies import describe_body, read_request_bytes
from deployments.forecaster.job_requests import SCOPE_OF_KIND, JobBody, JobRequest, check_job, parse_job
from deployments.forecaster.job_views import JOBS, JobList, JobView, describe_job
from deployments.forecaster.loaded import LoadedRelease
from deployments.forecaster.problems import JsonObject, ProblemError
from deployments.forecaster.response import build_prediction_id
from deployments.forecaster.routes.shared import (
    ServiceParts,
    build_json_response,
    get_loaded_release,
    run_large_request,
)
from tasks.edges.api_keys import Principal, find_webhook_secret
from tasks.edges.jobs import (
    Job,
    JobKeyError,
    JobQueueError,
    JobStore,
    JobStoreError,
    get_result_path,
    open_jobs,
)
from tasks.edges.jobs import (
    get_job as get_stored_job,
)
from tasks.edges.settings import read_settings

T = TypeVar("T")
Responses = dict[int | str, JsonObject]
PARQUET = "application/vnd.apache.parquet"
IdempotencyKey = Annotated[str | None, Header(max_length=200)]
_MINE: JsonObject = {
    "model": shapes.Problem,
    "description": "There is no such job, or it is another tenant's, or it is not kept any more.",
}
ACCEPTED: Responses = {
    202: {
        "model": JobView,
        "description": "The job is in the queue; Location has its address.",
    },
    403: {"model": shapes.Problem, "description": "A job of this kind needs another scope."},
    404: {"model": shapes.Problem, "description": "A series is unknown; close matches are named."},
    422: {"model": shapes.Problem, "description": "No valid job, or its Idempotency-Key is another job's."},
    429: {"model": shapes.Problem, "description": "The tenant has as many jobs as it may have."},
    503: {"model": shapes.Problem, "description": "No job loop runs, or no release is loaded."},
}
_ONE: Responses = {
    200: {"model": JobView},
    404: _MINE,
}
_LIST: Responses = {
    200: {"model": JobList},
}
_RESULT: Responses = {
    200: {
        "description": "Figures of the whole, and rows; as parquet the rows alone.",
        "content": {"application/json": {}, PARQUET: {}},
    },
    404: _MINE,
    409: {"model": shapes.Problem, "description": "The job is not done."},
}
REQUEST_EXAMPLES = {
    "a backtest": {"kind": "backtest"},
    "a batch": {"kind": "batch", "as_of": ["2021-01-01T00:00:00Z", "2021-01-02T00:00:00Z"]},
}


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the routes to *app*."""

    @app.post(
        "/api/v1/jobs",
        status_code=202,
        responses=ACCEPTED,
        openapi_extra=describe_body(JobBody, REQUEST_EXAMPLES),
    )
    async def add_job(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        """Start a job: a batch of forecasts as of many times, a backtest, a fit or a training.

        The same Idempotency-Key with the same body is the same job, however often it is sent.
        """
        return await accept_job(parts, request, parse_job, idempotency_key)

    @app.get("/api/v1/jobs", responses=_LIST)
    async def list_jobs(request: Request) -> Response:
        """The jobs of the caller's tenant, the newest 1,000."""
        dataset = (await get_loaded_release(parts)).manifest.dataset
        tenant = request.state.principal.tenant

        def find(store: JobStore) -> list[JobView]:
            return _describe_jobs(store, store.list_jobs(tenant=tenant, dataset=dataset))

        return build_json_response({"jobs": await _use_store(find)})

    @app.get("/api/v1/jobs/{id}", responses=_ONE)
    async def get_job(id: str, request: Request) -> Response:  # noqa: A002  (its name in the path)
        """A job: its state and progress, and why it failed."""
        job = await _get_job(parts, request.state.principal, id)
        (view,) = await _use_store(lambda store: _describe_jobs(store, [job]))
        return build_json_response(view)

    @app.get("/api/v1/jobs/{id}/result", responses=_RESULT)
    async def get_result(
        id: str,  # noqa: A002
        request: Request,
        format: Literal["json", "parquet"] | None = None,  # noqa: A002  (its name in the query)
    ) -> Response:
        """The result of a job that is done, as JSON, or as parquet by `format` or Accept."""
        return _send_result(
            await _get_job(parts, request.state.principal, id), request.headers.get("accept", ""), format
        )

    @app.delete("/api/v1/jobs/{id}", responses=_ONE)
    async def cancel_job(id: str, request: Request) -> Response:  # noqa: A002
        """Cancel a job that waits or runs; one that has ended stays as it is."""
        job = await _get_job(parts, request.state.principal, id)

        def cancel(store: JobStore) -> list[JobView]:
            store.cancel(job.id)
            return _describe_jobs(store, [get_stored_job(store, job.id)])

        (view,) = await _use_store(cancel)
        return build_json_response(view)


def _send_result(job: Job, accept: str, wanted: Literal["json", "parquet"] | None) -> Response:
    ending = wanted or ("parquet" if PARQUET in accept else "json")
    path = get_result_path(job.id, ending)
    if job.state != "done" or not path.exists():
        raise ProblemError(
            409,
            "job",
            f"it is {job.state}" if job.state != "done" else "its result is deleted",
            "A job that is done has a result.",
            f"See {JOBS}/{job.id}.",
        )
    media, name = ("application/json", None) if ending == "json" else (PARQUET, f"{job.id}.parquet")
    return FileResponse(path, media_type=media, filename=name)


async def accept_job(
    parts: ServiceParts, request: Request, parse: Callable[[bytes], JobRequest], idempotency_key: str | None
) -> Response:
    """Put the job in the body of *request* into the queue, and say where it is.

    Raises ProblemError when it is no valid job, the queue is full, or nothing would work on it.
    """
    body = await read_request_bytes(request)
    loaded = await get_loaded_release(parts)
    asked = await run_large_request(parts, _parse_and_check, loaded, body, parse)
    kind, principal = getattr(asked, "kind", ""), request.state.principal
    if not principal.may(needed := SCOPE_OF_KIND.get(kind, "predict")):
        rule = f"A job of the kind {kind} needs `{needed}`."
        raise ProblemError(
            403, "key", f"{principal.name!r} has not the scope {needed}", rule, "Use another key."
        )
    digest = hashlib.sha256(request.url.path.encode() + b"\0" + body).hexdigest()
    job = build_job(loaded, principal, asked, digest, idempotency_key)
    view = await _use_store(lambda store: _add_job(store, job, asked.webhook))
    response = build_json_response(view, 202)
    response.headers["location"] = f"{JOBS}/{view['job_id']}"
    return response


def build_job(
    loaded: LoadedRelease, principal: Principal, asked: JobRequest, digest: str, key: str | None
) -> Job:
    """A job of *principal* on the release and the rows that are in use now. digest: of the body."""
    return Job(
        build_prediction_id(datetime.now(UTC)),
        principal.tenant,
        principal.name,
        loaded.manifest.dataset,
        getattr(asked, "kind", ""),
        asked.model_dump_json(exclude_none=True),
        digest,
        key,
        loaded.manifest.digest,
        str(loaded.choice.folder.absolute()),
        loaded.choice.version,
        loaded.rows_version,
        created_at=time.time(),
    )


def _parse_and_check(loaded: LoadedRelease, body: bytes, parse: Callable[[bytes], JobRequest]) -> JobRequest:
    asked = parse(body)
    check_job(loaded, asked)
    return asked


def _describe_jobs(store: JobStore, jobs: Sequence[Job]) -> list[JobView]:
    webhooks = store.find_webhooks([job.id for job in jobs])
    return [describe_job(job, webhooks.get(job.id)) for job in jobs]


def _add_job(store: JobStore, job: Job, webhook: str | None) -> JobView:
    if webhook is not None and find_webhook_secret(job.tenant) is None:
        raise ProblemError(
            422,
            "webhook",
            f"there is no secret of the tenant {job.tenant!r}",
            "A webhook is signed.",
            "Ask the operator for one: `tidemill keys webhook-secret TENANT`.",
        )
    if not store.is_loop_alive():
        raise ProblemError(
            503,
            "jobs",
            "no job loop has run in the last seconds",
            "The job loop of this home works on jobs, and accepted work is done.",
            "Start `tidemill up`, or `python -m deployments.ops.job_loop` next to a service of your own.",
            {"retry-after": "10"},
        )
    try:
        return _describe_jobs(store, [store.add(job, webhook)])[0]
    except JobKeyError as error:
        raise ProblemError(
            422, "Idempotency-Key", str(error), "A key is for one body.", "Take another key."
        ) from error
    except JobQueueError as error:
        rule = "Each tenant has a queue of its own."
        raise ProblemError(
            429, "jobs", str(error), rule, "Wait for one, or cancel it.", {"retry-after": "30"}
        ) from error


async def _get_job(parts: ServiceParts, principal: Principal, job_id: str) -> Job:
    """The caller's job. Raises ProblemError 404 for another tenant's, as for an unknown id."""
    dataset = (await get_loaded_release(parts)).manifest.dataset
    job = await _use_store(lambda store: store.find(job_id))
    if (
        job is None
        or job.dataset != dataset
        or not (principal.may("operate") or job.tenant == principal.tenant)
    ):
        days = read_settings().keep_jobs_days
        rule = f"A key sees its own tenant's jobs, which are kept for {days:g} days after their end."
        raise ProblemError(404, "job_id", f"no job {job_id[:60]!r}", rule, f"See {JOBS}.")
    return job


async def _use_store(use: Callable[[JobStore], T]) -> T:
    """What *use* returns, in a thread: the disk may take its time. Raises ProblemError 503."""

    def run() -> T:
        with open_jobs() as store:
            return use(store)

    try:
        return await asyncio.to_thread(run)
    except JobStoreError as error:
        rule = "Jobs are on disk before they are accepted."
        raise ProblemError(503, "jobs", str(error), rule, "Report it to the operator.") from error
