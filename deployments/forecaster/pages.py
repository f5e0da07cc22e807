"""The OpenAPI document, and an HTML page of it.

Its examples work on the release that is loaded. The page needs no network.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deployments.console.html import Markup, join_parts, render_element, render_link, render_page
from deployments.forecaster.loaded import LoadedRelease, list_value_columns
from deployments.forecaster.request import ForecastRequest
from deployments.forecaster.response import build_response, describe_champion

JsonObject = dict[str, Any]  # a part of the OpenAPI document
Examples = Mapping[str, Mapping[str, Any]]  # title of a request -> its body

N_HISTORY_ROWS = 5  # in the example; real ones send as many as the features use


def build_openapi(app: FastAPI, loaded: LoadedRelease | None) -> JsonObject:
    """The document; with a loaded release, its own series and numbers are the examples."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    requests = build_request_examples(loaded) if loaded else {}
    content = document["paths"]["/api/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    content["examples"] = {name: {"summary": name, "value": value} for name, value in requests.items()}
    for path, example in _build_response_examples(loaded, requests).items():
        for operation in document["paths"][path].values():
            for kind in operation["responses"]["200"]["content"].values():
                kind["example"] = example
    return document


def build_request_examples(loaded: LoadedRelease) -> Examples:
    """Requests that the loaded release answers.

    They are for one series, for several as of a time, and for an own history.
    """
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
    return {
        "one series": {"series_id": first},
        "several series, as of a time": {"series_id": loaded.series[:2], "as_of": as_of},
        "a history of your own": {"series_id": "mine", "history": history},
    }


def render_document(document: JsonObject) -> str:
    """The document as one HTML page, without scripts and without a network."""
    title, described = document["info"]["title"], document["info"]["description"]
    link = render_link("/openapi.json", "/openapi.json")
    return render_page(
        title,
        render_element("h1", title),
        render_element("p", join_parts(f"{described} The same as a document: ", link, ".")),
        *(
            _render_operation(path, method, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ),
    )


def _render_operation(path: str, method: str, operation: JsonObject) -> Markup:
    name = render_element("code", join_parts(render_element("b", method.upper()), f" {path}"))
    parts = [render_element("h2", name)]
    parts.append(render_element("p", operation.get("description", operation.get("summary", ""))))
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    for title, example in body.get("examples", {}).items():
        parts += [render_element("h3", f"Request: {title}"), _render_example(example["value"])]
    for content in operation["responses"]["200"]["content"].values():
        if "example" in content:
            parts += [render_element("h3", "Answer"), _render_example(content["example"])]
    errors = [
        f"{status} {response['description']}"
        for status, response in operation["responses"].items()
        if status != "200"
    ]
    return join_parts(*parts, *([render_element("p", f"Errors: {', '.join(errors)}")] if errors else []))


def _render_example(example: object) -> Markup:
    text = example if isinstance(example, str) else json.dumps(example, indent=1, ensure_ascii=False)
    return render_element("pre", text)


def _build_response_examples(loaded: LoadedRelease | None, requests: Examples) -> dict[str, object]:
    examples: dict[str, object] = {
        "/api/v1/health/live": {"live": True},
        "/api/v1/metrics": (
            "# TYPE tidemill_requests_total counter\n"
            'tidemill_requests_total{route="/api/v1/predict",status="200"} 1.0\n'
        ),
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
    if loaded:
        request = ForecastRequest(**requests["one series"])
        prediction = json.loads(build_response(loaded, request, datetime.now(UTC)).content)
        examples["/api/v1/predict"] = prediction
        examples["/api/v1/predictions/{id}"] = _build_recorded_example(prediction, request)
        examples["/api/v1/models"] = {"champion": describe_champion(loaded)}
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
        "request": {"series_id": request.series, "as_of": None, "history": None},
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
