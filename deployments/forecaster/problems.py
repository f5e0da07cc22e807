"""Errors as the caller gets them.

Every error has one form: the thing, the fact, the rule and the next step.
"""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

JsonObject = dict[str, Any]  # a part of the OpenAPI document
_log = logging.getLogger("tidemill.forecaster")


class ProblemError(Exception):
    """An HTTP error as RFC 9457 has it, and the thing, the fact, the rule and the next step.

    status: 4xx for what the caller can fix, 503 for the operator.
    headers: of the response.
    """

    def __init__(
        self,
        status: int,
        thing: str,
        fact: str,
        rule: str,
        next_move: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{thing}: {fact}")
        self.status, self._headers = status, headers
        self.body = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": f"{thing}: {fact.rstrip('.')}. {rule} {next_move}",
            "thing": thing,
            "fact": fact,
            "rule": rule,
            "next": next_move,
        }

    def response(self) -> Response:
        """The error as JSON, in ASCII: what a caller sent may be no Unicode."""
        return Response(
            json.dumps(self.body), self.status, self._headers, media_type="application/problem+json"
        )


def add_problem_handlers(app: FastAPI) -> None:
    """Make *app* return every error in this form."""

    @app.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        paths = ", ".join(sorted(app.openapi()["paths"]))
        return ProblemError(
            error.status_code,
            f"{request.method} {request.url.path}"[:200],
            error.detail,
            f"There are {paths}.",
            "See /docs.",
            error.headers,
        ).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where, rule = ".".join(map(str, first["loc"])), "Parameters are as /docs describes them."
        return ProblemError(422, where[:60], str(first["msg"]), rule, "See /docs.").response()

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        _log.error("unforeseen", exc_info=error)
        fact = f"{type(error).__name__}; the log has the details"
        return ProblemError(
            500, "service", fact, "This should not happen.", "Report the time of the request to the operator."
        ).response()
