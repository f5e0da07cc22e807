"""Jobs of the service's callers, in one SQLite file: `<home>/jobs/jobs.db`.

The service adds and cancels, the job loop starts, and the process of a job reports and ends it.
Each change of state is one guarded UPDATE, synced: a job that was cancelled cannot become done, and
a process of an earlier attempt changes nothing.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from tasks.core.errors import TidemillError
from tasks.edges.files import sync_folder
from tasks.edges.served_store import apply_wal_mode
from tasks.edges.settings import read_settings

FORMAT = 1  # PRAGMA user_version of the file; a change is a new number and a migration
MAX_ATTEMPTS = 2
HEARTBEAT_S = 2.0
ALIVE_S = 10.0  # a loop whose last heartbeat is older counts as gone
_WAIT_S = 5.0
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
JOB_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    principal TEXT NOT NULL,
    dataset TEXT NOT NULL,
    kind TEXT NOT NULL,
    request TEXT NOT NULL,         -- JSON, as it was checked
    request_digest TEXT NOT NULL,  -- sha256 of the body
    idempotency_key TEXT,
    release TEXT NOT NULL,         -- its digest; this and the rows are those of the acceptance
    release_folder TEXT NOT NULL,
    version TEXT NOT NULL,
    rows_version TEXT NOT NULL,
    state TEXT NOT NULL,
    n_attempts INTEGER NOT NULL,
    n_done INTEGER NOT NULL,
    n_total INTEGER NOT NULL,
    message TEXT NOT NULL,
    problem TEXT,                  -- JSON (RFC 9457); NULL: not failed
    head TEXT,                     -- JSON: the result without its rows; NULL: not done
    created_at REAL NOT NULL,      -- seconds since 1970, as the next two
    started_at REAL,
    finished_at REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS job_of_key ON jobs(tenant, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS job_of_state ON jobs(state, created_at);
CREATE TABLE IF NOT EXISTS webhooks (
    job_id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    state TEXT NOT NULL,           -- waiting, delivered or failed
    n_attempts INTEGER NOT NULL,
    due_at REAL NOT NULL,          -- of the next attempt, once the job has ended
    fault TEXT                     -- of the last attempt
);
CREATE TABLE IF NOT EXISTS heartbeat (id INTEGER PRIMARY KEY CHECK (id = 1), beat_at REAL NOT NULL);
"""


class Job(NamedTuple):
    """A row of the table, see there."""

    id: str
    tenant: str
    principal: str
    dataset: str
    kind: str
    request: str
    request_digest: str
    idempotency_key: str | None
    release: str
    release_folder: str
    version: str
    rows_version: str
    state: JobState = "queued"
    n_attempts: int = 0
    n_done: int = 0
    n_total: int = 0
    message: str = ""
    problem: str | None = None
    head: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None


class JobWebhook(NamedTuple):
    """A row of the table, see there."""

    job_id: str
    url: str
    state: Literal["waiting", "delivered", "failed"] = "waiting"
    n_attempts: int = 0
    due_at: float = 0.0
    fault: str | None = None


_COLUMNS = ", ".join(Job._fields)


class JobStoreError(TidemillError):
    """The jobs cannot be read or written."""


class JobQueueError(TidemillError):
    """A tenant has as many jobs that wait or run as it may have."""


class JobKeyError(TidemillError):
    """An idempotency key comes again with another body."""


def get_jobs_folder() -> Path:
    """Where the jobs and their results are."""
    return read_settings().home / "jobs"


def get_result_path(job_id: str, ending: str) -> Path:
    """The result of a job that is done. ending: `json` or `parquet`."""
    return get_jobs_folder() / "results" / f"{job_id}.{ending}"


def delete_result(job_id: str) -> None:
    """Remove the files of a job's result, those that were not finished too."""
    folder = get_result_path(job_id, "json").parent
    for path in (*folder.glob(f"{job_id}.*"), *folder.glob(f".{job_id}.*")):
        path.unlink(missing_ok=True)


class JobStore:
    """The file, opened by `open_jobs`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, job: Job, webhook: str | None = None) -> Job:
        """Put *job* into the queue; with a known key, the job that has it.

        webhook: the URL that is called at its end.

        Raises JobQueueError for a full queue, JobKeyError for another body.
        """
        with self._write():
            if job.idempotency_key is not None:
                known = self._select("tenant = ? AND idempotency_key = ?", [job.tenant, job.idempotency_key])
                if known and known[0].request_digest != job.request_digest:
                    raise JobKeyError(
                        f"The key {job.idempotency_key[:100]!r} is that of job {known[0].id}, which has"
                        " another body. A key is for one request, however often it is sent. Take another key."
                    )
                if known:
                    return known[0]
            n = self._count("tenant = ? AND state IN ('queued', 'running')", [job.tenant])
            if n >= (limit := read_settings().job_queue):
                raise JobQueueError(f"{n} jobs of this tenant wait or run, and TIDEMILL_JOB_QUEUE is {limit}")
            values = ", ".join("?" * len(Job._fields))
            self._connection.execute(f"INSERT INTO jobs VALUES ({values})", job)  # noqa: S608
            if webhook is not None:
                row = JobWebhook(job.id, webhook)
                self._connection.execute("INSERT INTO webhooks VALUES (?, ?, ?, ?, ?, ?)", row)
        return job

    def find(self, job_id: str) -> Job | None:
        """The job *job_id*; None when there is none."""
        return next(iter(self._select("id = ?", [job_id])), None)

    def list_jobs(
        self, *, tenant: str | None = None, dataset: str | None = None, limit: int = 1000
    ) -> list[Job]:
        """The newest jobs first. tenant, dataset: of those alone."""
        of = {"tenant": tenant, "dataset": dataset}
        given = {name: value for name, value in of.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in given) or "1"
        return self._select(f"{where} ORDER BY created_at DESC, id DESC LIMIT ?", [*given.values(), limit])

    def list_running(self) -> list[Job]:
        """Jobs that a process works on, the oldest first."""
        return self._select("state = 'running' ORDER BY started_at", [])

    def list_releases(self) -> set[str]:
        """Digests of the releases of the jobs that wait or run."""
        query = "SELECT DISTINCT release FROM jobs WHERE state IN ('queued', 'running')"
        return {row[0] for row in self._connection.execute(query)}

    def cancel(self, job_id: str) -> None:
        """End a job that waits or runs; one that has ended stays as it is."""
        self._update(
            "state = 'cancelled', finished_at = ?, message = ''",
            "id = ? AND state IN ('queued', 'running')",
            [time.time(), job_id],
        )

    def start_next(self) -> Job | None:
        """Take the next job of the queue, as `running`; None when none waits.

        The tenant whose last job began first has the next turn; its jobs keep their order.
        """
        with self._write():
            row = self._connection.execute(
                "SELECT id FROM jobs AS waiting WHERE state = 'queued' ORDER BY"
                " (SELECT max(started_at) FROM jobs WHERE tenant = waiting.tenant) NULLS FIRST, created_at,"
                " id LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            self._connection.execute(
                "UPDATE jobs SET state = 'running', n_attempts = n_attempts + 1, started_at = ?, n_done = 0,"
                " message = '' WHERE id = ?",
                [time.time(), row[0]],
            )
        return self.find(row[0])

    def report(self, job: Job, n_done: int, n_total: int, message: str) -> bool:
        """Note the progress of *job*; whether this attempt still runs."""
        return self._update(
            "n_done = ?, n_total = ?, message = ?", _OF_ATTEMPT, [n_done, n_total, message], job
        )

    def finish(self, job: Job, head: Mapping[str, object]) -> bool:
        """Make *job* done, whose result is on disk; whether this attempt still ran."""
        changes = "state = 'done', finished_at = ?, n_done = n_total, message = '', head = ?"
        return self._update(changes, _OF_ATTEMPT, [time.time(), json.dumps(head)], job)

    def fail(self, job: Job, problem: Mapping[str, object]) -> bool:
        """Make *job* failed; whether this attempt still ran."""
        changes = "state = 'failed', finished_at = ?, message = '', problem = ?"
        return self._update(changes, _OF_ATTEMPT, [time.time(), json.dumps(problem)], job)

    def requeue(self, job: Job, message: str, *, is_counted: bool) -> bool:
        """Let *job* wait again, whose process is gone. is_counted: as an attempt."""
        changes = "state = 'queued', n_attempts = n_attempts - ?, message = ?"
        return self._update(changes, _OF_ATTEMPT, [int(not is_counted), message], job)

    def delete_old(self, before_s: float) -> list[str]:
        """Forget the jobs that ended before that time; their ids."""
        with self._write():
            found = self._select("finished_at < ?", [before_s])
            for statement in ("DELETE FROM jobs WHERE id = ?", "DELETE FROM webhooks WHERE job_id = ?"):
                self._connection.executemany(statement, [[job.id] for job in found])
        return [job.id for job in found]

    def find_webhooks(self, job_ids: Sequence[str]) -> dict[str, JobWebhook]:
        """Those of the jobs, by job."""
        places = ", ".join("?" * len(job_ids))
        rows = self._connection.execute(f"SELECT * FROM webhooks WHERE job_id IN ({places})", job_ids)  # noqa: S608
        return {row[0]: JobWebhook(*row) for row in rows}

    def start_delivery(self, pauses_s: Sequence[float]) -> JobWebhook | None:
        """The webhook that has been due the longest; None when none is.

        pauses_s: after each attempt, which is noted before it is made; the last has none.
        """
        with self._write():
            row = self._connection.execute(
                "SELECT webhooks.* FROM webhooks JOIN jobs ON id = job_id WHERE finished_at IS NOT NULL"
                " AND webhooks.state = 'waiting' AND due_at <= ? ORDER BY due_at LIMIT 1",
                [time.time()],
            ).fetchone()
            if row is None:
                return None
            webhook = JobWebhook(*row)
            pause_s = pauses_s[min(webhook.n_attempts, len(pauses_s) - 1)]
            started = webhook._replace(n_attempts=webhook.n_attempts + 1, due_at=time.time() + pause_s)
            self._connection.execute(
                "UPDATE webhooks SET n_attempts = ?, due_at = ? WHERE job_id = ?",
                [started.n_attempts, started.due_at, started.job_id],
            )
        return started

    def end_delivery(self, webhook: JobWebhook, fault: str | None, *, is_last: bool) -> None:
        """Note what came of an attempt. fault: why it was not delivered. is_last: none follows."""
        state = "delivered" if fault is None else "failed" if is_last else "waiting"
        self._connection.execute(
            "UPDATE webhooks SET state = ?, fault = ? WHERE job_id = ? AND n_attempts = ?",
            [state, fault, webhook.job_id, webhook.n_attempts],
        )

    def write_heartbeat(self) -> None:
        """Note that a job loop runs."""
        self._connection.execute("INSERT OR REPLACE INTO heartbeat VALUES (1, ?)", [time.time()])

    def is_loop_alive(self) -> bool:
        """Whether a job loop has run within ALIVE_S."""
        row = self._connection.execute("SELECT beat_at FROM heartbeat").fetchone()
        return row is not None and time.time() - row[0] < ALIVE_S

    def _select(self, rest: str, values: Sequence[object]) -> list[Job]:
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE {rest}", values)  # noqa: S608
        return [Job(*row) for row in rows.fetchall()]

    def _count(self, where: str, values: Sequence[object]) -> int:
        query = f"SELECT count(*) FROM jobs WHERE {where}"  # noqa: S608
        return int(self._connection.execute(query, values).fetchone()[0])

    def _update(self, changes: str, where: str, values: Sequence[object], job: Job | None = None) -> bool:
        of_attempt = [] if job is None else [job.id, job.n_attempts]
        statement = f"UPDATE jobs SET {changes} WHERE {where}"  # noqa: S608
        return self._connection.execute(statement, [*values, *of_attempt]).rowcount == 1

    @contextmanager
    def _write(self) -> Iterator[None]:
        """One transaction, which waits for other writers first."""
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            yield


_OF_ATTEMPT = "id = ? AND state = 'running' AND n_attempts = ?"


def get_job(store: JobStore, job_id: str) -> Job:
    """The job *job_id*. Raises JobStoreError when there is none."""
    if (job := store.find(job_id)) is None:
        raise JobStoreError(f"There is no job {job_id!r}. `tidemill jobs list` shows their ids.")
    return job


def list_pinned_releases() -> set[str]:
    """Digests of the releases that jobs wait for or run on. Raises JobStoreError."""
    if not get_store_path().exists():
        return set()
    with open_jobs() as store:
        return store.list_releases()


def get_store_path() -> Path:
    """The file of the jobs."""
    return get_jobs_folder() / "jobs.db"


@contextmanager
def open_jobs() -> Iterator[JobStore]:
    """The store in home, made when it is not there. Raises JobStoreError for a fault of it."""
    path = get_store_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            if connection.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                _create_tables(connection)
            if is_new:
                sync_folder(path.parent)
            yield JobStore(connection)
    except (sqlite3.Error, OSError) as error:
        raise JobStoreError(
            f"The jobs in {path} cannot be read or written: {error}. Correct its disk or its permissions, or"
            " move the file away, with which its jobs are gone."
        ) from error


def _create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables once, also when two processes open a new file at the same time."""
    apply_wal_mode(connection, _WAIT_S)
    if (format_ := connection.execute("PRAGMA user_version").fetchone()[0]) not in {0, FORMAT}:
        raise sqlite3.DatabaseError(f"it has format {format_} and this code knows {FORMAT}")
    connection.executescript(f"BEGIN IMMEDIATE;{JOB_TABLE}PRAGMA user_version={FORMAT};COMMIT")
