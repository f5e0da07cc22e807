"""Alert events: what a person should look at, raised once when it begins.

Each has its runbook in docs/runbooks/. An event is one line of JSON in `events.jsonl` next to the
feed's table, and one on stderr; Prometheus counts it by name.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import Counter
from pydantic import ValidationError

from tasks.core.reports.feed import FeedEvent
from tasks.feed.dispositions import LATE, QUARANTINE
from tasks.feed.land import LandedCommit
from tasks.feed.params import FeedParams

NAME = "events.jsonl"
EVENTS: Mapping[str, str] = {
    "field_added": "a field came that the table did not have; it is a column now",
    "field_removed": "a field of the contract is absent in most records",
    "field_retyped": "a field of the contract has another type in most records",
    "field_renamed": "a field of the contract is absent in most records, and an unknown one is there",
    "quarantine_high": "more records than `feed.alert_quarantine_frac` went to the quarantine",
    "late_high": "more records than `feed.alert_late_frac` came too late to be rows",
    "commit_refused": "another writer had read on; what was held is read again",
    "offset_lost": "what is to be read next is not in the topic any more; landing has stopped",
    "source_down": "the feed's source does not answer; landing waits for it",
    "member_fenced": "another process took this member's place in the group",
    "records_lost": (
        "a socket or an exchange did not bring some records, and nothing else has them; landing has gone on"
        " behind them"
    ),
    "registry_down": "the schema registry does not answer; landing waits for it",
}
RAISED = Counter("tidemill_feed_events", "Alert events raised, by name.", ["event"], registry=None)
for _event in EVENTS:
    RAISED.labels(_event)  # from 0, so that Prometheus sees the first one as an increase

_MAX_BYTES = 5_000_000  # of the file; one older file is kept
_BROKEN = {"missing": "field_removed", "wrong_type": "field_retyped", "renamed": "field_renamed"}
_CHANGED_FRAC = 0.5  # of the window's records: a change of the producer, not single bad records
_END_FRAC = 0.5  # of its threshold, below which a state has ended and may be raised again


class EventReporter(Protocol):
    """Raises events of one feed."""

    def __call__(self, name: str, **facts: Any) -> None:
        """Raise event *name*."""
        ...


def report_event(folder: Path, name: str, **facts: Any) -> None:
    """Raise event *name* (one of EVENTS) with *facts*. folder: of the dataset's feed."""
    line = json.dumps(
        {"event": name, "at": datetime.now(UTC).isoformat(), "about": EVENTS[name], "facts": facts},
        default=str,
    )
    path = folder / NAME
    if path.exists() and path.stat().st_size > _MAX_BYTES:
        path.replace(path.with_suffix(".jsonl.1"))
    with path.open("a") as handle:
        handle.write(line + "\n")
    RAISED.labels(name).inc()
    print(f"event {line}", file=sys.stderr, flush=True)


def read_events(folder: Path) -> list[FeedEvent]:
    """Events, oldest first. A line that a kill cut off is left out."""
    events = []
    for path in (folder / f"{NAME}.1", folder / NAME):
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                events.append(FeedEvent.model_validate_json(line))
            except ValidationError:
                continue
    return events


class FeedAlarms:
    """Raises an event when a state of what lands begins, once until it has ended.

    Fractions count over `feed.alert_window_s` of clock time.
    """

    def __init__(self, params: FeedParams, report: EventReporter) -> None:
        self._params, self._report = params, report
        self._window: deque[tuple[float, LandedCommit]] = deque()
        self._raised: set[tuple[str, str]] = set()  # (event, field)

    def add_commit(self, landed: LandedCommit, now: float | None = None) -> None:
        """Count one more commit. now: seconds of a clock that only goes forward."""
        now = time.monotonic() if now is None else now
        if landed.added:
            self._report("field_added", fields=landed.added, version=landed.version)
        self._window.append((now, landed))
        while self._window[0][0] < now - self._params.alert_window_s:
            self._window.popleft()
        recent = [commit for _, commit in self._window]
        n = sum(sum(commit.counts.values()) for commit in recent)
        for name, disposition, bound in (
            ("quarantine_high", QUARANTINE, self._params.alert_quarantine_frac),
            ("late_high", LATE, self._params.alert_late_frac),
        ):
            frac = sum(commit.counts.get(disposition, 0) for commit in recent) / n
            facts: dict[str, object] = {"frac": round(frac, 6), "n_records": n, "version": landed.version}
            self._update_alarm((name, ""), frac, bound, facts)
        for rule, field in self._list_broken(recent):
            n_broken = sum(commit.broken.get((rule, field), 0) for commit in recent)
            facts = {"field": field, "n_broken": n_broken, "n_records": n, "version": landed.version}
            self._update_alarm((_BROKEN[rule], field), n_broken / n, _CHANGED_FRAC, facts)

    def _list_broken(self, recent: Iterable[LandedCommit]) -> set[tuple[str, str]]:
        """(rule, field) that is broken in one of *recent*, or whose event was raised."""
        rule_of = {event: rule for rule, event in _BROKEN.items()}
        raised = {(rule_of[event], field) for event, field in self._raised if event in rule_of}
        return raised | {key for commit in recent for key in commit.broken if key[0] in _BROKEN}

    def _update_alarm(
        self, key: tuple[str, str], frac: float, bound: float, facts: Mapping[str, Any]
    ) -> None:
        if key not in self._raised and frac > bound:
            self._raised.add(key)
            self._report(key[0], **facts)
        elif key in self._raised and frac < bound * _END_FRAC:
            self._raised.discard(key)
