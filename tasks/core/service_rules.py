"""`service` of params.yaml: how old the newest row may be, by the clock, while it is served."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from tasks.core.calendar import parse_step_length
from tasks.core.errors import CalendarError
from tasks.core.strict import Strict

SECTION = "service"
Freshness = Literal["fresh", "stale", "expired"]


def _check_length(text: str) -> str:
    try:
        parse_step_length(text)
    except CalendarError as error:
        raise ValueError(f"{text!r} is no length of time; write for example 30m, 2h or 1d") from error
    return text


Length = Annotated[str, AfterValidator(_check_length)]


class ServiceRules(Strict):
    """From which age on of the newest row an answer is stale or refused; null: never.

    stale_after: answers have a warning.
    expire_after: there is no answer from the newest rows (503), and the service is not ready.
    """

    stale_after: Length | None = None
    expire_after: Length | None = None

    @model_validator(mode="after")
    def _check_order(self) -> "ServiceRules":
        stale, expired = self.stale_length, self.expire_length
        if stale is not None and expired is not None and stale >= expired:
            raise ValueError(
                f"`stale_after` is {self.stale_after} and `expire_after` {self.expire_after}; rows are stale"
                " before they expire. Raise `expire_after`, or leave one out."
            )
        return self

    @property
    def stale_length(self) -> timedelta | None:
        """stale_after as a length."""
        return None if self.stale_after is None else parse_step_length(self.stale_after)

    @property
    def expire_length(self) -> timedelta | None:
        """expire_after as a length."""
        return None if self.expire_after is None else parse_step_length(self.expire_after)

    def get_freshness(self, newest: datetime, now: datetime) -> Freshness:
        """The state at *now* of a row that was known at *newest*."""
        stale, expired = self.stale_length, self.expire_length
        if expired is not None and now - newest > expired:
            return "expired"
        return "stale" if stale is not None and now - newest > stale else "fresh"
