"""A job as its caller sees it."""

import json
from datetime import UTC, datetime
from typing import Annotated, Literal, cast

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from deployments.forecaster import shapes
from deployments.forecaster.loaded import format_iso
from tasks.edges.jobs import Job, JobState, JobWebhook

_CLOSED = ConfigDict(extra="forbid")
JOBS = "/api/v1/jobs"


@with_config(_CLOSED)
class JobProgress(TypedDict):
    """How far a job is."""

    n_done: int
    n_total: Annotated[int, Field(description="0 while it is not known.")]
    message: str


@with_config(_CLOSED)
class WebhookView(TypedDict):
    """The webhook of a job. fault: why the last attempt did not deliver it."""

    url: str
    state: Literal["waiting", "delivered", "failed"]
    n_attempts: int
    next_attempt_at: str | None
    fault: str | None


@with_config(_CLOSED)
class JobView(TypedDict):
    """A job. The release and the rows are those in use when it was accepted."""

    job_id: str
    kind: str
    state: JobState
    dataset: str
    request: dict[str, object]
    model: shapes.RecordedModel
    rows_version: str
    progress: JobProgress
    n_attempts: Annotated[int, Field(description="2: its process was ended once, and it began again.")]
    created_at: str
    started_at: str | None
    finished_at: str | None
    problem: Annotated[shapes.Problem | None, Field(description="Why it failed.")]
    result: Annotated[str | None, Field(description="Where the result is, of a job that is done.")]
    webhook: WebhookView | None


@with_config(_CLOSED)
class JobList(TypedDict):
    """The jobs of the caller's tenant, the newest first."""

    jobs: list[JobView]


def describe_job(job: Job, webhook: JobWebhook | None = None) -> JobView:
    """*job* as its caller sees it, with its *webhook*."""
    return {
        "job_id": job.id,
        "kind": job.kind,
        "state": job.state,
        "dataset": job.dataset,
        "request": json.loads(job.request),
        "model": {"digest": job.release, "version": job.version},
        "rows_version": job.rows_version,
        "progress": {"n_done": job.n_done, "n_total": job.n_total, "message": job.message},
        "n_attempts": job.n_attempts,
        "created_at": cast("str", _format_time(job.created_at)),
        "started_at": _format_time(job.started_at),
        "finished_at": _format_time(job.finished_at),
        "problem": None if job.problem is None else json.loads(job.problem),
        "result": f"{JOBS}/{job.id}/result" if job.state == "done" else None,
        "webhook": None if webhook is None else _describe_webhook(webhook),
    }


def _describe_webhook(webhook: JobWebhook) -> WebhookView:
    is_tried_again = webhook.state == "waiting" and webhook.n_attempts > 0
    return {
        "url": webhook.url,
        "state": webhook.state,
        "n_attempts": webhook.n_attempts,
        "next_attempt_at": _format_time(webhook.due_at) if is_tried_again else None,
        "fault": webhook.fault,
    }


def _format_time(time_s: float | None) -> str | None:
    return None if time_s is None else format_iso(datetime.fromtimestamp(time_s, UTC))


EXAMPLE: JobView = {
    "job_id": "019ad3a0-93c0-7d3c-8bb2-27c2f4a1b0de",
    "kind": "backtest",
    "state": "done",
    "dataset": "tides",
    "request": {"kind": "backtest", "stride_steps": 1},
    "model": {"digest": "9f2c...", "version": "1.0.0"},
    "rows_version": "6631...",
    "progress": {"n_done": 60, "n_total": 60, "message": ""},
    "n_attempts": 1,
    "created_at": "2026-11-30T07:16:40.896831Z",
    "started_at": "2026-11-30T07:16:41.100000Z",
    "finished_at": "2026-11-30T07:16:43.000000Z",
    "problem": None,
    "result": f"{JOBS}/019ad3a0-93c0-7d3c-8bb2-27c2f4a1b0de/result",
    "webhook": None,
}
_EXAMPLE_RESULT = {
    "job_id": EXAMPLE["job_id"],
    "kind": "backtest",
    "dataset": "tides",
    "model": EXAMPLE["model"],
    "rows_version": "6631...",
    "primary_score": "rmse",
    "first_cutoff": "2018-10-01T00:00:00Z",
    "last_cutoff": "2018-11-29T00:00:00Z",
    "n_cutoffs": 60,
    "rows": [{"step": None, "n": 300, "mae": 0.31, "coverage_frac": 0.79, "primary": 0.38}],
}
_QUEUED = {**EXAMPLE, "state": "queued", "finished_at": None, "result": None}
# Of an operation, what a good request gets
EXAMPLES: dict[tuple[str, str], object] = {
    ("post", JOBS): _QUEUED,
    ("post", "/api/v1/forecast/{model}"): _QUEUED,
    ("post", "/api/v1/ml/automl"): _QUEUED,
    ("get", JOBS): {"jobs": [EXAMPLE]},
    ("get", f"{JOBS}/{{id}}"): EXAMPLE,
    ("delete", f"{JOBS}/{{id}}"): EXAMPLE,
    ("get", f"{JOBS}/{{id}}/result"): _EXAMPLE_RESULT,
}
