"""What a job may be asked for: the body of `POST /api/v1/jobs`, checked by the loaded release."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from deployments.forecaster.checkout import read_dataset_document
from deployments.forecaster.forecast_problems import build_unknown_series_error
from deployments.forecaster.loaded import LoadedRelease, format_iso
from deployments.forecaster.own_history import build_own_rows
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import (
    MAX_ITEMS,
    ForecastRequest,
    Name,
    build_invalid_error,
    parse_json,
    parse_time,
)
from deployments.forecaster.webhook_urls import check_webhook_url

MAX_TIMES = 10_000
MAX_RESULT_ROWS = 2_000_000  # 300 MB as JSON
_EXAMPLE = '{"kind": "backtest"}'


class JobRequest(BaseModel):
    """What every kind of job has."""

    model_config = ConfigDict(extra="forbid", strict=True)

    webhook: Annotated[
        str | None,
        Field(max_length=2000, description="An https URL that is called at the end of the job."),
    ] = None


class BatchJob(JobRequest):
    """Forecasts of many series as of many times, each from what was known then."""

    kind: Literal["batch"]
    series_id: Annotated[
        Name | Annotated[list[Name], Field(min_length=1, max_length=MAX_ITEMS)] | None,
        Field(description="One series or a list; without it, all."),
    ] = None
    as_of: Annotated[
        list[str],
        Field(min_length=1, max_length=MAX_TIMES, description="Times, ISO 8601 with a zone."),
    ]

    def list_series(self, known: Sequence[str]) -> list[str]:
        """The requested series, of *known*."""
        if self.series_id is None:
            return list(known)
        return [self.series_id] if isinstance(self.series_id, str) else self.series_id

    def list_times(self) -> list[datetime]:
        """as_of in UTC, ascending, each once. Raises ProblemError for what is no time."""
        return sorted({parse_time(text, f"as_of.{i}") for i, text in enumerate(self.as_of)})


class BacktestJob(JobRequest):
    """The release over a range after its `seen_until`: scores by step, and coverage."""

    kind: Literal["backtest"]
    first: Annotated[str | None, Field(description="First cutoff; without it, `seen_until`.")] = None
    last: Annotated[
        str | None, Field(description="Last cutoff; without it, the last whose outcomes are known.")
    ] = None
    stride_steps: Annotated[int, Field(ge=1, description="Every so many cutoffs one is used.")] = 1

    def parse_range(self) -> tuple[datetime | None, datetime | None]:
        """first and last in UTC. Raises ProblemError for what is no time."""
        first, last = (
            None if text is None else parse_time(text, name)
            for name, text in (("first", self.first), ("last", self.last))
        )
        return first, last


class FitRequest(JobRequest):
    """What both kinds of fits have: the rows of the dataset, or those of the request."""

    series_id: Annotated[Name, Field(description="Name of the own history.")] = "mine"
    history: Annotated[
        Annotated[list[dict[str, str | float | None]], Field(min_length=1)] | None,
        Field(description="Rows to fit on instead of the dataset's: event_time, and every value column."),
    ] = None

    def list_models(self, known: Sequence[str]) -> list[str]:
        """The requested models; of *known* all when the request names none."""
        return list(known)


class ForecastFit(FitRequest):
    """The body of `POST /api/v1/forecast/{model}`."""


class ForecastJob(ForecastFit):
    """One model of the dataset, fitted on all rows, and its forecast from the newest."""

    kind: Literal["forecast"] = "forecast"
    model: Name

    def list_models(self, known: Sequence[str]) -> list[str]:
        """See FitRequest."""
        del known
        return [self.model]


class AutomlFit(FitRequest):
    """The body of `POST /api/v1/ml/automl`."""

    models: Annotated[
        Annotated[list[Name], Field(min_length=1)] | None,
        Field(description="Models of the dataset; without it, all."),
    ] = None


class AutomlJob(AutomlFit):
    """The models of the dataset, walked forward and ranked; the best one's forecast."""

    kind: Literal["automl"] = "automl"

    def list_models(self, known: Sequence[str]) -> list[str]:
        """See FitRequest."""
        return list(known) if self.models is None else self.models


class TrainingJob(JobRequest):
    """A retraining with its gate, as an operator starts it in Prefect."""

    kind: Literal["training"]
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    recipe: Annotated[
        Literal["full", "window", "search"] | None,
        Field(description="What is trained; without it, as the decision says."),
    ] = None


KINDS: dict[str, type[JobRequest]] = {
    "batch": BatchJob,
    "backtest": BacktestJob,
    "forecast": ForecastJob,
    "automl": AutomlJob,
    "training": TrainingJob,
}
SCOPE_OF_KIND = {"training": "operate"}  # of those that need more than `predict`


class JobBody(RootModel[BatchJob | BacktestJob | ForecastJob | AutomlJob | TrainingJob]):
    """The body of a job, for the OpenAPI document."""


def parse_job(body: bytes, given: Mapping[str, str] | None = None) -> JobRequest:
    """The job in *body*. given: keys that the path of the request has.

    Raises ProblemError: 400 when it is no JSON, 422 when it is JSON that is no valid job.
    """
    content = parse_json(body, _EXAMPLE)
    if given is not None and isinstance(content, dict):
        if stated := sorted(given.keys() & content.keys()):
            rule = "The path says what it is."
            raise ProblemError(422, stated[0], "it is in the body, too", rule, "Leave it out.")
        content = {**content, **given}
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        fact = "missing" if kind is None else f"{str(kind)[:60]!r}"
        raise ProblemError(
            422, "kind", fact, f"A job is of the kind {', '.join(KINDS)}.", f"Send for example {_EXAMPLE}."
        )
    try:
        return KINDS[kind].model_validate(content)
    except ValidationError as error:
        raise build_invalid_error(error, KINDS[kind], "kind") from error


def check_job(loaded: LoadedRelease, job: JobRequest) -> None:
    """Raise ProblemError when *job* asks for what the release or its rows have not.

    Or for a webhook at an address that is not allowed.
    """
    if job.webhook is not None:
        check_webhook_url(job.webhook)
    if isinstance(job, BatchJob):
        _check_batch(loaded, job)
    elif isinstance(job, FitRequest):
        _check_fit(loaded, job)
    elif isinstance(job, BacktestJob):
        first, last = job.parse_range()
        seen_until = loaded.manifest.seen_until
        if first is not None and first < seen_until:
            raise ProblemError(
                422,
                "first",
                f"{format_iso(first)} is before {format_iso(seen_until)}",
                "The release was fitted on what was known by then, so scores before it are no test.",
                "Leave `first` out, or take a later one.",
            )
        if last is not None and last < (first or seen_until):
            rule = f"The range begins at {format_iso(first or seen_until)}."
            raise ProblemError(422, "last", f"{format_iso(last)} is before it", rule, "Take a later one.")


def _check_fit(loaded: LoadedRelease, job: FitRequest) -> None:
    known = read_dataset_document(loaded.manifest.dataset).list_models()
    if unknown := [name for name in job.list_models(known) if name not in known]:
        rule = f"The dataset has the models {', '.join(known)}."
        raise ProblemError(404, "model", f"no model {unknown[0]!r}", rule, "Take one of them.")
    select_fit_rows(loaded, job)


def select_fit_rows(loaded: LoadedRelease, job: FitRequest) -> pl.DataFrame:
    """SERIES, what *job* is fitted on. Raises ProblemError for a history that is none."""
    if job.history is None:
        return loaded.rows
    content = {"series_id": job.series_id, "history": job.history}
    return build_own_rows(loaded, ForecastRequest.model_validate(content))


def _check_batch(loaded: LoadedRelease, job: BatchJob) -> None:
    series, times = job.list_series(loaded.series), job.list_times()
    if unknown := [name for name in series if name not in loaded.newest_by_series]:
        raise build_unknown_series_error(unknown, loaded.series)
    n_rows = len(series) * len(times) * loaded.release.about.horizon_steps
    if n_rows > MAX_RESULT_ROWS:
        raise ProblemError(
            422,
            "as_of",
            f"{len(series):,} series as of {len(times):,} times are {n_rows:,} rows",
            f"The result of a job has at most {MAX_RESULT_ROWS:,} rows.",
            "Send several jobs.",
        )
