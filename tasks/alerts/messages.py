"""One message about the alarms of one dataset and one tick."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from tasks.alerts.sources import SEVERITIES
from tasks.core.reports.alerts import AlarmEvent, AlertMessage, OpenAlarm


class ClosedAlarm(NamedTuple):
    """An alarm that has ended at *closed_at*."""

    alarm: OpenAlarm
    closed_at: datetime


def build_message(dataset: str, opened: Sequence[OpenAlarm], closed: Sequence[ClosedAlarm]) -> AlertMessage:
    """*opened*, the most severe first, then what is well again. dataset: empty for the machine."""
    opened = sorted(opened, key=lambda alarm: -SEVERITIES.index(alarm.severity))
    lines = []
    for alarm in opened:
        late_s = (alarm.notified_at - alarm.opened_at).total_seconds() if alarm.notified_at else 0.0
        since = f" (since {_format_time(alarm.opened_at)})" if late_s > 1 else ""
        lines.append(f"{alarm.severity.upper()} {_describe(alarm)}{since}: {alarm.summary}")
        lines.append(f"    What to do: {alarm.runbook}")
    for alarm, closed_at in closed:
        lines.append(
            f"{_describe(alarm)} is well again since {_format_time(closed_at)}; it was open since"
            f" {_format_time(alarm.opened_at)}."
        )
    names = ", ".join(dict.fromkeys(alarm.name for alarm in opened))
    ended = ", ".join(dict.fromkeys(alarm.name for alarm, _ in closed))
    facts = [f"{opened[0].severity}: {names}"] if opened else []
    facts += [f"well again: {ended}"] if closed else []
    return AlertMessage(
        title=f"Tidemill, {dataset or 'machine'}: {'; '.join(facts)}",
        body="\n".join(lines),
        severity=opened[0].severity if opened else None,
        events=(
            *(_build_event(alarm, None) for alarm in opened),
            *(_build_event(alarm, closed_at) for alarm, closed_at in closed),
        ),
    )


def _build_event(alarm: OpenAlarm, closed_at: datetime | None) -> AlarmEvent:
    kept = {name: getattr(alarm, name) for name in AlarmEvent.model_fields.keys() & OpenAlarm.model_fields}
    return AlarmEvent(state="closed" if closed_at else "open", closed_at=closed_at, **kept)


def _describe(alarm: OpenAlarm) -> str:
    return f"{alarm.name} {alarm.subject}".strip()


def _format_time(time: datetime) -> str:
    return f"{time:%F %T}Z"
