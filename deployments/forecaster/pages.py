"""The OpenAPI document. Its examples work on the release that is loaded."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deployments.forecaster import job_views, observations, shapes
from deployments.forecaster.access import OF_PROCESS, PUBLIC
from deployments.forecaster.analysis import correlate_rows, count_rows, describe_rows
from deployments.forecaster.batch import build_batch_response
from deployments.forecaster.champion_changes import ChampionChange
from deployments.forecaster.common_problems import add_common_problems
from deployments.forecaster.explanation_shapes import StepExplanation
from deployments.forecaster.loaded import LoadedRelease, list_value_columns
from deployments.forecaster.metrics import BATCH_ROUTE, FORECAST_ROUTE
from deployments.forecaster.problems import JsonObject
from deployments.forecaster.request import CHAMPION, ForecastRequest
from deployments.forecaster.response import build_response, describe_champion
from tasks.core.calendar import parse_step_length

Examples = Mapping[str, Mapping[str, Any]]  # title of a request -> its body

PREDICT, BATCH, OBSERVATIONS = FORECAST_ROUTE, BATCH_ROUTE, "/api/v1/observations"
ANALYZE, GRAPHQL = "/api/v1/analyze", "/api/v1/graphql"
QUERY = (
    "{ champion { version seenUntil } allSeries(first: 2) { items { seriesId knownAt } } alarms { name } }"
)
QUERIED = {
    "data": {
        "champion": {"version": "1.1.0", "seenUntil": "2018-01-03T00:00:00Z"},
        "allSeries": {"items": [{"seriesId": "meter", "knownAt": "2019-01-01T00:00:00Z"}]},
        "alarms": [],
    }
}
ANALYSES: Mapping[str, Callable[[LoadedRelease, bytes], object]] = {
    f"{ANALYZE}/describe": describe_rows,
    f"{ANALYZE}/correlation": correlate_rows,
    f"{ANALYZE}/distribution": count_rows,
}
RELEASE: shapes.ReleaseRecord = {
    "version": "1.1.0",
    "digest": "9f2c...",
    "name": "ridge",
    "seen_until": "2018-01-03T00:00:00Z",
    "promoted_as_of": "2019-01-01T00:00:00Z",
}
ROLLOUT: shapes.RolloutState = {
    "dataset": "tides",
    "challenger": "5ab1...",
    "champion": "9f2c...",
    "name": "ridge",
    "state": "paused",
    "weight": 0.25,
    "steps_frac": [0.1, 0.25, 0.5, 1.0],
    "by": "ann",
    "reason": "the meters are being replaced",
    "moved_at": "2019-01-01T00:00:00Z",
}
CHANGED: ChampionChange = {
    "dataset": "tides",
    "version": "1.0.0",
    "digest": "9f2c...",
    "action": "rollback",
    "by": "grace",
    "why": "bias in the north",
    "promoted_at": "2019-01-02T08:15:00Z",
    "changes": ["model: members: removed lightgbm"],
}
EXPLANATION: shapes.RecordedExplanation = {
    "prediction_id": "019ad3a0-93c0-7d3c-8bb2-27c2f4a1b0de",
    "model": {"digest": "9f2c...", "version": "1.1.0"},
    "explanations": [
        {
            "series_id": "meter",
            "weights": {"ridge": 1.0},
            "values": {
                "z_last": {
                    "value": 4.6,
                    "event_time": "2018-12-31T00:00:00Z",
                    "known_at": "2019-01-01T00:00:00Z",
                }
            },
            "steps": [
                StepExplanation(
                    step=1,
                    event_time="2019-01-01T00:00:00Z",
                    y_hat=101.5,
                    base=90.0,
                    features={"z_last": 11.0},
                    members={},
                    calibration=0.5,
                    bounds=0.0,
                )
            ],
            "n_orders": 10,
            "n_background": 20,
        }
    ],
}
N_HISTORY_ROWS = 5  # in the example; real ones send as many as the features use


def build_openapi(app: FastAPI, loaded: LoadedRelease | None, dataset: str | None = None) -> JsonObject:
    """The document; with a loaded release, its own series and numbers are the examples.

    dataset: that requests name, where there are several.
    """
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    add_common_problems(document)
    document["components"]["securitySchemes"] = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "token": {"type": "http", "scheme": "bearer"},
    }
    document["security"] = [{"key": []}, {"token": []}]
    requests = build_request_examples(loaded) if loaded else {}
    for path, examples in requests.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        content["examples"] = {name: {"summary": name, "value": value} for name, value in examples.items()}
    for path, example in _build_response_examples(loaded, requests).items():
        for operation in document["paths"][path].values():
            for kind in get_first_response(operation)["content"].values():
                kind["example"] = example
            for parameter in operation.get("parameters", ()):
                parameter["example"] = loaded.choice.version if loaded else "1.0.0"
    for (method, path), example in {**job_views.EXAMPLES, **observations.EXAMPLES}.items():
        get_first_response(document["paths"][path][method])["content"]["application/json"]["example"] = (
            example
        )
    if dataset is not None:
        _add_dataset_parameter(document, dataset)
    return document


def _add_dataset_parameter(document: JsonObject, dataset: str) -> None:
    for path, methods in document["paths"].items():
        parameter = {
            "name": "dataset",
            "in": "query",
            "description": "Which of the service's datasets; may be left out where the key sees one alone.",
            "required": path not in OF_PROCESS and ("GET", path) not in PUBLIC,
            "schema": {"type": "string"},
            "example": dataset,
        }
        for operation in methods.values():
            operation.setdefault("parameters", []).append(parameter)


def build_request_examples(loaded: LoadedRelease) -> Mapping[str, Examples]:
    """Requests that the loaded release answers, by path."""
    first = loaded.series[0]
    as_of = loaded.newest_known.astimezone(UTC).isoformat()
    rows = (
        loaded.rows.filter(loaded.rows["series_id"] == first)
        .unique("event_time", keep="last")
        .sort("event_time")
        .tail(N_HISTORY_ROWS)
    )
    columns = list_value_columns(loaded.release.rows)
    history = [
        {"event_time": row["event_time"].isoformat(), **{c: row[c] for c in columns}}
        for row in rows.iter_rows(named=True)
    ]
    single: Examples = {
        "one series": {"series_id": first},
        "several series, as of a time": {"series_id": loaded.series[:2], "as_of": as_of},
        "the first step alone": {"series_id": first, "horizon_steps": 1},
        "explained, by a named release": {"series_id": first, "explain": True, "model": CHAMPION},
        "a history of your own": {"series_id": "mine", "history": history},
    }
    items = [
        {"series_id": first},
        {"series_id": first, "horizon_steps": 1, "explain": True},
        {"series_id": "unknown"},
    ]
    start = loaded.newest_known - 60 * parse_step_length(loaded.release.about.every)
    analyzed = {
        "series_id": first,
        "start": start.isoformat(),
        "columns": [loaded.release.about.target.column],
    }
    return {
        PREDICT: single,
        BATCH: {"several requests": {"items": items}},
        f"{ANALYZE}/describe": {"one series": analyzed, "posted rows": single["a history of your own"]},
        f"{ANALYZE}/correlation": {"with the target before": {**analyzed, "lag_steps": [1, 2]}},
        GRAPHQL: {"release, series and alarms": {"query": QUERY}},
        f"{ANALYZE}/distribution": {"five bins": {**analyzed, "bins": 5}},
        OBSERVATIONS: {"the newest row again": {"rows": [{"series_id": first, **history[-1]}]}},
    }


def get_first_response(operation: JsonObject) -> JsonObject:
    """What a good request gets."""
    response: JsonObject = next(iter(operation["responses"].values()))
    return response


def _build_response_examples(
    loaded: LoadedRelease | None, requests: Mapping[str, Examples]
) -> dict[str, object]:
    examples: dict[str, object] = {
        "/api/v1/health/live": {"live": True},
        "/api/v1/health": {
            "live": True,
            "ready": True,
            "dataset": "tides",
            "as_of": "2018-12-31T00:00:00Z",
            "age_s": 5400.0,
            "freshness": "fresh",
            "stale_after": "2h",
            "expire_after": "1d",
            "faults": [],
        },
        "/api/v1/metrics": (
            "# TYPE tidemill_requests_total counter\n"
            'tidemill_requests_total{route="/api/v1/predict",status="200"} 1.0\n'
        ),
        "/api/v1/models/{version}": {
            "release": RELEASE,
            "is_champion": True,
            "data_version": "6631...",
            "metrics": {"primary_score": "rmse", "score": 0.38, "n_cutoffs": 2500},
            "provenance": {"code": {"commit": "1d0c...", "uncommitted": None}},
            "card": "# Model card",
            "decision": {"decision": "promote", "reason": "..."},
            "lineage": [{**RELEASE, "version": "1.0.0"}],
        },
        "/api/v1/models/{version}/monitoring": {"verdict": "measured", "reason": "...", "n_cutoffs": 40},
        "/api/v1/health/ready": {
            "ready": True,
            "dataset": "tides",
            "version": "1.0.0",
            "digest": "9f2c...",
            "chosen_by": "champion",
            "rows_from": "published",
            "as_of": "2018-12-31T00:00:00Z",
            "faults": [],
        },
    }
    examples |= {"/api/v1/predictions/{id}/explain": EXPLANATION, GRAPHQL: QUERIED}
    examples |= {f"/api/v1/rollout/{command}": ROLLOUT for command in ("pause", "resume", "abort")}
    examples |= dict.fromkeys(("/api/v1/models/deploy", "/api/v1/models/rollback"), CHANGED)
    if loaded:
        now, request = datetime.now(UTC), ForecastRequest(**requests[PREDICT]["one series"])
        prediction = json.loads(build_response(loaded, request, now).content)
        examples[PREDICT] = prediction
        examples["/api/v1/predictions/{id}"] = _build_recorded_example(prediction, request)
        batch = json.dumps(requests[BATCH]["several requests"]).encode()
        examples[BATCH] = json.loads(build_batch_response(loaded, batch, now).content)
        for path, analyze in ANALYSES.items():
            body = json.dumps(next(iter(requests[path].values()))).encode()
            examples[path] = analyze(loaded, body)
        examples["/api/v1/models"] = {"champion": describe_champion(loaded), "rollout": None}
    return examples


def _build_recorded_example(prediction: JsonObject, request: ForecastRequest) -> JsonObject:
    """*prediction* as it is recorded."""
    names = ("prediction_id", "made_at", "dataset", "data_version", "rows_version")
    series = [
        {name: part[name] for name in ("series_id", "cutoff", "steps")} for part in prediction["series"]
    ]
    return {
        **{name: prediction[name] for name in names},
        "principal": {"name": "shop", "tenant": "acme"},
        "route": "POST /api/v1/predict",
        "request": {
            "series_id": request.series,
            "as_of": None,
            "horizon_steps": None,
            "levels": None,
            "history": None,
        },
        "model": {name: prediction["model"][name] for name in ("digest", "version")},
        "code_commit": None,
        "latency_ms": 0.4,
        "request_digest": "9f2c...",
        "answer_digest": "07be...",
        "series": series,
        "recomputed": {
            "state": "same",
            "reason": None,
            "largest_relative_difference": 0.0,
            "series": series,
        },
    }
