"""The problems that any route may answer with, in the OpenAPI document."""

from http import HTTPStatus

from deployments.forecaster.bodies import BODY_S
from deployments.forecaster.problems import JsonObject
from deployments.forecaster.request import MAX_BODY_BYTES
from deployments.forecaster.worker import N_LARGE_WAITING

_OF_ALL = {
    401: "No key or token, or one that is not valid.",
    403: "The key has not the scope that is needed, or a page of another site asks.",
    404: "There is no such thing, or not for this key.",
    421: "The host is no name of this service.",
    429: f"The caller's rate is used up, or {N_LARGE_WAITING + 1} large requests are worked on or wait.",
    503: "No release is loaded, the answer cannot be recorded, or keys cannot be read.",
}
_OF_BODIES = {
    400: "The body is no JSON, has a repeated key or a number that is not finite.",
    408: f"The body took longer than {BODY_S:g} s.",
    413: f"The body has more than {MAX_BODY_BYTES:,} bytes.",
    415: "The body is not sent as application/json.",
    422: "A value in the body, or a key, is not accepted.",
}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def add_common_problems(document: JsonObject) -> None:
    """Add them to each operation that does not describe them itself, as RFC 9457 has them."""
    for methods in document["paths"].values():
        for method, operation in methods.items():
            responses = operation["responses"]
            for status, response in responses.items():
                if int(status) >= HTTPStatus.BAD_REQUEST:
                    response["content"] = _as_problem(response)
            common = _OF_ALL | (_OF_BODIES if method == "post" else {})
            for status, text in common.items():
                responses.setdefault(str(status), {"description": text, "content": _PROBLEM})


def _as_problem(response: JsonObject) -> JsonObject:
    """What FastAPI describes as JSON is sent as a problem; its example stays."""
    return {"application/problem+json": next(iter(response.get("content", _PROBLEM).values()))}
