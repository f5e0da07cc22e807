"""Open alarms and the outbox, in one SQLite file: `<home>/alerts/alerts.db`.

What a tick finds and the messages about it are one transaction, synced before anything is sent.
A delivery is noted before its attempt and after it, so that a kill in between is seen.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from tasks.alerts.messages import ClosedAlarm, build_message
from tasks.alerts.params import AlertParams
from tasks.alerts.sources import SEVERITIES, CollectedAlarms
from tasks.core.reports.alerts import AlertMessage, OpenAlarm
from tasks.edges.files import sync_folder
from tasks.edges.open_alarms import get_alerts_path, select_open_alarms

PREFECT = "prefect"  # the address of Prefect's event; all others are hashes
KEEP = timedelta(days=30)  # of ended alarms and of messages that were delivered
GIVE_UP = timedelta(days=7)  # after which a message that no attempt delivered is dropped
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0
_N_IN_ORDER = 20  # attempts (half an hour) after which a message lets later ones pass
_TABLES = """
CREATE TABLE IF NOT EXISTS alarms (
    key TEXT PRIMARY KEY, dataset TEXT NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL,
    subject TEXT NOT NULL, alarm TEXT NOT NULL,  -- JSON of OpenAlarm
    closed_at TEXT,              -- NULL: open
    last_notified_at TEXT,       -- of this opening or an earlier one
    notified_severity TEXT
);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, made_at TEXT NOT NULL, message TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS deliveries (
    message_id INTEGER NOT NULL, address TEXT NOT NULL,
    n_attempts INTEGER NOT NULL DEFAULT 0,
    is_running INTEGER NOT NULL DEFAULT 0, -- 1: an attempt began, and nothing is known of its end
    due_at REAL NOT NULL,        -- seconds since 1970
    delivered_at TEXT,           -- NULL: waits
    fault TEXT,                  -- of the last attempt
    PRIMARY KEY (message_id, address)
);
CREATE TABLE IF NOT EXISTS ticks (id INTEGER PRIMARY KEY CHECK (id = 1), at TEXT NOT NULL);
"""


class Delivery(NamedTuple):
    """A message that waits for an address.

    is_repeat: an earlier attempt was cut off by a kill, so that it may have arrived.
    """

    message_id: int
    message: AlertMessage
    n_attempts: int
    is_repeat: bool


class AddressState(NamedTuple):
    """n_waiting: messages that wait. fault: of the last attempt; None when it was delivered."""

    n_waiting: int
    fault: str | None


def hash_address(url: str) -> str:
    """What identifies an address in the outbox: its hash, since addresses are secrets."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


class AlertStore:
    """The file; each thread opens its own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def update(
        self,
        collected: CollectedAlarms,
        dataset: str,
        params: AlertParams,
        addresses: Sequence[str],
        now: datetime,
    ) -> list[AlertMessage]:
        """Open and close alarms, and put messages about it into the outbox; the messages.

        dataset: the current one; alarms of another end without a message.
        addresses: hashes, or PREFECT.
        """
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._open_alarms(collected, now)
            closed = self._close_alarms(collected, dataset, now)
            opened = self._select_due(params, now)
            messages = []
            for group in sorted({alarm.dataset for alarm in (*opened, *(c.alarm for c in closed))}):
                message = build_message(
                    group,
                    [alarm for alarm in opened if alarm.dataset == group],
                    [ended for ended in closed if ended.alarm.dataset == group],
                )
                self._add_message(message, addresses, now)
                messages.append(message)
            self._connection.execute("INSERT OR REPLACE INTO ticks VALUES (1, ?)", [now.isoformat()])
            self._delete_old(now)
        return messages

    def _open_alarms(self, collected: CollectedAlarms, now: datetime) -> None:
        for alarm in collected.alarms:
            row = self._connection.execute(
                "SELECT alarm, closed_at FROM alarms WHERE key = ?", [alarm.key]
            ).fetchone()
            before = OpenAlarm.model_validate_json(row[0]) if row and row[1] is None else None
            opened = OpenAlarm(
                **alarm.model_dump(),
                opened_at=before.opened_at if before else now,
                notified_at=before.notified_at if before else None,
            )
            self._connection.execute(
                "INSERT INTO alarms (key, dataset, source, name, subject, alarm) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET source = excluded.source, alarm = excluded.alarm,"
                " closed_at = NULL",
                [alarm.key, alarm.dataset, alarm.source, alarm.name, alarm.subject, opened.model_dump_json()],
            )

    def _close_alarms(self, collected: CollectedAlarms, dataset: str, now: datetime) -> list[ClosedAlarm]:
        found, closed = {alarm.key for alarm in collected.alarms}, []
        for alarm in self.list_open():
            is_other = alarm.dataset not in {"", dataset}
            if alarm.key in found or not (is_other or alarm.source in collected.sources):
                continue
            self._connection.execute(
                "UPDATE alarms SET closed_at = ? WHERE key = ?", [now.isoformat(), alarm.key]
            )
            if alarm.notified_at is not None and alarm.has_end and not is_other:
                closed.append(ClosedAlarm(alarm, now))
        return closed

    def _select_due(self, params: AlertParams, now: datetime) -> list[OpenAlarm]:
        """Open alarms to send now, noted as sent."""
        silenced = {s.alarm for s in params.silences if s.ends_at is None or s.ends_at > now}
        due = []
        for text, last, severity in self._connection.execute(
            "SELECT alarm, last_notified_at, notified_severity FROM alarms WHERE closed_at IS NULL"
            " ORDER BY key"
        ).fetchall():
            alarm = OpenAlarm.model_validate_json(text)
            is_worse = severity is not None and SEVERITIES.index(alarm.severity) > SEVERITIES.index(severity)
            if (alarm.notified_at is not None and not is_worse) or {alarm.name, alarm.subject} & silenced:
                continue
            since_s = (now - datetime.fromisoformat(last)).total_seconds() if last else float("inf")
            if since_s < params.cooldown_s and not is_worse:
                continue
            alarm = alarm.model_copy(update={"notified_at": now})
            self._connection.execute(
                "UPDATE alarms SET alarm = ?, last_notified_at = ?, notified_severity = ? WHERE key = ?",
                [alarm.model_dump_json(), now.isoformat(), alarm.severity, alarm.key],
            )
            due.append(alarm)
        return due

    def _add_message(self, message: AlertMessage, addresses: Sequence[str], now: datetime) -> None:
        row = self._connection.execute(
            "INSERT INTO messages (made_at, message) VALUES (?, ?)",
            [now.isoformat(), message.model_dump_json()],
        )
        self._connection.executemany(
            "INSERT INTO deliveries (message_id, address, due_at) VALUES (?, ?, ?)",
            [(row.lastrowid, address, now.timestamp()) for address in addresses],
        )

    def _delete_old(self, now: datetime) -> None:
        before = (now - KEEP).isoformat()
        self._connection.execute("DELETE FROM alarms WHERE closed_at < ?", [before])
        self._connection.execute(
            "DELETE FROM deliveries WHERE delivered_at IS NULL AND message_id IN"
            " (SELECT id FROM messages WHERE made_at < ?)",
            [(now - GIVE_UP).isoformat()],
        )
        for table, key in (("deliveries", "message_id"), ("messages", "id")):
            self._connection.execute(
                f"DELETE FROM {table} WHERE {key} IN (SELECT id FROM messages WHERE made_at < ?)",  # noqa: S608
                [before],
            )

    def list_open(self) -> list[OpenAlarm]:
        """Open alarms, by key."""
        return select_open_alarms(self._connection)

    def find_last_tick(self) -> datetime | None:
        """When the alarms were updated last."""
        row = self._connection.execute("SELECT at FROM ticks").fetchone()
        return datetime.fromisoformat(row[0]) if row else None

    def read_address_states(self) -> Mapping[str, AddressState]:
        """By address of the outbox."""
        rows = self._connection.execute(
            "SELECT address, sum(delivered_at IS NULL), max(CASE WHEN delivered_at IS NULL THEN fault END)"
            " FROM deliveries GROUP BY address"
        )
        return {address: AddressState(n_waiting, fault) for address, n_waiting, fault in rows}

    def start_attempt(self, address: str, now: datetime) -> Delivery | None:
        """The oldest message that waits for *address*, if it is due; its attempt is noted first.

        Messages keep their order. The next attempt is due after a pause that doubles.
        """
        row = self._connection.execute(
            "SELECT message_id, message, n_attempts, is_running, due_at FROM deliveries"
            " JOIN messages ON messages.id = message_id"
            " WHERE address = ? AND delivered_at IS NULL"
            " ORDER BY n_attempts >= ?, message_id LIMIT 1",
            [address, _N_IN_ORDER],
        ).fetchone()
        if row is None or row[4] > now.timestamp():
            return None
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(row[2], 10), LONGEST_PAUSE_S)
        with self._connection:
            self._connection.execute(
                "UPDATE deliveries SET n_attempts = n_attempts + 1, is_running = 1, due_at = ?"
                " WHERE message_id = ? AND address = ?",
                [now.timestamp() + pause_s, row[0], address],
            )
        return Delivery(row[0], AlertMessage.model_validate_json(row[1]), row[2] + 1, bool(row[3]))

    def end_attempt(self, delivery: Delivery, address: str, fault: str | None, now: datetime) -> None:
        """Note what came of it; *fault*: why it was not delivered."""
        with self._connection:
            self._connection.execute(
                "UPDATE deliveries SET is_running = 0, fault = ?, delivered_at = ?"
                " WHERE message_id = ? AND address = ?",
                [fault, now.isoformat() if fault is None else None, delivery.message_id, address],
            )


@contextmanager
def open_store() -> Iterator[AlertStore]:
    """The store in home, made when it is not there."""
    path = get_alerts_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with closing(sqlite3.connect(path, timeout=10.0, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(_TABLES)
        if is_new:
            sync_folder(path.parent)
        yield AlertStore(connection)


def render_events(message: AlertMessage) -> str:
    """The events of *message* as JSON."""
    return json.dumps([event.model_dump(mode="json") for event in message.events])


def read_now() -> datetime:
    """The clock, UTC."""
    return datetime.now(UTC)
