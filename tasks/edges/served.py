"""Forecasts that the service has served: one row per step, on disk before the answer is sent.

A SQLite file per dataset, `<home>/served/<dataset>.db`, in WAL mode with `synchronous=FULL`: each
append is one transaction and one fsync (about a millisecond on a local disk), and several processes
may append and read at the same time. Quantiles, and what other kinds of target have instead of
`y_hat`, are data, a JSON object per row, since releases differ in them.
"""

import json
import math
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.errors import TidemillError
from tasks.core.frames import SERVED
from tasks.core.frames import UTC as UTC_DTYPE
from tasks.edges.files import sync_folder
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings

_FORMAT = 1  # PRAGMA user_version of the file; a change is a new number and a migration
RESERVE_BYTES = 16_000_000  # 1,000 series of 50 steps with 9 quantiles, 330 bytes a row
_FIX = "No forecast is served that is not recorded; free the disk or correct the file's permissions."
_WAIT_S = 5.0  # for another process that is writing; it holds the lock for milliseconds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = [name for name, dtype in SERVED.columns.items() if dtype == UTC_DTYPE]
_PLAIN = [*SERVED.columns, *SERVED.optional]
_TABLE = """
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
# Names from the schema
_SELECT = f"SELECT {', '.join(_PLAIN)}, quantiles FROM served WHERE own_history <= ?"  # noqa: S608
# The last of an answer that was given several times: SQLite takes the other columns from the row of
# the maximum.
_NEWS = f"""
SELECT {", ".join(_PLAIN)}, quantiles, max(made_at) FROM served WHERE is_news = 1 AND cutoff >= ?
GROUP BY digest, series_id, cutoff, step
"""  # noqa: S608  (names from the schema)
_COUNTS = """
SELECT count(*), sum(is_news = 1), sum(own_history = 0 AND is_news = 0), sum(own_history),
       sum(own_history = 0 AND is_news IS NULL)
FROM (SELECT prediction_id, own_history, {is_news} FROM served GROUP BY prediction_id)
"""
# The format stays: a service of an older version, as in the Bento of an older champion, goes on
# writing into the file.
_ADDED = ("ALTER TABLE served ADD COLUMN as_of INTEGER", "ALTER TABLE served ADD COLUMN is_news INTEGER")
_OF_ANSWER = ("prediction_id", "made_at")  # the same in all rows of an answer
_OF_FORECAST = [name for name in _PLAIN if name not in _OF_ANSWER]
_COLUMNS = (*_OF_ANSWER, *_OF_FORECAST, "quantiles", "own_history", "as_of", "is_news")
# Names from the schema
_INSERT = f"INSERT INTO served ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608


StoredRow = tuple[object, ...]  # of the table, without what is the same in all rows of an answer


class StoredAnswer(NamedTuple):
    """An answer as it is recorded. rows: of `build_stored_rows`, one for each step."""

    dataset: str
    prediction_id: str
    made_at: datetime
    rows: Sequence[StoredRow]


class ServedStoreError(TidemillError):
    """Served forecasts cannot be recorded or read, so nothing may be served."""


def get_served_path(dataset: str) -> Path:
    """Where the served forecasts of *dataset* are kept."""
    return read_settings().home / "served" / f"{encode_name(dataset)}.db"


def write_served(
    dataset: str,
    frame: pl.DataFrame,
    *,
    own_history: bool = False,
    as_of: datetime | None = None,
    wait_s: float = _WAIT_S,
) -> None:
    """Record *frame* (SERVED) in one transaction; on return its bytes are on disk.

    own_history: the forecast was made from rows that the request itself brought; `read_served`
    leaves such rows out by default.
    as_of: the time that the request asked for; None: the forecast is from the newest rows.
    wait_s: for another process that is writing.
    Raises FrameError when the frame is not SERVED, ServedStoreError when it cannot be written, or
    an id is there already.
    """
    stamps = SERVED.check(frame).select("prediction_id", pl.col("made_at").dt.epoch("us")).rows()
    rows = build_stored_rows(frame, own_history=own_history, as_of=as_of)
    _insert(dataset, [(*stamp, *row) for stamp, row in zip(stamps, rows, strict=True)], wait_s)


def write_answers(answers: Sequence[StoredAnswer], *, wait_s: float = _WAIT_S) -> None:
    """Record *answers* of one dataset in one transaction; on return their bytes are on disk.

    Raises ServedStoreError as `write_served`; then none of them is recorded.
    """
    rows: list[StoredRow] = []
    for answer in answers:
        stamp = (answer.prediction_id, _convert_to_us(answer.made_at))
        rows += [(*stamp, *row) for row in answer.rows]
    _insert(answers[0].dataset, rows, wait_s)


def _insert(dataset: str, rows: Sequence[StoredRow], wait_s: float) -> None:
    path = get_served_path(dataset)
    with _convert_store_errors(path, _FIX):
        connection = _get_writer(path, wait_s)
        with connection:
            connection.executemany(_INSERT, rows)


def check_served(dataset: str, *, wait_s: float = _WAIT_S) -> None:
    """Raise ServedStoreError when a forecast could not be recorded now.

    By a synced write and the free space. The write sets the file's format to what it is already.
    """
    path = get_served_path(dataset)
    with _convert_store_errors(path, _FIX):
        _get_writer(path, wait_s).execute(f"PRAGMA user_version={_FORMAT}")
        # A small write may fit into the log even if a large one does not
        if (free := shutil.disk_usage(path.parent).free) < RESERVE_BYTES:
            needed = f"a large answer takes up to {RESERVE_BYTES / 1e6:.0f} MB"
            raise OSError(f"{free / 1e6:.1f} MB are free on its disk, and {needed}")


def read_served(dataset: str, *, own_history: bool = False) -> pl.DataFrame:
    """All served forecasts of *dataset*, a SERVED frame with a column for each quantile of any.

    own_history: also those from rows that a request brought, whose series may be anything.
    Raises ServedStoreError when the file cannot be read.
    """
    path = get_served_path(dataset)
    if not path.exists():
        return _build_frame([])
    with _open_for_reading(path) as connection:
        return _build_frame(connection.execute(_SELECT, [int(own_history)]).fetchall())


def read_news(dataset: str, since: datetime) -> pl.DataFrame:
    """Forecasts from the newest rows at cutoffs from *since* on; a SERVED frame.

    Each step once, as served last. Forecasts for requests with an `as_of` or an own history are
    left
    out, and those that an older version recorded: it did not record whether a time was asked for.
    """
    path = get_served_path(dataset)
    if not path.exists():
        return _build_frame([])
    with _open_for_reading(path) as connection:
        has_columns = _has_request_columns(connection)
        rows = connection.execute(_NEWS, [_convert_to_us(since)]).fetchall() if has_columns else []
    return _build_frame([row[:-1] for row in rows])


def count_served(dataset: str) -> dict[str, int]:
    """Numbers of answers: n_answers; of these n_news, n_as_of, n_own_history, n_unmarked.

    n_unmarked: recorded by an older version.
    """
    names, path = ("n_answers", "n_news", "n_as_of", "n_own_history", "n_unmarked"), get_served_path(dataset)
    if not path.exists():
        return dict.fromkeys(names, 0)
    with _open_for_reading(path) as connection:
        is_news = "is_news" if _has_request_columns(connection) else "NULL AS is_news"
        counts = connection.execute(_COUNTS.format(is_news=is_news)).fetchone()
    return {name: int(n or 0) for name, n in zip(names, counts, strict=True)}


@contextmanager
def _open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    with (
        _convert_store_errors(path, "Restore the file from a backup, or move it away and start a new one."),
        closing(sqlite3.connect(path, timeout=_WAIT_S)) as connection,
    ):
        yield connection


def _has_request_columns(connection: sqlite3.Connection) -> bool:
    """Whether the table has what was asked for; an older one gets the columns with a write."""
    return any(column[1] == "is_news" for column in connection.execute("PRAGMA table_info(served)"))


def _convert_to_us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


@contextmanager
def _convert_store_errors(path: Path, fix: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise ServedStoreError(f"The store of served forecasts {path} fails: {error}. {fix}") from error


def build_stored_rows(
    frame: pl.DataFrame, *, own_history: bool = False, as_of: datetime | None = None
) -> list[StoredRow]:
    """The rows of *frame*, SERVED without what is the same in all rows of an answer.

    own_history, as_of: see `write_served`.
    """
    names = [c for c in frame.columns if c not in _PLAIN]
    missing = [pl.lit(None).alias(c) for c in _OF_FORECAST if c not in frame.columns]
    times = [c for c in _TIMES if c in _OF_FORECAST]
    plain = frame.with_columns(missing).select(_OF_FORECAST).with_columns(pl.col(times).dt.epoch("us"))
    quantiles = frame.select(names).to_dicts() if names else [{}] * frame.height
    request = (
        int(own_history),
        None if as_of is None else _convert_to_us(as_of),
        int(not own_history and as_of is None),
    )
    return [
        (*row, json.dumps(q, allow_nan=False), *request)
        for row, q in zip(plain.iter_rows(), quantiles, strict=True)
    ]


def _build_frame(rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    dtypes = {**SERVED.columns, **SERVED.optional, **dict.fromkeys(_TIMES, pl.Int64)}
    plain = pl.DataFrame([row[:-1] for row in rows], schema=dtypes, orient="row").with_columns(
        pl.col(_TIMES).cast(UTC_DTYPE)
    )
    plain = plain.drop(name for name in SERVED.optional if plain[name].is_null().all())
    quantiles = [json.loads(str(row[-1])) for row in rows]
    names = sorted({name for row in quantiles for name in row}, key=_parse_level)
    return SERVED.conform(
        plain.with_columns(
            pl.Series(name, [row.get(name) for row in quantiles], dtype=pl.Float64) for name in names
        )
    )


def _parse_level(name: str) -> tuple[float, str]:
    """What columns are sorted by: quantiles by their level, others after them by name."""
    level = name.removeprefix("q_")
    return (math.inf if level == name else float(level)), name


_of_thread = threading.local()  # SQLite connections stay in their thread


def _get_writer(path: Path, wait_s: float) -> sqlite3.Connection:
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
        _apply_wal_mode(connection, wait_s)
        connection.execute("PRAGMA synchronous=FULL")
        if _read_format(connection) == 0:
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version={_FORMAT}")
        if not _has_request_columns(connection):
            _add_columns(connection)
    except BaseException:
        connection.close()
        raise
    sync_folder(path.parent)  # the file's name, too
    return connection


def _read_format(connection: sqlite3.Connection) -> int:
    """The format of the store; 0 for a new one. `_convert_store_errors` explains the error."""
    format_: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if format_ not in {0, _FORMAT}:
        raise sqlite3.DatabaseError(f"it has format {format_} and this code knows {_FORMAT}")
    return format_


def _add_columns(connection: sqlite3.Connection) -> None:
    """Add them once, also when two processes open an older file at the same time."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in () if _has_request_columns(connection) else _ADDED:
        connection.execute(statement)
    connection.commit()


def _apply_wal_mode(connection: sqlite3.Connection, wait_s: float) -> None:
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
