"""The GraphQL schema, read only, and where its values come from: as in the other routes."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from graphql import (
    ExecutionResult,
    GraphQLError,
    GraphQLSyntaxError,
    build_schema,
    execute,
    parse,
    validate,
)
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from deployments.forecaster.graphql_limits import FIRST, MAX_CHARACTERS, MAX_TOKENS, check_cost
from deployments.forecaster.loaded import LoadedRelease, format_iso
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.recompute import build_recorded_series, find_seen_answer, format_us
from tasks.core.errors import TidemillError
from tasks.edges.api_keys import Principal
from tasks.edges.open_alarms import read_open_alarms
from tasks.edges.registry import get_champion_folder, read_champion, read_journal
from tasks.edges.served import list_answers

MAX_FIRST = 100
_log = logging.getLogger("tidemill.forecaster")
SCHEMA = build_schema(
    '''
"""Forecasts, models, series and alarms of the dataset that is served. Times are ISO 8601 in UTC."""
type Query {
  "The release that answers."
  champion: Model!
  "Releases that are or were champion, the newest promotion first."
  models: [Model!]!
  model(version: String!): Model
  "The series that the service holds, by name."
  allSeries(first: Int = 20, after: String): SeriesPage!
  series(seriesId: String!): Series
  "An answer as it was recorded; needs the scope predict."
  prediction(id: ID!): Prediction
  "Open alarms of the dataset and of the machine."
  alarms: [Alarm!]!
}
type Model {
  version: String!
  digest: String!
  name: String!
  seenUntil: String!
  "Newest known_at of the data that decided; null for a release outside the registry."
  promotedAsOf: String
  isChampion: Boolean!
  "Whether its bytes are there, so that a request can name it."
  isKept: Boolean!
}
type Series {
  seriesId: String!
  "When its newest row was known."
  knownAt: String!
  "Recorded answers with this series, the newest first; needs the scope predict."
  predictions(first: Int = 20, after: String): PredictionPage!
}
type SeriesPage { items: [Series!]!, "Of the next page; null at the end." endCursor: String }
type Forecast { seriesId: String!, cutoff: String!, steps: [Step!]! }
type Step { step: Int!, eventTime: String!, yHat: Float, quantiles: [Quantile!]! }
type Quantile { probability: String!, value: Float }
type Prediction {
  id: ID!
  madeAt: String!
  principal: String!
  tenant: String!
  route: String!
  modelVersion: String
  modelDigest: String
  dataVersion: String
  "null for the request's own rows."
  rowsVersion: String
  "Empty when its steps are not kept any more."
  series: [Forecast!]!
}
type PredictionPage { items: [Prediction!]!, endCursor: String }
type Alarm {
  name: String!
  severity: String!
  subject: String!
  summary: String!
  openedAt: String!
  runbook: String!
}
'''
)


class GraphqlRequest(BaseModel):
    """The body, as GraphQL over HTTP has it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    variables: dict[str, object] | None = None
    operationName: str | None = None  # noqa: N815  (GraphQL's name)


class Reader(NamedTuple):
    """Who asks, and what is served."""

    loaded: LoadedRelease
    principal: Principal

    @property
    def tenant(self) -> str | None:
        """Whose answers are seen; None: all. Raises GraphQLError without the scope predict."""
        if not self.principal.may("predict"):
            raise GraphQLError("predictions: the key has not the scope `predict`. Use another key.")
        return None if self.principal.may("operate") else self.principal.tenant


def answer_query(loaded: LoadedRelease, principal: Principal, request: GraphqlRequest) -> dict[str, object]:
    """`data` and `errors` of *request*; an error of it is in the answer, not raised."""
    try:
        document = parse(request.query, max_tokens=MAX_TOKENS)
        if faults := validate(SCHEMA, document, max_errors=5):
            return {"errors": [fault.formatted for fault in faults]}
        check_cost(document, request.variables or {})
    except (GraphQLSyntaxError, GraphQLError) as error:
        return {"errors": [error.formatted]}
    result = execute(
        SCHEMA,
        document,
        _build_root(Reader(loaded, principal)),
        variable_values=request.variables,
        operation_name=request.operationName,
    )
    assert isinstance(result, ExecutionResult), "no resolver waits"
    errors = [_format_error(error) for error in result.errors or ()]
    return {"data": result.data, **({"errors": errors} if errors else {})}


def _format_error(error: GraphQLError) -> Mapping[str, Any]:
    """What a caller can fix as it is; anything else without its details, which are in the log."""
    cause = error.original_error
    if cause is None or isinstance(cause, GraphQLError | ProblemError | TidemillError):
        return error.formatted
    _log.error("unforeseen", exc_info=cause)
    hidden = {"message": "This should not happen. Report the time of the request to the operator."}
    return {**error.formatted, **hidden}


def _build_root(reader: Reader) -> Mapping[str, Any]:
    """The fields of Query: functions of their arguments, called when they are asked for."""
    loaded, dataset = reader.loaded, reader.loaded.manifest.dataset
    return {
        "champion": lambda _: _describe_current(loaded),
        "models": lambda _: _list_models(dataset),
        "model": lambda _, version: next((m for m in _list_models(dataset) if m["version"] == version), None),
        "allSeries": lambda _, first=FIRST, after=None: _list_series(reader, first, after),
        "series": lambda _, seriesId: (  # noqa: N803  (GraphQL's name)
            _describe_series(reader, seriesId) if seriesId in loaded.newest_by_series else None
        ),
        "prediction": lambda _, id: _find_prediction(reader, id),  # noqa: A006
        "alarms": lambda _: _list_alarms(dataset),
    }


def _describe_current(loaded: LoadedRelease) -> Mapping[str, Any]:
    found = next(
        (m for m in _list_models(loaded.manifest.dataset) if m["digest"] == loaded.manifest.digest), None
    )
    return {
        "promotedAsOf": None,
        **(found or {}),
        "version": loaded.choice.version,
        "digest": loaded.manifest.digest,
        "name": loaded.release.model,
        "seenUntil": format_iso(loaded.manifest.seen_until),
        "isChampion": True,
        "isKept": True,
    }


def _list_models(dataset: str) -> list[Mapping[str, Any]]:
    """Of the registry, the last promotion of each first."""
    champion = read_champion(dataset)
    newest = {record.digest: record for record in read_journal(dataset)}
    return [
        {
            "version": record.version,
            "digest": record.digest,
            "name": record.model,
            "seenUntil": format_iso(record.seen_until),
            "promotedAsOf": format_iso(record.promoted_as_of),
            "isChampion": champion is not None and record.digest == champion.digest,
            "isKept": get_champion_folder(record).is_dir(),
        }
        for record in reversed(newest.values())
    ]


def _check_first(first: int) -> int:
    if not 1 <= first <= MAX_FIRST:
        raise GraphQLError(
            f"first is {first}. A page has 1 to {MAX_FIRST} items. Take endCursor for the next."
        )
    return first


def _list_series(reader: Reader, first: int, after: str | None) -> Mapping[str, Any]:
    following = [s for s in reader.loaded.series if after is None or s > after]
    page = following[: _check_first(first)]
    cursor = page[-1] if len(page) < len(following) else None
    return {"items": [_describe_series(reader, s) for s in page], "endCursor": cursor}


def _describe_series(reader: Reader, series_id: str) -> Mapping[str, Any]:
    return {
        "seriesId": series_id,
        "knownAt": format_iso(reader.loaded.newest_by_series[series_id]),
        "predictions": lambda _, first=FIRST, after=None: _list_predictions(reader, series_id, first, after),
    }


def _list_predictions(reader: Reader, series_id: str, first: int, after: str | None) -> Mapping[str, Any]:
    dataset = reader.loaded.manifest.dataset
    page = list_answers(dataset, series_id, reader.tenant, _check_first(first), after)
    items = [_find_prediction(reader, prediction_id) for prediction_id in page.prediction_ids]
    return {"items": [item for item in items if item is not None], "endCursor": page.cursor}


def _find_prediction(reader: Reader, prediction_id: str) -> Mapping[str, Any] | None:
    if (answer := find_seen_answer(reader.loaded, prediction_id, reader.tenant)) is None:
        return None
    audit = answer.audit
    return {
        "id": prediction_id,
        "madeAt": format_us(audit.made_at),
        "principal": audit.principal,
        "tenant": audit.tenant,
        "route": audit.route,
        "modelVersion": audit.version,
        "modelDigest": audit.release,
        "dataVersion": audit.data_version,
        "rowsVersion": audit.rows_version,
        "series": [_rename_series(part) for part in build_recorded_series(answer.rows)],
    }


def _rename_series(series: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "seriesId": series["series_id"],
        "cutoff": series["cutoff"],
        "steps": [
            {
                **{to_camel(name): value for name, value in step.items()},
                "quantiles": [
                    {"probability": q, "value": value} for q, value in step.get("quantiles", {}).items()
                ],
            }
            for step in series["steps"]
        ],
    }


def _list_alarms(dataset: str) -> list[Mapping[str, Any]]:
    return [
        {
            "name": alarm.name,
            "severity": alarm.severity,
            "subject": alarm.subject,
            "summary": alarm.summary,
            "openedAt": format_iso(alarm.opened_at),
            "runbook": alarm.runbook,
        }
        for alarm in read_open_alarms()
        if alarm.dataset in {"", dataset}
    ]
