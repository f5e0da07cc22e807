"""Old answers leave the store: a month is moved to a parquet file, or deleted.

A month is due when all of it is older than TIDEMILL_KEEP_ANSWERS_DAYS. 1. Its file is written.
2. The audit gets a row with its hash and counts. 3. The rows are deleted from the store, some at a
time, so that answers are recorded meanwhile. A kill in between leaves them in both, and the next
call completes the work; readers take such rows once.
"""

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from tasks.edges.audit import (
    RETENTION_ROUTE,
    AuditedAnswer,
    AuditEntry,
    read_moved_months,
    write_audit,
    write_audit_head,
)
from tasks.edges.files import compute_file_hash, hold_lock, replace_file
from tasks.edges.served import COLUMNS, count_answers
from tasks.edges.served_store import (
    WAIT_S,
    convert_store_errors,
    convert_to_us,
    get_archive_path,
    get_served_path,
    get_writer,
)
from tasks.edges.settings import read_settings

_N_ROWS, _N_ANSWERS = 20_000, 200  # read at a time; deleted in one transaction
_FIX = "Answers stay where they are; free the disk or correct the file's permissions."
_DTYPES = {
    "prediction_id": pl.String,
    "series_id": pl.String,
    "model": pl.String,
    "digest": pl.String,
    "quantiles": pl.String,
    "y_hat": pl.Float64,
}
_SCHEMA = {name: _DTYPES.get(name, pl.Int64) for name in COLUMNS}


def move_old_answers(dataset: str, now: datetime) -> list[str]:
    """Move or delete the months that are due, and own histories as old. now: the wall clock.

    Returns the months. Raises ServedStoreError when the store or the file cannot be written.
    """
    path = get_served_path(dataset)
    if not path.exists():
        return []
    oldest_day = now.astimezone(UTC) - timedelta(days=read_settings().keep_answers_days)
    end = oldest_day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    with convert_store_errors(path, _FIX), hold_lock(get_archive_path(dataset, "x").with_name("lock")):
        connection = get_writer(path, WAIT_S)
        months = _list_months(connection, end)
        for start in months:
            _move_month(dataset, connection, start, now)
        with connection:
            connection.execute("DELETE FROM histories WHERE used_at < ?", [convert_to_us(end)])
    return [f"{start:%Y-%m}" for start in months]


def _list_months(connection: sqlite3.Connection, end: datetime) -> list[datetime]:
    """Starts of the months before *end* that have answers in the store."""
    query = "SELECT DISTINCT strftime('%Y-%m', made_at / 1000000, 'unixepoch') FROM served WHERE made_at < ?"
    names = [name for (name,) in connection.execute(query, [convert_to_us(end)])]
    return [datetime.strptime(name, "%Y-%m").replace(tzinfo=UTC) for name in sorted(names)]


def _move_month(dataset: str, connection: sqlite3.Connection, start: datetime, now: datetime) -> None:
    month, path = f"{start:%Y-%m}", get_archive_path(dataset, f"{start:%Y-%m}")
    span = (convert_to_us(start), convert_to_us((start + timedelta(days=32)).replace(day=1)))
    before = read_moved_months(connection).get(month)
    if before is not None:  # what a kill left, all but answers that came since, by a clock that was wrong
        _delete_rows(connection, span, before.seq)
    counts = count_answers(connection, span)
    if not counts["n_answers"]:
        return
    digest = None
    if read_settings().old_answers == "move":
        former = path if before is not None and path.exists() else None
        # 1.
        replace_file(path, lambda part: _write_file(part, former, _read_rows(connection, span)))
        digest = compute_file_hash(path)
    if before is not None:
        counts = {name: n + before.counts.get(name, 0) for name, n in counts.items()}
    # 2.
    request = json.dumps({"month": month, "sha256": digest, "counts": counts})
    nothing = (None,) * 6
    entry = AuditEntry("tidemill", "operators", RETENTION_ROUTE, request, *nothing, b"", b"")
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        head = write_audit(connection, [AuditedAnswer(None, convert_to_us(now), entry, None)])
    assert head is not None, "a row was appended"
    write_audit_head(dataset, head)
    # 3.
    if digest is None:
        path.unlink(missing_ok=True)
    _delete_rows(connection, span, head.seq)


def _read_rows(connection: sqlite3.Connection, span: tuple[int, int]) -> Iterator[pl.DataFrame]:
    # Names from the schema
    query = f"SELECT {', '.join(COLUMNS)} FROM served WHERE made_at >= ? AND made_at < ?"  # noqa: S608
    cursor = connection.execute(query, span)
    while rows := cursor.fetchmany(_N_ROWS):
        yield pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _write_file(part: Path, former: Path | None, frames: Iterator[pl.DataFrame]) -> None:
    """Write the rows of the file *former* and *frames*, some at a time."""
    from pyarrow import parquet  # the service reads this module's neighbours, and has no pyarrow

    schema = pl.DataFrame(schema=_SCHEMA).to_arrow().schema
    with parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        if former is not None:
            for batch in parquet.ParquetFile(former).iter_batches(_N_ROWS):
                writer.write_batch(batch)
        for frame in frames:
            writer.write_table(frame.to_arrow())


def _delete_rows(connection: sqlite3.Connection, span: tuple[int, int], seq: int) -> None:
    """Delete the answers that were recorded before the row *seq* of the audit."""
    query = """
    SELECT DISTINCT prediction_id FROM served WHERE prediction_id > ? AND made_at >= ? AND made_at < ?
    AND NOT EXISTS (SELECT * FROM audit a WHERE a.prediction_id = served.prediction_id AND a.seq > ?)
    ORDER BY prediction_id LIMIT ?
    """
    last = ""
    while ids := connection.execute(query, [last, *span, seq, _N_ANSWERS]).fetchall():
        with connection:
            connection.executemany("DELETE FROM served WHERE prediction_id = ?", ids)
        last = ids[-1][0]
