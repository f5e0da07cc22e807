"""Alert events: what somebody should look at, said once when it begins, each with its runbook in
docs/runbooks/.

An event is one line of JSON in `events.jsonl` beside the feed's table, and one on stderr;
Prometheus counts it by name.
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
from tasks.feed.land import LandedCommit
from tasks.feed.params import FeedParams
from tasks.feed.sort import LATE, QUARANTINE

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

_MAX_BYTES = 5_000_000  # of the file; one older one is kept
_BROKEN = {"missing": "field_removed", "wrong_type": "field_retyped", "renamed": "field_renamed"}
_MOST = 0.5  # of the records of the window: a change of the producer, not dirt
_CALM = 0.5  # of its threshold, below which a state has ended and may be said again


class EventReporter(Protocol):
    """How an event is raised where the folder is known."""

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
    found = []
    for path in (folder / f"{NAME}.1", folder / NAME):
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                found.append(FeedEvent.model_validate_json(line))
            except ValidationError:
                continue
    return found


class FeedAlarms:
    """Watches what lands and raises an event when a state begins, once until it has ended.

    Shares count over `feed.alert_window_s` of clock time.
    """

    def __init__(self, params: FeedParams, raise_: EventReporter) -> None:
        self._params, self._raise = params, raise_
        self._window: deque[tuple[float, LandedCommit]] = deque()
        self._on: set[tuple[str, str]] = set()

    def add_commit(self, landed: LandedCommit, now: float | None = None) -> None:
        """Look at one more commit. now: seconds of a clock that only goes forward."""
        now = time.monotonic() if now is None else now
        if landed.added:
            self._raise("field_added", fields=landed.added, version=landed.version)
        self._window.append((now, landed))
        while self._window[0][0] < now - self._params.alert_window_s:
            self._window.popleft()
        recent = [one for _, one in self._window]
        n = sum(sum(one.counts.values()) for one in recent)
        for name, place, bound in (
            ("quarantine_high", QUARANTINE, self._params.alert_quarantine_frac),
            ("late_high", LATE, self._params.alert_late_frac),
        ):
            share = sum(one.counts.get(place, 0) for one in recent) / n
            self._update_alarm(
                (name, ""), share, bound, {"frac": round(share, 6), "n_records": n, "version": landed.version}
            )
        for rule, field in self._seen(recent):
            n_broken = sum(one.broken.get((rule, field), 0) for one in recent)
            self._update_alarm(
                (_BROKEN[rule], field),
                n_broken / n,
                _MOST,
                {"field": field, "n_broken": n_broken, "n_records": n, "version": landed.version},
            )

    def _seen(self, recent: Iterable[LandedCommit]) -> set[tuple[str, str]]:
        """(rule, field) that is broken somewhere, or was said to be."""
        rule_of = {event: rule for rule, event in _BROKEN.items()}
        said = {(rule_of[event], field) for event, field in self._on if event in rule_of}
        return said | {key for one in recent for key in one.broken if key[0] in _BROKEN}

    def _update_alarm(
        self, key: tuple[str, str], share: float, bound: float, facts: Mapping[str, Any]
    ) -> None:
        if key not in self._on and share > bound:
            self._on.add(key)
            self._raise(key[0], **facts)
        elif key in self._on and share < bound * _CALM:
            self._on.discard(key)
