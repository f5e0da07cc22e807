"""The OpenAPI document with examples that work on the release that stands, and a page of it that
needs no network.
"""

import json
from datetime import UTC, datetime
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deployments.forecaster.answer import build_response, describe_champion
from deployments.forecaster.ask import ForecastRequest
from deployments.forecaster.source import LoadedRelease, list_value_columns

N_HISTORY_ROWS = 5  # in the example; real ones send what the features look back on


def build_openapi(app: FastAPI, standing: LoadedRelease | None) -> dict[str, Any]:
    """The document; with a standing release, its own series and numbers are the examples."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    requests = build_request_examples(standing) if standing else {}
    content = document["paths"]["/api/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    content["examples"] = {name: {"summary": name, "value": value} for name, value in requests.items()}
    for path, example in _build_response_examples(standing, requests).items():
        for operation in document["paths"][path].values():
            for kind in operation["responses"]["200"]["content"].values():
                kind["example"] = example
    return document


def build_request_examples(standing: LoadedRelease) -> dict[str, dict[str, Any]]:
    """Requests that the standing release answers: one series, several as of a time, and an own
    history.
    """
    first = standing.series[0]
    as_of = standing.newest_known.astimezone(UTC).isoformat()
    rows = (
        standing.rows.filter(standing.rows["series_id"] == first)
        .unique("event_time", keep="last")
        .sort("event_time")
        .tail(N_HISTORY_ROWS)
    )
    columns = list_value_columns(standing.release.rows)
    history = [
        {"event_time": row["event_time"].isoformat(), **{c: row[c] for c in columns}}
        for row in rows.iter_rows(named=True)
    ]
    return {
        "one series": {"series_id": first},
        "several series, as of a time": {"series_id": standing.series[:2], "as_of": as_of},
        "a history of your own": {"series_id": "mine", "history": history},
    }


def render_page(document: dict[str, Any]) -> str:
    """The document as one HTML page, without scripts and without a network."""
    parts = [
        _render_operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(document["info"]["title"])
    return (
        "<!doctype html><html lang=en><meta"
        f" charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><p>{escape(document['info']['description'])}"
        f" The same as a document: <a href=/openapi.json>/openapi.json</a>.</p>{''.join(parts)}</html>"
    )


_STYLE = (
    "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0"
    " 1rem}pre{background:#f4f4f2;padding:1rem;overflow:auto;font-size:13px}code"
    " b{color:#06c}@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}pre{background:#242424}a,code"
    " b{color:#7bf}}"
)


def _render_operation(path: str, method: str, operation: dict[str, Any]) -> str:
    out = [
        (
            f"<h2><code><b>{method.upper()}</b>"
            f" {escape(path)}</code></h2><p>{escape(operation.get('description', operation.get('summary', '')))}</p>"
        )
    ]
    examples = (
        operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
    )
    out += [
        f"<h3>Request: {escape(name)}</h3><pre>{_format_example(e['value'])}</pre>"
        for name, e in examples.items()
    ]
    for content in operation["responses"]["200"]["content"].values():
        if "example" in content:
            out.append(f"<h3>Answer</h3><pre>{_format_example(content['example'])}</pre>")
    errors = ", ".join(
        f"{status} {escape(r['description'])}"
        for status, r in operation["responses"].items()
        if status != "200"
    )
    return "".join(out) + (f"<p>Errors: {errors}</p>" if errors else "")


def _format_example(example: Any) -> str:
    return escape(example if isinstance(example, str) else json.dumps(example, indent=1, ensure_ascii=False))


def _build_response_examples(
    standing: LoadedRelease | None, requests: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    examples: dict[str, Any] = {
        "/api/v1/health/live": {"live": True},
        "/api/v1/metrics": '# TYPE tidemill_requests_total counter\ntidemill_requests_total{route="/api/v1/predict",status="200"} 1.0\n',
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
    if standing:
        examples["/api/v1/predict"] = build_response(
            standing, ForecastRequest(**requests["one series"]), datetime.now(UTC)
        ).body
        examples["/api/v1/models"] = {"champion": describe_champion(standing)}
    return examples
