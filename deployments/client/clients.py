"""The clients: the same calls, waited for in a thread or in an event loop."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx

from deployments.client.calls import (
    Analysis,
    Call,
    HistoryStep,
    Observation,
    RetryPolicy,
    SeriesItem,
    build_analysis,
    build_batch,
    build_explanation,
    build_job,
    build_job_call,
    build_observations,
    build_predict,
    build_query,
    build_release,
    is_ended,
    parse_answer,
)
from deployments.forecaster import shapes
from deployments.forecaster.job_views import JobList, JobView
from deployments.forecaster.observations import Observations

TIMEOUT_S = 30.0
POLL_S = 1.0  # of a job that is waited for
MODELS, HEALTH = Call("GET", "/api/v1/models"), Call("GET", "/api/v1/health")
JOBS = Call("GET", "/api/v1/jobs")


def _build_options(address: str, key: str | None, dataset: str | None, timeout_s: float) -> Mapping[str, Any]:
    headers = {"accept": "application/json"} | ({} if key is None else {"x-api-key": key})
    params = {} if dataset is None else {"dataset": dataset}
    return {"base_url": address, "headers": headers, "params": params, "timeout": timeout_s}


class ServiceClient:
    """Asks the service at *address*, for example `http://localhost:3000`. key: of `tidemill keys`.

    dataset: which one is asked about, where the service has several.
    Each method raises ServiceProblemError with the service's reason, and httpx.HTTPError where the
    service cannot be reached. One client may be used by several threads.
    """

    def __init__(
        self,
        address: str,
        key: str | None = None,
        *,
        dataset: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._http = httpx.Client(**_build_options(address, key, dataset, timeout_s))
        self._retry = retry or RetryPolicy()

    def __enter__(self) -> Self:
        """The client itself; the connections are closed with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See __enter__."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        series_id: str | Sequence[str],
        *,
        as_of: str | datetime | None = None,
        horizon_steps: int | None = None,
        levels: Sequence[float] | None = None,
        history: Sequence[HistoryStep] | None = None,
        model: str | None = None,
        explain: bool = False,
    ) -> shapes.Prediction:
        """Forecast one series or several; see `POST /api/v1/predict`."""
        answer: shapes.Prediction = self._send(
            build_predict(series_id, as_of, horizon_steps, levels, history, model, explain=explain)
        )
        return answer

    def predict_batch(
        self, items: Sequence[SeriesItem], *, model: str | None = None
    ) -> shapes.BatchPrediction:
        """Up to 10,000 requests for one series each; one that fails has its error in its place."""
        answer: shapes.BatchPrediction = self._send(build_batch(items, model))
        return answer

    def explain_prediction(self, prediction_id: str) -> shapes.RecordedExplanation:
        """What each feature contributed to a recorded answer."""
        answer: shapes.RecordedExplanation = self._send(build_explanation(prediction_id))
        return answer

    def analyze(self, name: Analysis, **request: object) -> Mapping[str, Any]:
        """Figures of rows; *request* has the keys of `POST /api/v1/analyze/{name}`."""
        answer: Mapping[str, Any] = self._send(build_analysis(name, request))
        return answer

    def query(self, query: str, variables: Mapping[str, object] | None = None) -> Mapping[str, Any]:
        """`data` and `errors` of a GraphQL query."""
        answer: Mapping[str, Any] = self._send(build_query(query, variables))
        return answer

    def get_models(self) -> shapes.Models:
        """The release that answers."""
        answer: shapes.Models = self._send(MODELS)
        return answer

    def get_release(self, version: str) -> shapes.ReleaseDetails:
        """A release of the registry."""
        answer: shapes.ReleaseDetails = self._send(build_release(version))
        return answer

    def get_monitoring(self, version: str) -> Mapping[str, object]:
        """The monitor's last report of a release."""
        answer: Mapping[str, object] = self._send(build_release(version, "/monitoring"))
        return answer

    def send_observations(self, rows: Sequence[Observation]) -> Observations:
        """Add rows to the dataset; each gets a verdict. The same rows again change nothing."""
        answer: Observations = self._send(build_observations(rows))
        return answer

    def start_job(self, kind: str, *, idempotency_key: str | None = None, **options: Any) -> JobView:
        """Start a job, for example `start_job("backtest", stride_steps=5)`.

        idempotency_key: the same one is the same job; by default each call is one.
        """
        answer: JobView = self._send(build_job(kind, idempotency_key, options))
        return answer

    def get_job(self, job_id: str) -> JobView:
        """The state of a job."""
        answer: JobView = self._send(build_job_call("GET", job_id))
        return answer

    def list_jobs(self) -> JobList:
        """The jobs of the caller's tenant, the newest first."""
        answer: JobList = self._send(JOBS)
        return answer

    def cancel_job(self, job_id: str) -> JobView:
        """Cancel a job; one that has ended stays as it is."""
        answer: JobView = self._send(build_job_call("DELETE", job_id))
        return answer

    def get_result(self, job_id: str) -> Mapping[str, Any]:
        """The result of a job that is done: figures, and `rows`."""
        answer: Mapping[str, Any] = self._send(build_job_call("GET", job_id, "/result"))
        return answer

    def wait_for_job(self, job_id: str, timeout_s: float = 3600.0) -> JobView:
        """The job once it has ended. Raises TimeoutError after *timeout_s*."""
        deadline = time.monotonic() + timeout_s
        while not is_ended(job := self.get_job(job_id)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"The job {job_id} has not ended after {timeout_s:g} s.")
            time.sleep(POLL_S)
        return job

    def get_health(self) -> shapes.Health:
        """The state of the service."""
        answer: shapes.Health = self._send(HEALTH)
        return answer

    def _send(self, call: Call) -> Any:
        attempt = 1
        while True:
            try:
                response = self._http.request(call.method, call.path, json=call.body, headers=call.headers)
            except httpx.ConnectError:
                if (wait_s := self._retry.find_wait(None, attempt, datetime.now(UTC))) is None:
                    raise
            else:
                wait_s = self._retry.find_wait(response, attempt, datetime.now(UTC))
                if wait_s is None:
                    return parse_answer(response)
            time.sleep(wait_s)
            attempt += 1


class AsyncServiceClient:
    """`ServiceClient` for an event loop: the same methods, to be awaited."""

    def __init__(
        self,
        address: str,
        key: str | None = None,
        *,
        dataset: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(**_build_options(address, key, dataset, timeout_s))
        self._retry = retry or RetryPolicy()

    async def __aenter__(self) -> Self:
        """The client itself; the connections are closed with the block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See __aenter__."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(
        self,
        series_id: str | Sequence[str],
        *,
        as_of: str | datetime | None = None,
        horizon_steps: int | None = None,
        levels: Sequence[float] | None = None,
        history: Sequence[HistoryStep] | None = None,
        model: str | None = None,
        explain: bool = False,
    ) -> shapes.Prediction:
        """See ServiceClient."""
        call = build_predict(series_id, as_of, horizon_steps, levels, history, model, explain=explain)
        answer: shapes.Prediction = await self._send(call)
        return answer

    async def predict_batch(
        self, items: Sequence[SeriesItem], *, model: str | None = None
    ) -> shapes.BatchPrediction:
        """See ServiceClient."""
        answer: shapes.BatchPrediction = await self._send(build_batch(items, model))
        return answer

    async def explain_prediction(self, prediction_id: str) -> shapes.RecordedExplanation:
        """See ServiceClient."""
        answer: shapes.RecordedExplanation = await self._send(build_explanation(prediction_id))
        return answer

    async def analyze(self, name: Analysis, **request: object) -> Mapping[str, Any]:
        """See ServiceClient."""
        answer: Mapping[str, Any] = await self._send(build_analysis(name, request))
        return answer

    async def query(self, query: str, variables: Mapping[str, object] | None = None) -> Mapping[str, Any]:
        """See ServiceClient."""
        answer: Mapping[str, Any] = await self._send(build_query(query, variables))
        return answer

    async def get_models(self) -> shapes.Models:
        """See ServiceClient."""
        answer: shapes.Models = await self._send(MODELS)
        return answer

    async def get_release(self, version: str) -> shapes.ReleaseDetails:
        """See ServiceClient."""
        answer: shapes.ReleaseDetails = await self._send(build_release(version))
        return answer

    async def get_monitoring(self, version: str) -> Mapping[str, object]:
        """See ServiceClient."""
        answer: Mapping[str, object] = await self._send(build_release(version, "/monitoring"))
        return answer

    async def send_observations(self, rows: Sequence[Observation]) -> Observations:
        """See ServiceClient."""
        answer: Observations = await self._send(build_observations(rows))
        return answer

    async def start_job(self, kind: str, *, idempotency_key: str | None = None, **options: Any) -> JobView:
        """See ServiceClient."""
        answer: JobView = await self._send(build_job(kind, idempotency_key, options))
        return answer

    async def get_job(self, job_id: str) -> JobView:
        """See ServiceClient."""
        answer: JobView = await self._send(build_job_call("GET", job_id))
        return answer

    async def list_jobs(self) -> JobList:
        """See ServiceClient."""
        answer: JobList = await self._send(JOBS)
        return answer

    async def cancel_job(self, job_id: str) -> JobView:
        """See ServiceClient."""
        answer: JobView = await self._send(build_job_call("DELETE", job_id))
        return answer

    async def get_result(self, job_id: str) -> Mapping[str, Any]:
        """See ServiceClient."""
        answer: Mapping[str, Any] = await self._send(build_job_call("GET", job_id, "/result"))
        return answer

    async def wait_for_job(self, job_id: str, timeout_s: float = 3600.0) -> JobView:
        """See ServiceClient."""
        deadline = time.monotonic() + timeout_s
        while not is_ended(job := await self.get_job(job_id)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"The job {job_id} has not ended after {timeout_s:g} s.")
            await asyncio.sleep(POLL_S)
        return job

    async def get_health(self) -> shapes.Health:
        """See ServiceClient."""
        answer: shapes.Health = await self._send(HEALTH)
        return answer

    async def _send(self, call: Call) -> Any:
        attempt = 1
        while True:
            try:
                response = await self._http.request(
                    call.method, call.path, json=call.body, headers=call.headers
                )
            except httpx.ConnectError:
                if (wait_s := self._retry.find_wait(None, attempt, datetime.now(UTC))) is None:
                    raise
            else:
                wait_s = self._retry.find_wait(response, attempt, datetime.now(UTC))
                if wait_s is None:
                    return parse_answer(response)
            await asyncio.sleep(wait_s)
            attempt += 1
