"""What is sent, what an answer means, and when to ask again. No I/O."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple, NotRequired, cast
from urllib.parse import quote
from uuid import uuid4

import httpx
from typing_extensions import TypedDict

from deployments.forecaster import shapes
from deployments.forecaster.job_views import JobView

BUSY = (429, 503)
Analysis = Literal["describe", "correlation", "distribution"]
HistoryStep = Mapping[str, str | float | None]  # event_time, and every value column
Observation = Mapping[str, str | float | None]  # series_id, event_time, and every value column


class SeriesItem(TypedDict):
    """One request of a batch."""

    series_id: str
    as_of: NotRequired[str]
    horizon_steps: NotRequired[int]
    levels: NotRequired[list[float]]
    explain: NotRequired[bool]


class ServiceProblemError(Exception):
    """The service has no answer. status: HTTP. problem: its error, as RFC 9457 has it."""

    def __init__(self, status: int, problem: shapes.Problem) -> None:
        super().__init__(f"{status} {problem['detail']}")
        self.status, self.problem = status, problem


@dataclass(frozen=True)
class RetryPolicy:
    """How often a service that is busy (429, 503), or not reached, is asked again, and how soon.

    attempts: in all.
    first_s: before the second attempt, then twice as long each time; half of it is random.
    max_s: a longer wait, also one that the service asks for, is not waited.
    """

    attempts: int = 5
    first_s: float = 0.5
    max_s: float = 30.0

    def find_wait(self, response: httpx.Response | None, attempt: int, now: datetime) -> float | None:
        """Seconds to wait after the *attempt*-th answer, from 1; None: it is final.

        response: None where no connection was made.
        """
        if attempt >= self.attempts or (response is not None and response.status_code not in BUSY):
            return None
        wait_s = self.first_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
        asked_s = None if response is None else parse_retry_after(response.headers.get("retry-after"), now)
        if asked_s is not None:
            wait_s = max(wait_s, asked_s) if asked_s <= self.max_s else asked_s
        return wait_s if wait_s <= self.max_s else None


class Call(NamedTuple):
    """A request: its method, path, body and headers."""

    method: str
    path: str
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] | None = None


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds from *now* in a Retry-After header, which has seconds or a date; None without one."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        time = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((time.replace(tzinfo=time.tzinfo or UTC) - now).total_seconds(), 0.0)


def build_predict(
    series_id: str | Sequence[str],
    as_of: str | datetime | None,
    horizon_steps: int | None,
    levels: Sequence[float] | None,
    history: Sequence[HistoryStep] | None,
    model: str | None,
    *,
    explain: bool,
) -> Call:
    """The request of a forecast."""
    options = {
        "as_of": as_of.isoformat() if isinstance(as_of, datetime) else as_of,
        "horizon_steps": horizon_steps,
        "levels": None if levels is None else list(levels),
        "history": None if history is None else list(history),
        "model": model,
        "explain": explain or None,
    }
    asked = series_id if isinstance(series_id, str) else list(series_id)
    given = {name: value for name, value in options.items() if value is not None}
    return Call("POST", "/api/v1/predict", {"series_id": asked, **given})


def build_batch(items: Sequence[SeriesItem], model: str | None) -> Call:
    """The request of a batch."""
    named = {} if model is None else {"model": model}
    return Call("POST", "/api/v1/predict/batch", {"items": list(items), **named})


def build_analysis(name: Analysis, request: Mapping[str, object]) -> Call:
    """The request of an analysis."""
    return Call("POST", f"/api/v1/analyze/{name}", request)


def build_query(query: str, variables: Mapping[str, object] | None) -> Call:
    """The request of a GraphQL query."""
    return Call("POST", "/api/v1/graphql", {"query": query, "variables": variables})


def build_explanation(prediction_id: str) -> Call:
    """The request for the explanation of a recorded answer."""
    return Call("GET", f"/api/v1/predictions/{quote(prediction_id, safe='')}/explain")


def build_observations(rows: Sequence[Observation]) -> Call:
    """The request that adds rows."""
    return Call("POST", "/api/v1/observations", {"rows": list(rows)})


def build_job(kind: str, key: str | None, options: Mapping[str, object]) -> Call:
    """The request of a job; without a *key* one is made, so that a retry is the same job."""
    headers = {"idempotency-key": key or str(uuid4())}
    return Call("POST", "/api/v1/jobs", {"kind": kind, **options}, headers)


def build_job_call(method: str, job_id: str, part: str = "") -> Call:
    """A request about the job *job_id*. part: `/result` or nothing."""
    return Call(method, f"/api/v1/jobs/{quote(job_id, safe='')}{part}")


def is_ended(job: JobView) -> bool:
    """Whether a job is done, failed or cancelled."""
    return job["state"] not in {"queued", "running"}


def build_release(version: str, part: str = "") -> Call:
    """The request for a release of the registry. part: `/monitoring` or nothing."""
    return Call("GET", f"/api/v1/models/{quote(version, safe='')}{part}")


def parse_answer(response: httpx.Response) -> Any:
    """The content. Raises ServiceProblemError for an error, also of a proxy."""
    try:
        content = response.json()
    except ValueError:
        content = None
    if response.is_success and content is not None:
        return content
    if isinstance(content, dict) and "detail" in content:
        raise ServiceProblemError(response.status_code, cast("shapes.Problem", content))
    fact = f"{response.reason_phrase or 'no reason'}: {response.text[:200]!r}"
    problem: shapes.Problem = {
        "type": "about:blank",
        "title": response.reason_phrase,
        "status": response.status_code,
        "detail": f"answer: {fact}. The service answers JSON. Check the address, and what is before it.",
        "thing": "answer",
        "fact": fact,
        "rule": "The service answers JSON.",
        "next": "Check the address, and what is before it.",
    }
    raise ServiceProblemError(response.status_code, problem)
