"""Whether the audit of a dataset is as it was written: `tidemill audit verify`."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from tasks.edges.audit import (
    FIRST_HASH,
    SELECT_AUDIT,
    AuditHead,
    AuditRow,
    MovedMonth,
    compute_row_hash,
    compute_steps_digest,
    get_audit_head_path,
    read_moved_months,
)
from tasks.edges.files import compute_file_hash
from tasks.edges.served import SELECT_STEPS
from tasks.edges.served_store import (
    convert_store_errors,
    format_month,
    get_served_path,
    has_audit,
    open_for_reading,
)


class AuditFault(NamedTuple):
    """The first row that is not as it was written.

    kind: `changed`: its content, or its place among the others, also of a row that was inserted.
      `missing`: rows before the next one. `truncated`: rows at the end, which the head knows.
      `rewritten`: all rows fit, and not to the head. `head`: it cannot be read.
      `steps`: the row is as written, the forecast steps of its answer are not.
    """

    seq: int
    kind: Literal["changed", "missing", "truncated", "rewritten", "head", "steps"]
    fact: str


class AuditResult(NamedTuple):
    """n_after_head: rows that were written after the head, as after a power failure."""

    n_rows: int
    n_after_head: int
    head: AuditHead | None
    fault: AuditFault | None


def list_audit(dataset: str, limit: int) -> list[AuditRow]:
    """The newest rows, the newest first."""
    path = get_served_path(dataset)
    if not path.exists():
        return []
    with open_for_reading(path) as connection:
        if not has_audit(connection):
            return []
        rows = connection.execute(f"{SELECT_AUDIT} ORDER BY seq DESC LIMIT ?", [limit]).fetchall()
    return [AuditRow(*row) for row in rows]


def verify_audit(dataset: str) -> AuditResult:
    """Compute every hash again, and compare with the head and with the steps of each answer.

    Raises ServedStoreError when the file cannot be read.
    """
    path = get_served_path(dataset)
    try:
        head = _read_head(dataset)  # before the rows, which are at least as new
    except ValueError:
        fact = f"{get_audit_head_path(dataset)} has no number and hash"
        return AuditResult(0, 0, None, AuditFault(0, "head", fact))
    if not path.exists():
        return _compare_with_head(0, FIRST_HASH, head)
    with open_for_reading(path) as connection:
        connection.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
        if not has_audit(connection):
            return _compare_with_head(0, FIRST_HASH, head)
        return _verify_rows(connection, path, head)


def _verify_rows(connection: sqlite3.Connection, path: Path, head: AuditHead | None) -> AuditResult:
    months = read_moved_months(connection)
    seq, digest, at_head = 0, FIRST_HASH, None
    for content in connection.execute(f"{SELECT_AUDIT} ORDER BY seq"):
        row = AuditRow(*content)
        if row.seq != seq + 1:
            fact = f"the row before {row.seq} has the number {seq}"
            return AuditResult(seq, 0, head, AuditFault(seq + 1, "missing", fact))
        if compute_row_hash(digest, content[:-1]) != row.hash:
            fact = "its hash is not that of its content after the row before it"
            return AuditResult(seq, 0, head, AuditFault(row.seq, "changed", fact))
        if (steps_fact := _find_steps_fault(connection, row, months)) is not None:
            return AuditResult(seq, 0, head, AuditFault(row.seq, "steps", steps_fact))
        seq, digest = row.seq, row.hash
        if head is not None and head.seq == seq:
            at_head = digest
    for name, month in months.items():
        file = path.with_suffix("") / f"{name}.parquet"
        if month.sha256 is not None and (not file.exists() or compute_file_hash(file) != month.sha256):
            return AuditResult(seq, 0, head, AuditFault(month.seq, "steps", f"{file} is not what was moved"))
    return _compare_with_head(seq, at_head, head)


def _compare_with_head(n_rows: int, at_head: str | None, head: AuditHead | None) -> AuditResult:
    """at_head: hash of the row with the head's number."""
    fault = None
    if head is None:
        if n_rows:
            fault = AuditFault(n_rows, "head", "there are rows, and the file of the head is not there")
    elif head.seq > n_rows:
        fault = AuditFault(n_rows + 1, "truncated", f"the head is row {head.seq}")
    elif head.hash != at_head:
        fault = AuditFault(head.seq, "rewritten", "the head has another hash of it")
    return AuditResult(n_rows, 0 if head is None else max(n_rows - head.seq, 0), head, fault)


def _read_head(dataset: str) -> AuditHead | None:
    path = get_audit_head_path(dataset)
    with convert_store_errors(path, "Correct its permissions or its disk."):
        if not path.exists():
            return None
        seq, digest = path.read_text(errors="replace").split()
    return AuditHead(int(seq), digest)


def _find_steps_fault(
    connection: sqlite3.Connection, row: AuditRow, months: Mapping[str, MovedMonth]
) -> str | None:
    if row.prediction_id is None:
        return None
    rows = connection.execute(SELECT_STEPS, [row.prediction_id]).fetchall()
    if not rows and format_month(row.made_at) in months:
        return None
    if compute_steps_digest(rows) == row.steps_digest:
        return None
    return f"the steps of {row.prediction_id} are {'not the recorded ones' if rows else 'missing'}"
