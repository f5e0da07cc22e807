"""The audit of what the service has answered: one row for each answer, in a chain of hashes.

The hash of a row is over all its columns and the hash of the row before. Its number and hash are
the head, which is kept apart in `<home>/audit/<dataset>.head` and is written after every
transaction, without an fsync: after a power failure it may be some seconds behind, never ahead.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tasks.edges.safe_names import encode_name
from tasks.edges.served_store import has_audit
from tasks.edges.settings import read_settings

FIRST_HASH = "0" * 64  # of the row before the first one
RETENTION_ROUTE = "retention"  # of a row that says which month was moved or deleted


class AuditEntry(NamedTuple):
    """What is recorded of an answer besides its steps.

    request: the series, as_of and the digest of an own history, as JSON.
    release: its digest.
    code_commit: of the code that built the release.
    latency_us: from the start of the request until the answer was ready to be recorded.
    received, sent: the bytes, of which the digests are kept.
    """

    principal: str
    tenant: str
    route: str
    request: str
    release: str | None
    version: str | None
    data_version: str | None
    code_commit: str | None
    rows_version: str | None
    latency_us: int | None
    received: bytes
    sent: bytes


class AuditedAnswer(NamedTuple):
    """made_at_us: microseconds since 1970. steps_digest: of `compute_steps_digest`."""

    prediction_id: str | None
    made_at_us: int
    entry: AuditEntry
    steps_digest: str | None


class AuditRow(NamedTuple):
    """A row of the table; see AuditEntry. prediction_id: None of a month that was moved."""

    seq: int
    prediction_id: str | None
    made_at: int
    principal: str
    tenant: str
    route: str
    request: str
    release: str | None
    version: str | None
    data_version: str | None
    code_commit: str | None
    rows_version: str | None
    latency_us: int | None
    request_digest: str | None
    answer_digest: str | None
    steps_digest: str | None
    hash: str


class AuditHead(NamedTuple):
    """The newest row. hash: of it."""

    seq: int
    hash: str


class MovedMonth(NamedTuple):
    """A month of answers that is not in the store any more.

    seq: of the row of the audit that says so.
    sha256: of its file; None when it was deleted.
    counts: of its answers, as `count_served` has them.
    """

    seq: int
    sha256: str | None
    counts: dict[str, int]


_NAMES = ", ".join(AuditRow._fields)
_INSERT = f"INSERT INTO audit ({_NAMES}) VALUES ({', '.join('?' * len(AuditRow._fields))})"  # noqa: S608
SELECT_AUDIT = f"SELECT {_NAMES} FROM audit"  # noqa: S608
_N_LOOKED_THROUGH = 100_000  # answers: .1 s
_LATENCIES = """
SELECT latency_us FROM audit WHERE seq > (SELECT max(seq) FROM audit) - ? AND release = ? AND route = ?
AND made_at >= ? AND json_extract(request, '$.as_of') IS NULL AND json_extract(request, '$.history') IS NULL
"""


def get_audit_head_path(dataset: str) -> Path:
    """Where the head of the audit of *dataset* is."""
    return read_settings().home / "audit" / f"{encode_name(dataset)}.head"


def compute_steps_digest(rows: Sequence[Sequence[object]]) -> str:
    """sha256 of the rows of an answer's steps, in the order of series and step."""
    ordered = sorted(rows, key=lambda row: (row[0], row[2]))
    return hashlib.sha256(json.dumps(ordered).encode()).hexdigest()


def write_audit(connection: sqlite3.Connection, answers: Sequence[AuditedAnswer]) -> AuditHead | None:
    """Append *answers* within the caller's transaction, which holds the write lock.

    Returns the new head; None when there is nothing to append.
    """
    if not answers:
        return None
    last = connection.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    seq, digest = last or (0, FIRST_HASH)
    rows = []
    for answer in answers:
        seq += 1
        *plain, received, sent = answer.entry
        content = (
            seq,
            answer.prediction_id,
            answer.made_at_us,
            *plain,
            hashlib.sha256(received).hexdigest(),
            hashlib.sha256(sent).hexdigest(),
            answer.steps_digest,
        )
        digest = compute_row_hash(digest, content)
        rows.append((*content, digest))
    connection.executemany(_INSERT, rows)
    return AuditHead(seq, digest)


def write_audit_head(dataset: str, head: AuditHead) -> None:
    """Keep *head* apart, unless a newer one of another process is there.

    In place, since its length is always the same.
    """
    path = get_audit_head_path(dataset)
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        text = os.pread(handle, 20, 0)
        if not text.isdigit() or int(text) < head.seq:
            os.pwrite(handle, f"{head.seq:020d} {head.hash}\n".encode(), 0)
    finally:
        os.close(handle)


def find_audit_row(connection: sqlite3.Connection, prediction_id: str) -> AuditRow | None:
    """The row of an answer; None for an unknown one, or one that an older version recorded."""
    if not has_audit(connection):
        return None
    row = connection.execute(f"{SELECT_AUDIT} WHERE prediction_id = ?", [prediction_id]).fetchone()
    return None if row is None else AuditRow(*row)


def read_moved_months(connection: sqlite3.Connection) -> dict[str, MovedMonth]:
    """By month, 2026-08; of a month that was moved twice, the last time."""
    if not has_audit(connection):
        return {}
    months = {}
    query = "SELECT seq, request FROM audit WHERE prediction_id IS NULL AND route = ? ORDER BY seq"
    for seq, text in connection.execute(query, [RETENTION_ROUTE]):
        with suppress(ValueError, KeyError, TypeError):  # changed: its hash says so
            content = json.loads(text)
            months[content["month"]] = MovedMonth(seq, content["sha256"], content["counts"])
    return months


def read_latencies(connection: sqlite3.Connection, release: str, route: str, since_us: int) -> list[int]:
    """Microseconds of the answers of *release* from the newest rows, among the newest answers."""
    if not has_audit(connection):
        return []
    return [us for (us,) in connection.execute(_LATENCIES, [_N_LOOKED_THROUGH, release, route, since_us])]


def list_answering(connection: sqlite3.Connection, since_us: int) -> set[str]:
    """Digests of the releases that have answered since then; it reads the whole audit."""
    if not has_audit(connection):
        return set()
    query = "SELECT DISTINCT release FROM audit WHERE made_at >= ? AND release IS NOT NULL"
    return {release for (release,) in connection.execute(query, [since_us])}


def compute_row_hash(previous: str, content: Sequence[object]) -> str:
    """Of JSON, so that a value that moves to another column or type changes it."""
    return hashlib.sha256(f"{previous}{json.dumps(content, default=repr)}".encode()).hexdigest()
