"""Schemas of the answers, for the OpenAPI page and for clients that generate code.

Times are ISO 8601 in UTC, with Z.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from deployments.forecaster.explanation_shapes import SeriesExplanation

_CLOSED = ConfigDict(extra="forbid")


@with_config(_CLOSED)
class Step(TypedDict):
    """One step ahead.

    y_hat and quantiles are in the answer's unit; quantiles by their probability, null while no
    error is known.
    """

    step: Annotated[int, Field(description="1 is the first step after the cutoff's own.")]
    event_time: Annotated[str, Field(description="Start of the step that is forecast.")]
    y_hat: float
    quantiles: dict[str, float | None]


@with_config(_CLOSED)
class Series(TypedDict):
    """One series.

    cutoff: nothing that became known later was used. as_of: `known_at` of the newest row that was.
    """

    series_id: str
    cutoff: str
    as_of: str
    steps: list[Step]


@with_config(_CLOSED)
class Absent(TypedDict):
    """A requested series that cannot be forecast, with the reason."""

    series_id: str
    reason: str


@with_config(_CLOSED)
class Model(TypedDict):
    """The release of a forecast. seen_until: end of what it was fitted on."""

    name: str
    version: str
    digest: str
    seen_until: str


@with_config(_CLOSED)
class Prediction(TypedDict):
    """An answer. It is in the store of served forecasts under its id before it is sent."""

    prediction_id: str
    made_at: str
    dataset: str
    target: str
    unit: str
    model: Model
    data_version: Annotated[str, Field(description="sha256 of the rows that the release was built from.")]
    rows_version: Annotated[
        str | None,
        Field(description="sha256 of the rows that the answer is made from; null for the request's own."),
    ]
    series: list[Series]
    absent: list[Absent]
    warnings: list[str]
    explanations: NotRequired[list[SeriesExplanation]]


@with_config(_CLOSED)
class Health(TypedDict):
    """The state of the service in one answer."""

    live: bool
    ready: bool
    dataset: str | None
    as_of: Annotated[str | None, Field(description="`known_at` of the newest row.")]
    age_s: Annotated[float | None, Field(description="Its age; null for a dataset without dates.")]
    freshness: Literal["fresh", "stale", "expired"] | None
    stale_after: str | None
    expire_after: str | None
    faults: list[str]


@with_config(_CLOSED)
class Problem(TypedDict):
    """Every error has this form (RFC 9457), with the media type application/problem+json.

    detail: thing, fact, rule and next step as sentences.
    """

    type: str
    title: str
    status: int
    detail: str
    thing: str
    fact: str
    rule: str
    next: str


@with_config(_CLOSED)
class BatchForecast(TypedDict):
    """An item that is forecast. It is in the store under its id, as an answer of its own."""

    status: Literal[200]
    prediction_id: str
    series: Series
    warnings: list[str]
    explanation: NotRequired[Annotated[SeriesExplanation, Field(description="With `explain`.")]]


@with_config(_CLOSED)
class BatchProblem(Problem):
    """An item that is not forecast: its error, as a request of its own would get it."""

    series_id: Annotated[str | None, Field(description="null where the item names none.")]


@with_config(_CLOSED)
class BatchPrediction(TypedDict):
    """The answers to the items of a batch, in its order. The head is that of each answer."""

    made_at: str
    dataset: str
    target: str
    unit: str
    model: Model
    data_version: str
    rows_version: str
    n_failed: int
    items: list[BatchForecast | BatchProblem]


@with_config(_CLOSED)
class RecordedCaller(TypedDict):
    """Who asked."""

    name: str
    tenant: str


@with_config(_CLOSED)
class RecordedRequest(TypedDict):
    """What was asked. history: sha256 of the rows that the request brought.

    job_id: of the job that gave the answer. fitted: the model that it fitted for it.
    """

    series_id: list[str]
    as_of: str | None
    horizon_steps: int | None
    levels: list[float] | None
    history: str | None
    job_id: NotRequired[str]
    fitted: NotRequired[str]


@with_config(_CLOSED)
class RecordedModel(TypedDict):
    """The release of a recorded answer; empty for a model that a job fitted."""

    digest: str
    version: str


@with_config(_CLOSED)
class RecordedSeries(TypedDict):
    """One series of a recorded answer."""

    series_id: str
    cutoff: str
    steps: list[Step]


@with_config(_CLOSED)
class Recomputed(TypedDict):
    """The answer computed again.

    reason: what is not kept any more, or what differs.
    """

    state: Annotated[
        Literal["same", "differs", "gone"],
        Field(description="`gone`: something that the answer was made from is not kept any more."),
    ]
    reason: str | None
    largest_relative_difference: Annotated[
        float | None, Field(description="`same` is at most 1e-6; null where there is nothing to compare.")
    ]
    series: list[RecordedSeries]


@with_config(_CLOSED)
class RecordedPrediction(TypedDict):
    """An answer as it was recorded.

    code_commit: of the code that built the release, with `+` where something was not committed.
    request_digest, answer_digest: sha256 of the bytes that were received and sent.
    """

    prediction_id: str
    made_at: str
    dataset: str
    principal: RecordedCaller
    route: str
    request: RecordedRequest
    model: RecordedModel
    data_version: str
    rows_version: str | None
    code_commit: str | None
    latency_ms: Annotated[float, Field(description="Until the answer was ready to be recorded.")]
    request_digest: str
    answer_digest: str
    series: Annotated[list[RecordedSeries], Field(description="Empty when they are not kept any more.")]
    recomputed: Recomputed


@with_config(_CLOSED)
class RecordedExplanation(TypedDict):
    """The explanation of a recorded answer, of the release that answered and the rows behind it."""

    prediction_id: str
    model: RecordedModel
    explanations: list[SeriesExplanation]


@with_config(_CLOSED)
class ChampionModel(Model):
    """The release that answers.

    metrics: out-of-sample figures of its evaluation, as far as the release has them.
    """

    dataset: str
    chosen_by: Annotated[
        str,
        Field(
            description="`champion` of the registry, `setting` (TIDEMILL_RELEASE) or `embedded` in the Bento."
        ),
    ]
    data_version: str
    as_of: Annotated[str, Field(description="Newest `known_at` of the data it was built from.")]
    combiner: Annotated[
        str, Field(description="How members become one forecast: `mean`, `median`, `weighted`, ...")
    ]
    members: Annotated[
        dict[str, float],
        Field(
            description=(
                "Weight of each member; its share where the weight is not the same for all rows and steps."
            )
        ),
    ]
    horizon_steps: int
    every: str
    quantiles: list[float]
    series: list[str]
    metrics: dict[str, object]


@with_config(_CLOSED)
class RolloutState(TypedDict):
    """A challenger that takes over by steps, after its last move.

    by, reason: who moved it, and why.
    """

    dataset: str
    challenger: Annotated[str, Field(description="Its digest; its answers have the first 12 as version.")]
    champion: Annotated[str, Field(description="Digest of the release that it is compared with.")]
    name: str
    state: Annotated[str, Field(description="`running`, `paused`, `promoted` or `back`.")]
    weight: Annotated[float, Field(description="Share of the series that it answers for; 0 is shadow.")]
    steps_frac: list[float]
    by: str
    reason: str
    moved_at: str


@with_config(_CLOSED)
class RolloutSlot(RolloutState):
    """The rollout that is active, and the challenger in this process.

    fault: why it is not loaded.
    """

    is_loaded: bool
    fault: str | None
    n_errors: Annotated[int, Field(description="Requests that it failed and the champion answered.")]
    n_mirrored: Annotated[int, Field(description="Requests that it answered as shadow, to no one.")]
    n_dropped: Annotated[int, Field(description="Those that found its queue full.")]


@with_config(_CLOSED)
class Models(TypedDict):
    """The releases in the service's slots. rollout: null when none is active."""

    champion: ChampionModel
    rollout: RolloutSlot | None


@with_config(_CLOSED)
class ReleaseRecord(TypedDict):
    """A release that is or was champion, of the registry."""

    version: str
    digest: str
    name: str
    seen_until: str
    promoted_as_of: Annotated[str, Field(description="Newest `known_at` of the data that decided.")]


@with_config(_CLOSED)
class ReleaseDetails(TypedDict):
    """A release of the registry, with what is known of it.

    metrics: as of /models. provenance: commit, versions, time of the build.
    decision: of the gate that promoted it. lineage: the champions before it, the newest first.
    """

    release: ReleaseRecord
    is_champion: bool
    data_version: str
    metrics: dict[str, object]
    provenance: dict[str, object] | None
    card: Annotated[str | None, Field(description="The model card, Markdown.")]
    decision: dict[str, object]
    lineage: list[ReleaseRecord]


@with_config(_CLOSED)
class Live(TypedDict):
    """The process answers."""

    live: bool


@with_config(_CLOSED)
class Ready(TypedDict):
    """Whether forecasts can be answered.

    faults: what cannot be loaded or written; with `ready` true the old release stays in use.
    """

    ready: bool
    dataset: str | None
    version: str | None
    digest: str | None
    chosen_by: str | None
    rows_from: str | None
    as_of: str | None
    faults: list[str]
