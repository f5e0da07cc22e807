"""The body of a request: read within a time and a size, and described in the OpenAPI document."""

import asyncio
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from deployments.forecaster.problems import JsonObject, ProblemError
from deployments.forecaster.request import MAX_BODY_BYTES

BODY_S = 10.0  # for all of a body
DRAINED_BYTES = 16 * MAX_BODY_BYTES  # of a body beyond the cap, so that its sender gets to read the 413


async def read_request_bytes(request: Request) -> bytes:
    """The body. Raises ProblemError: 413 when it is too long, 408 when it takes too long."""
    try:
        async with asyncio.timeout(BODY_S):
            return await _read_whole_body(request)
    except TimeoutError as error:
        rule = f"A body is sent within {BODY_S:g} seconds."
        way_out = "Retry on a new connection."
        raise ProblemError(408, "body", "not complete", rule, way_out, {"connection": "close"}) from error


async def _read_whole_body(request: Request) -> bytes:
    body, n_bytes = bytearray(), 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        if n_bytes <= MAX_BODY_BYTES:
            body += chunk
        elif n_bytes > DRAINED_BYTES:
            break
    if n_bytes > MAX_BODY_BYTES:
        raise ProblemError(
            413,
            "body",
            f"more than {MAX_BODY_BYTES:,} bytes",
            "A body is capped.",
            "Send fewer rows; the features use the last ones only.",
        )
    return bytes(body)


def describe_body(kind: type[BaseModel], examples: JsonObject | None = None) -> JsonObject:
    """The part of an operation for a body that is *kind*. examples: bodies by their title."""
    schema = _resolve_schema_refs(kind.model_json_schema())
    content: JsonObject = {"schema": schema}
    if examples is not None:
        content["examples"] = {name: {"summary": name, "value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _resolve_schema_refs(schema: JsonObject) -> JsonObject:
    """*schema* with the content of its `$defs` in place of the references."""
    defs = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(defs[node["$ref"].rsplit("/", 1)[1]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: JsonObject = resolve(schema)
    return resolved
