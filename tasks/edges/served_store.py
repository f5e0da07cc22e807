"""The SQLite file of what the service has answered, and its tables.

`<home>/served/<dataset>.db`, in WAL mode with `synchronous=FULL`: each transaction is one fsync
(about a millisecond on a local disk), and several processes may append and read at the same time.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.core.errors import TidemillError
from tasks.edges.files import sync_folder
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings

FORMAT = 1  # PRAGMA user_version of the file; a change is a new number and a migration
WAIT_S = 5.0  # for another process that is writing; it holds the lock for milliseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SERVED = """
CREATE TABLE IF NOT EXISTS served (
    prediction_id TEXT NOT NULL,
    series_id TEXT NOT NULL,
    step INTEGER NOT NULL,
    cutoff INTEGER NOT NULL,      -- microseconds since 1970 UTC, like every time here
    event_time INTEGER NOT NULL,
    model TEXT NOT NULL,
    y_hat REAL,                   -- NULL: of a kind without such a column
    quantiles TEXT NOT NULL,      -- {"q_0.1": 0.004, ...}, and other columns of the kind
    made_at INTEGER NOT NULL,
    digest TEXT NOT NULL,
    own_history INTEGER NOT NULL, -- 1: made from rows that the request brought
    as_of INTEGER,                -- of the request; NULL: none, or an older version wrote the row
    is_news INTEGER,              -- 1: from the newest rows; 0: as of a time or own rows; NULL: older
    PRIMARY KEY (prediction_id, series_id, step)
) WITHOUT ROWID
"""
_AUDIT = """
CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY,
    prediction_id TEXT,          -- NULL: of a month that was moved or deleted
    made_at INTEGER NOT NULL,
    principal TEXT NOT NULL,
    tenant TEXT NOT NULL,
    route TEXT NOT NULL,
    request TEXT NOT NULL,       -- {"series_id": [...], "as_of": null, "history": null or its sha256}
    release TEXT,                -- its digest
    version TEXT,
    data_version TEXT,
    code_commit TEXT,
    rows_version TEXT,
    latency_us INTEGER,
    request_digest TEXT,         -- sha256 of what was received, as of what is sent
    answer_digest TEXT,
    steps_digest TEXT,           -- of the rows in the table served
    hash TEXT NOT NULL           -- over the previous row's and all columns before
);
CREATE INDEX IF NOT EXISTS audit_of_answer ON audit(prediction_id);
CREATE TABLE IF NOT EXISTS histories (
    digest TEXT PRIMARY KEY,
    used_at INTEGER NOT NULL,
    content BLOB NOT NULL        -- JSON, zlib
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS served_news ON served(cutoff) WHERE is_news = 1;
"""
# The format stays: a service of an older version, as in the Bento of an older champion, goes on
# writing into the file.
_ADDED = ("ALTER TABLE served ADD COLUMN as_of INTEGER", "ALTER TABLE served ADD COLUMN is_news INTEGER")


class ServedStoreError(TidemillError):
    """Served forecasts cannot be recorded or read, so nothing may be served."""


def get_served_path(dataset: str) -> Path:
    """Where the served forecasts of *dataset* are kept."""
    return read_settings().home / "served" / f"{encode_name(dataset)}.db"


def get_archive_path(dataset: str, month: str) -> Path:
    """Where the answers of an earlier *month* (2026-08) are kept, as rows of the table served."""
    return get_served_path(dataset).with_suffix("") / f"{month}.parquet"


def format_month(time_us: int) -> str:
    """The month of a time in UTC, 2026-08."""
    return (_EPOCH + timedelta(microseconds=time_us)).strftime("%Y-%m")


@contextmanager
def open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the file at *path*. Raises ServedStoreError when it fails."""
    with (
        convert_store_errors(path, "Restore the file from a backup, or move it away and start a new one."),
        closing(sqlite3.connect(path, timeout=WAIT_S)) as connection,
    ):
        yield connection


def has_request_columns(connection: sqlite3.Connection) -> bool:
    """Whether the table has what was asked for; an older one gets the columns with a write."""
    return any(column[1] == "is_news" for column in connection.execute("PRAGMA table_info(served)"))


def has_audit(connection: sqlite3.Connection) -> bool:
    """Whether the file has the tables of the audit; an older one gets them with a write."""
    query = "SELECT count(*) FROM sqlite_master WHERE name IN ('audit', 'served_news')"
    return bool(connection.execute(query).fetchone()[0] == 2)


@contextmanager
def convert_store_errors(path: Path, fix: str) -> Iterator[None]:
    """Raise ServedStoreError, with *fix* as the next step, for a fault of the file."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise ServedStoreError(f"The store of served forecasts {path} fails: {error}. {fix}") from error


def convert_to_us(time: datetime) -> int:
    """Microseconds since 1970 UTC, the form of all times in the file."""
    return (time - _EPOCH) // timedelta(microseconds=1)


_of_thread = threading.local()  # SQLite connections stay in their thread


def get_writer(path: Path, wait_s: float) -> sqlite3.Connection:
    """This thread's connection to the file that is at *path* now.

    A new one when the file was moved away, or the process forked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = (os.getpid(), path, path.stat().st_ino if path.exists() else None)
    if getattr(_of_thread, "key", None) != wanted:
        connection = _open_connection(path, wait_s)
        _of_thread.connection, _of_thread.key = connection, (os.getpid(), path, path.stat().st_ino)
    current: sqlite3.Connection = _of_thread.connection
    current.execute(f"PRAGMA busy_timeout={int(1000 * wait_s)}")
    return current


def _open_connection(path: Path, wait_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=wait_s)
    try:
        apply_wal_mode(connection, wait_s)
        connection.execute("PRAGMA synchronous=FULL")
        if _read_format(connection) == 0:
            connection.execute(_SERVED)
            connection.execute(f"PRAGMA user_version={FORMAT}")
        if not has_request_columns(connection):
            _add_columns(connection)
        if not has_audit(connection):
            connection.executescript(f"BEGIN IMMEDIATE;{_AUDIT}COMMIT")
    except BaseException:
        connection.close()
        raise
    sync_folder(path.parent)  # the file's name, too
    return connection


def _read_format(connection: sqlite3.Connection) -> int:
    """The format of the store; 0 for a new one. `convert_store_errors` explains the error."""
    format_: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if format_ not in {0, FORMAT}:
        raise sqlite3.DatabaseError(f"it has format {format_} and this code knows {FORMAT}")
    return format_


def _add_columns(connection: sqlite3.Connection) -> None:
    """Add them once, also when two processes open an older file at the same time."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in () if has_request_columns(connection) else _ADDED:
        connection.execute(statement)
    connection.commit()


def apply_wal_mode(connection: sqlite3.Connection, wait_s: float) -> None:
    """Switch to WAL; SQLite does not wait when two processes open a new file, so this does."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
