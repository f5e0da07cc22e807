"""What the jobs of a home do, as they do it: an append-only log of numbered events.

`<home>/events.db` (SQLite, WAL) takes lines from several processes. A number is given once
and never again, and a reader that has seen all up to `n` asks for those after it, so that a reload
or a restart loses none. It is for people who watch: what cannot be written is left out, said once
on stderr, and stops no job. The journals and the audit are elsewhere.
"""

import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from tasks.edges.settings import read_settings

KEPT = 200_000  # events; older ones are deleted
FLUSH_S = 0.1  # events of a series that come faster than this are written together
_WAIT_S = 2.0  # for another process that is writing
_TRIM_EVERY = 1_000
_TABLE = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,   -- since 1970 UTC
    kind TEXT NOT NULL,       -- as `training.epoch`
    dataset TEXT NOT NULL,
    subject TEXT NOT NULL,    -- a model, a stage, a digest
    fields TEXT NOT NULL      -- JSON
)
"""

Field = str | float | int | bool | None
Fields = Mapping[str, Field]


class Event(NamedTuple):
    """One event. at_us: microseconds since 1970 UTC. subject: a model, a stage or a digest."""

    number: int
    at_us: int
    kind: str
    dataset: str
    subject: str
    fields: dict[str, Field]


class EventLabel(NamedTuple):
    """Whose events those of a block of code are. fields: part of each of them."""

    dataset: str
    subject: str
    fields: Fields = {}  # noqa: RUF012  (never changed)


class _Log:
    """The connection of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.opened: tuple[Path, int] | None = None  # file, process
        self.connection: sqlite3.Connection | None = None
        self.has_failed = False

    def connect(self, path: Path) -> sqlite3.Connection:
        if self.connection is None or self.opened != (path, os.getpid()):  # a fork has its own
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=_WAIT_S, check_same_thread=False)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=NORMAL")
            self.connection.execute(_TABLE)
            self.opened = (path, os.getpid())
        return self.connection


_log = _Log()
_label: ContextVar[EventLabel | None] = ContextVar("event_label", default=None)


def append_event(kind: str, dataset: str, subject: str, fields: Fields) -> None:
    """Append one event. It never raises for a fault of the file."""
    _append([_build_row(kind, EventLabel(dataset, subject, fields), {})])


@contextmanager
def label_events(label: EventLabel | None, **fields: Field) -> Iterator[None]:
    """Let the series that the code of this block reports have *label* and *fields*."""
    token = _label.set(label and label._replace(fields={**label.fields, **fields}))
    try:
        yield
    finally:
        _label.reset(token)


def get_event_label() -> EventLabel | None:
    """The label of the block around; None outside of one."""
    return _label.get()


class EventSeries:
    """Many events of one kind in a row, such as the epochs of a fit, written a few at a time.

    It belongs to the label of the block that makes it; outside of one it writes nothing.
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.label = kind, _label.get()
        self.waiting: list[tuple[int, str, str, str, str]] = []
        self.flushed = time.monotonic()

    def append(self, **fields: Field) -> None:
        """Append one event; it is written within FLUSH_S if another follows, or by `flush`."""
        if self.label is None:
            return
        self.waiting.append(_build_row(self.kind, self.label, fields))
        if time.monotonic() - self.flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        waiting, self.waiting, self.flushed = self.waiting, [], time.monotonic()
        if waiting:
            _append(waiting)


def read_events(
    since: int = 0, limit: int = 1_000, dataset: str | None = None, kind: str = ""
) -> list[Event]:
    """The first *limit* events after the number *since*, oldest first.

    dataset: of this one alone. kind: how the kinds of those begin.
    """
    query = "SELECT number, at_us, kind, dataset, subject, fields FROM events WHERE number > ?"
    values: list[str | int] = [since]
    if dataset is not None:
        query, values = f"{query} AND dataset = ?", [*values, dataset]
    if kind:
        query, values = f"{query} AND substr(kind, 1, ?) = ?", [*values, len(kind), kind]
    rows = _fetch_rows(f"{query} ORDER BY number LIMIT ?", [*values, limit])
    return [Event(n, us, kind, name, subject, json.loads(f)) for n, us, kind, name, subject, f in rows]


def read_last_number() -> int:
    """The number of the newest event; 0 before the first."""
    return max(
        (number for (number,) in _fetch_rows("SELECT max(number) FROM events", []) if number), default=0
    )


def get_event_path() -> Path:
    """Where the events of this home are."""
    return read_settings().home / "events.db"


def _fetch_rows(query: str, values: list[str | int]) -> list[tuple[Any, ...]]:
    """The rows of *query*; none while the file, or the table in it, is not there yet."""
    path = get_event_path()
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)) as reader:
        is_made = reader.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone()
        return reader.execute(query, values).fetchall() if is_made else []


def _build_row(kind: str, label: EventLabel, fields: Fields) -> tuple[int, str, str, str, str]:
    figures = {k: v for k, v in {**label.fields, **fields}.items() if not _is_endless(v)}
    return (time.time_ns() // 1_000, kind, label.dataset, label.subject, json.dumps(figures))


def _is_endless(value: Field) -> bool:
    """Whether JSON has no such number: NaN or an infinity."""
    return isinstance(value, float) and not abs(value) < float("inf")


def _append(rows: list[tuple[int, str, str, str, str]]) -> None:
    try:
        with _log.lock:
            connection = _log.connect(get_event_path())
            with connection:
                statement = (
                    "INSERT INTO events (at_us, kind, dataset, subject, fields) VALUES (?, ?, ?, ?, ?)"
                )
                for row in rows:
                    last = connection.execute(statement, row).lastrowid or 0
                    if last % _TRIM_EVERY == 0:
                        connection.execute("DELETE FROM events WHERE number <= ?", [last - KEPT])
    except (sqlite3.Error, OSError) as error:
        if not _log.has_failed:
            print(f"An event was not kept for the console: {error}.", file=sys.stderr)
        _log.has_failed = True
