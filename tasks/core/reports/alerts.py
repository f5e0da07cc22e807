"""Alarms as others get them: the list of `tidemill alerts list`, the event `tidemill.alarm`."""

from typing import Literal

from pydantic import Field

from tasks.core.objectives import Severity
from tasks.core.reports.base import IsoTime
from tasks.core.strict import Strict


class Alarm(Strict):
    """A state that a person should know of.

    name: one of the catalog or of the feed's events; it stays.
    source: what found it; the alarm ends when the same source no longer finds it.
    dataset: whose it is; empty for the machine.
    subject: what of several: a part, an interval, a rule; empty for the only one.
    summary: what is wrong, in a sentence.
    runbook: what to do.
    has_end: False for what only happens, and of which no end is seen.
    """

    name: str
    source: str
    severity: Severity
    summary: str
    dataset: str = ""
    subject: str = ""
    runbook: str
    has_end: bool = True

    @property
    def key(self) -> str:
        """Which alarm it is, over time."""
        return f"{self.dataset}/{self.name}/{self.subject}"


class OpenAlarm(Alarm):
    """An alarm as the store has it.

    opened_at, notified_at: of the clock; notified_at is null while a cool-down or a silence holds
      its message back.
    """

    opened_at: IsoTime
    notified_at: IsoTime | None = None


class AlarmEvent(Strict):
    """The payload of the Prefect event `tidemill.alarm`.

    state: `open` when the alarm begins, `closed` when it ends.
    opened_at, closed_at: of the clock; closed_at is null while it is open.
    """

    state: Literal["open", "closed"]
    name: str
    dataset: str
    subject: str
    severity: Severity
    summary: str
    runbook: str
    opened_at: IsoTime
    closed_at: IsoTime | None = None


class AlertMessage(Strict):
    """What is sent to each address, and what it is about.

    title, body: plain text. severity: the highest in it; null when all of it is recovery.
    events: one for each alarm in it.
    """

    title: str
    body: str
    severity: Severity | None
    events: tuple[AlarmEvent, ...] = Field(default=())
