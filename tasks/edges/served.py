"""Forecasts that the service has served: one row per step, on disk before the answer is sent.

They are in the file of `served_store`. Quantiles, and what other kinds of target have instead of
`y_hat`, are data, a JSON object per row, since releases differ in them. In the same transaction
each answer gets a row of the audit (`audit`), and its own history is kept once.
"""

import hashlib
import json
import math
import shutil
import sqlite3
import zlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from tasks.core.frames import SERVED
from tasks.core.frames import UTC as UTC_DTYPE
from tasks.edges.audit import (
    AuditedAnswer,
    AuditEntry,
    AuditRow,
    compute_steps_digest,
    find_audit_row,
    read_latencies,
    read_moved_months,
    write_audit,
    write_audit_head,
)
from tasks.edges.served_store import (
    FORMAT,
    WAIT_S,
    convert_store_errors,
    convert_to_us,
    format_month,
    get_archive_path,
    get_served_path,
    get_writer,
    has_audit,
    has_request_columns,
    open_for_reading,
)

RESERVE_BYTES = 16_000_000  # 1,000 series of 50 steps with 9 quantiles, 330 bytes a row
_FIX = "No forecast is served that is not recorded; free the disk or correct the file's permissions."
_TIMES = [name for name, dtype in SERVED.columns.items() if dtype == UTC_DTYPE]
_PLAIN = [*SERVED.columns, *SERVED.optional]
# Names from the schema
_SELECT = f"SELECT {', '.join(_PLAIN)}, quantiles FROM served WHERE own_history <= ?"  # noqa: S608
# The last of an answer that was given several times: SQLite takes the other columns from the row of
# the maximum.
_OF_NEWS = ("digest", "series_id", "cutoff", "step")
_NEWS = f"""
SELECT {", ".join(_PLAIN)}, quantiles, max(made_at) FROM served WHERE is_news = 1 AND cutoff >= ?
GROUP BY {", ".join(_OF_NEWS)}
"""  # noqa: S608  (names from the schema)
_COUNT_NAMES = ("n_answers", "n_news", "n_as_of", "n_own_history", "n_unmarked")
_COUNTS = """
SELECT count(*), sum(is_news = 1), sum(own_history = 0 AND is_news = 0), sum(own_history),
       sum(own_history = 0 AND is_news IS NULL)
FROM (SELECT prediction_id, own_history, {is_news} FROM served WHERE made_at >= ? AND made_at < ?
      GROUP BY prediction_id)
"""
_OF_ANSWER = ("prediction_id", "made_at")  # the same in all rows of an answer
_OF_FORECAST = [name for name in _PLAIN if name not in _OF_ANSWER]
COLUMNS = (*_OF_ANSWER, *_OF_FORECAST, "quantiles", "own_history", "as_of", "is_news")
# Names from the schema
_INSERT = f"INSERT INTO served ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
STORED_COLUMNS = tuple(name for name in COLUMNS if name not in _OF_ANSWER)
SELECT_STEPS = f"SELECT {', '.join(STORED_COLUMNS)} FROM served WHERE prediction_id = ?"  # noqa: S608
_MAX_LOOKED_THROUGH = 100_000  # steps: .1 s
_LAST_LOOKED_THROUGH = (
    "SELECT prediction_id FROM served WHERE prediction_id < ? ORDER BY prediction_id DESC LIMIT 1 OFFSET ?"
)
_LIST_ANSWERS = """
SELECT DISTINCT served.prediction_id FROM served JOIN audit USING (prediction_id)
WHERE served.prediction_id < ? AND served.prediction_id >= ? AND series_id = ? AND own_history = 0
AND (? IS NULL OR tenant = ?) ORDER BY served.prediction_id DESC LIMIT ?
"""
_SELECT_HISTORY = "SELECT content FROM histories WHERE digest = ?"
_INSERT_HISTORY = """
INSERT INTO histories VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET used_at = max(used_at, excluded.used_at)
"""

StoredRow = tuple[object, ...]  # STORED_COLUMNS: without what is the same in all rows of an answer


class StoredHistory(NamedTuple):
    """The own history of a request. digest: sha256 of its JSON. content: the JSON, zlib."""

    digest: str
    content: bytes


def build_stored_history(history: Sequence[object]) -> StoredHistory:
    """The rows that a request brought, as they are kept."""
    content = json.dumps(history).encode()
    return StoredHistory(hashlib.sha256(content).hexdigest(), zlib.compress(content, 1))


class StoredAnswer(NamedTuple):
    """An answer as it is recorded.

    rows: of `build_stored_rows`, one for each step.
    history: that the request brought.
    entry: for the audit; every answer that is sent has one.
    """

    dataset: str
    prediction_id: str
    made_at: datetime
    rows: Sequence[StoredRow]
    history: StoredHistory | None = None
    entry: AuditEntry | None = None


def write_answers(answers: Sequence[StoredAnswer], *, wait_s: float = WAIT_S) -> None:
    """Record *answers* of one dataset in one transaction; on return their bytes are on disk.

    wait_s: for another process that is writing.
    Raises ServedStoreError when they cannot be written, or an id is there already; then none of
    them is recorded.
    """
    rows: list[StoredRow] = []
    audited: list[AuditedAnswer] = []
    histories: list[tuple[str, int, bytes]] = []
    for answer in answers:
        stamp = (answer.prediction_id, convert_to_us(answer.made_at))
        rows += [(*stamp, *row) for row in answer.rows]
        if answer.entry is not None:
            audited.append(AuditedAnswer(*stamp, answer.entry, compute_steps_digest(answer.rows)))
        if answer.history is not None:
            histories.append((answer.history.digest, stamp[1], answer.history.content))
    dataset = answers[0].dataset
    path = get_served_path(dataset)
    with convert_store_errors(path, _FIX):
        connection = get_writer(path, wait_s)
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # the row before is read for the audit
            connection.executemany(_INSERT, rows)
            if histories:
                connection.executemany(_INSERT_HISTORY, histories)
            head = write_audit(connection, audited)
        if head is not None:
            write_audit_head(dataset, head)


def check_served(dataset: str, *, wait_s: float = WAIT_S) -> None:
    """Raise ServedStoreError when a forecast could not be recorded now.

    By a synced write and the free space. The write sets the file's format to what it is already.
    """
    path = get_served_path(dataset)
    with convert_store_errors(path, _FIX):
        get_writer(path, wait_s).execute(f"PRAGMA user_version={FORMAT}")
        # A small write may fit into the log even if a large one does not
        if (free := shutil.disk_usage(path.parent).free) < RESERVE_BYTES:
            needed = f"a large answer takes up to {RESERVE_BYTES / 1e6:.0f} MB"
            raise OSError(f"{free / 1e6:.1f} MB are free on its disk, and {needed}")


def read_served(dataset: str, *, own_history: bool = False) -> pl.DataFrame:
    """All served forecasts in the store of *dataset*; a SERVED frame.

    It has a column for each quantile of any, and not the months that were moved.
    own_history: also those from rows that a request brought, whose series may be anything.
    Raises ServedStoreError when the file cannot be read.
    """
    path = get_served_path(dataset)
    if not path.exists():
        return _build_frame([])
    with open_for_reading(path) as connection:
        return _build_frame(connection.execute(_SELECT, [int(own_history)]).fetchall())


class RecordedAnswer(NamedTuple):
    """An answer as it was recorded.

    rows: its steps as stored; empty when they are not kept any more.
    history: JSON of its own history; None when there was none, or it is not kept any more.
    """

    audit: AuditRow
    rows: Sequence[StoredRow]
    history: bytes | None


def find_answer(dataset: str, prediction_id: str) -> RecordedAnswer | None:
    """The answer *prediction_id*; None when it is unknown, or an older version recorded it."""
    path = get_served_path(dataset)
    if not path.exists():
        return None
    with open_for_reading(path) as connection:
        if (audit := find_audit_row(connection, prediction_id)) is None:
            return None
        rows = connection.execute(SELECT_STEPS, [prediction_id]).fetchall()
        archive = get_archive_path(dataset, format_month(audit.made_at))
        if not rows and archive.exists():
            of_answer = pl.scan_parquet(archive).filter(pl.col("prediction_id") == prediction_id)
            rows = of_answer.select(STORED_COLUMNS).collect().rows()
        digest = json.loads(audit.request).get("history")
        stored = connection.execute(_SELECT_HISTORY, [digest]).fetchone()
    history = None if stored is None else zlib.decompress(stored[0])
    if history is not None and hashlib.sha256(history).hexdigest() != digest:
        history = None
    return RecordedAnswer(audit, rows, history)


class AnswerPage(NamedTuple):
    """prediction_ids: the newest first. cursor: of the next page; None at the end."""

    prediction_ids: Sequence[str]
    cursor: str | None


def list_answers(
    dataset: str, series_id: str, tenant: str | None, first: int, after: str | None
) -> AnswerPage:
    """Recorded answers with *series_id* from the service's rows, by the order of their ids.

    Of the store, without the months that were moved. A page looks through _MAX_LOOKED_THROUGH
    steps, so it may have fewer than *first* with more to come.
    tenant: whose; None: everyone's. after: the cursor of the page before.
    """
    path = get_served_path(dataset)
    if not path.exists():
        return AnswerPage((), None)
    before = after or "~"  # after every id
    with open_for_reading(path) as connection:
        if not has_audit(connection):
            return AnswerPage((), None)
        last = connection.execute(_LAST_LOOKED_THROUGH, [before, _MAX_LOOKED_THROUGH - 1]).fetchone()
        end = "" if last is None else last[0]
        found = connection.execute(_LIST_ANSWERS, [before, end, series_id, tenant, tenant, first]).fetchall()
    ids = [prediction_id for (prediction_id,) in found]
    return AnswerPage(ids, ids[-1] if len(ids) == first else end or None)


def read_news(dataset: str, since: datetime) -> pl.DataFrame:
    """Forecasts from the newest rows at cutoffs from *since* on; a SERVED frame.

    Each step once, as served last. Forecasts for requests with an `as_of`, an own history or a
    version are left out, and those that an older version recorded: it did not record whether a
    time was asked for.
    """
    path = get_served_path(dataset)
    if not path.exists():
        return _build_frame([])
    with open_for_reading(path) as connection:
        has_columns = has_request_columns(connection)
        rows = connection.execute(_NEWS, [convert_to_us(since)]).fetchall() if has_columns else []
    news = _build_frame([row[:-1] for row in [*rows, *_read_moved_news(path, since)]])
    return news.sort("made_at").unique(_OF_NEWS, keep="last", maintain_order=True)


def _read_moved_news(path: Path, since: datetime) -> list[tuple[object, ...]]:
    """As _NEWS, of the months that were moved."""
    if not (files := sorted(path.with_suffix("").glob("*.parquet"))):
        return []
    is_wanted = (pl.col("is_news") == 1) & (pl.col("cutoff") >= convert_to_us(since))
    news = pl.scan_parquet(files).filter(is_wanted).select(*_PLAIN, "quantiles", newest="made_at")
    # Not the last of each group, which would keep all of its rows in memory
    newest = news.group_by(_OF_NEWS).agg(pl.col("newest").max())
    last = news.join(newest, on=[*_OF_NEWS, "newest"], how="semi").unique(_OF_NEWS, keep="any")
    return last.collect(engine="streaming").rows()


def read_answer_times(dataset: str, release: str, route: str, since: datetime) -> list[int]:
    """Microseconds that answers of *release* took since then, see `read_latencies`."""
    if not (path := get_served_path(dataset)).exists():
        return []
    with open_for_reading(path) as connection:
        return read_latencies(connection, release, route, convert_to_us(since))


def count_served(dataset: str) -> dict[str, int]:
    """Numbers of answers: n_answers; of these n_news, n_as_of, n_own_history, n_unmarked.

    Those of months that were moved or deleted count, too.
    n_unmarked: recorded by an older version.
    """
    if not (path := get_served_path(dataset)).exists():
        return dict.fromkeys(_COUNT_NAMES, 0)
    with open_for_reading(path) as connection:
        stored, moved = count_answers(connection), read_moved_months(connection).values()
    return {name: n + sum(month.counts.get(name, 0) for month in moved) for name, n in stored.items()}


def count_answers(
    connection: sqlite3.Connection, span: tuple[int, int] = (-(2**63), 2**63 - 1)
) -> dict[str, int]:
    """`count_served` of the answers in the store that were made in *span*, microseconds."""
    is_news = "is_news" if has_request_columns(connection) else "NULL AS is_news"
    counts = connection.execute(_COUNTS.format(is_news=is_news), span).fetchone()
    return {name: int(n or 0) for name, n in zip(_COUNT_NAMES, counts, strict=True)}


def build_stored_rows(
    frame: pl.DataFrame,
    *,
    own_history: bool = False,
    as_of: datetime | None = None,
    by_default: bool = True,
) -> list[StoredRow]:
    """The rows of *frame*, SERVED without what is the same in all rows of an answer.

    own_history: made from rows that the request brought; `read_served` leaves them out by default.
    as_of: the time that the request asked for; None: the forecast is from the newest rows.
    by_default: by the release in use, not by one that the request named.
    """
    names = [c for c in frame.columns if c not in _PLAIN]
    missing = [pl.lit(None).alias(c) for c in _OF_FORECAST if c not in frame.columns]
    times = [c for c in _TIMES if c in _OF_FORECAST]
    plain = frame.with_columns(missing).select(_OF_FORECAST).with_columns(pl.col(times).dt.epoch("us"))
    # SQLite keeps no negative zero, and polars computes no x + 0.0
    y_hat = pl.when(pl.col("y_hat") == 0).then(0.0).otherwise(pl.col("y_hat"))
    plain = plain.with_columns(y_hat.alias("y_hat"))
    quantiles = frame.select(names).to_dicts() if names else [{}] * frame.height
    request = (
        int(own_history),
        None if as_of is None else convert_to_us(as_of),
        int(not own_history and as_of is None and by_default),
    )
    return [
        (*row, json.dumps(q, allow_nan=False), *request)
        for row, q in zip(plain.iter_rows(), quantiles, strict=True)
    ]


class StoredStep(NamedTuple):
    """A stored row as it is answered. values: by column; times in microseconds."""

    series_id: str
    cutoff: int
    step: int
    event_time: int
    values: dict[str, float | None]

    def build_answer_columns(self) -> dict[str, object]:
        """As in an answer: quantiles by their probability, other columns as they are."""
        quantiles = {name[2:]: value for name, value in self.values.items() if name.startswith("q_")}
        others = {name: value for name, value in self.values.items() if not name.startswith("q_")}
        return others | ({"quantiles": quantiles} if quantiles else {})


def parse_stored_rows(rows: Sequence[StoredRow]) -> list[StoredStep]:
    """The steps in *rows*, each with the columns of its kind."""
    steps = []
    for row in rows:
        named: dict[str, Any] = dict(zip(STORED_COLUMNS, row, strict=True))
        plain = {name: named[name] for name in SERVED.optional if named[name] is not None}
        values = plain | json.loads(named["quantiles"])
        times = {name: named[name] for name in ("cutoff", "event_time")}
        steps.append(StoredStep(series_id=named["series_id"], step=named["step"], values=values, **times))
    return steps


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
