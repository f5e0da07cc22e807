"""What a caller gets instead of an answer: one shape for every error, with the thing, the fact,
the rule and the next move.
"""

import json

from fastapi import Response


class ProblemError(Exception):
    """An HTTP error. status: 4xx the caller can mend, 503 the operator."""

    def __init__(self, status: int, thing: str, fact: str, rule: str, next_move: str) -> None:
        super().__init__(f"{thing}: {fact}")
        self.status = status
        self.body = {"error": {"thing": thing, "fact": fact, "rule": rule, "next": next_move}}

    def response(self) -> Response:
        """The error as JSON, in ASCII: what a caller sent may be no Unicode."""
        return Response(json.dumps(self.body), self.status, media_type="application/json")
