"""The answers that a job gives are recorded like those of a request, before its result is there.

Each has an id, its steps and a row of the audit. The id follows from the job, so that a job that
begins again records nothing twice.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl
import polars.selectors as cs

from deployments.forecaster.loaded import LoadedRelease, format_iso
from deployments.forecaster.response import build_prediction_id
from tasks.core.frames import UTC as UTC_DTYPE
from tasks.edges.audit import AuditEntry
from tasks.edges.jobs import Job
from tasks.edges.recorded import list_recorded
from tasks.edges.served import (
    StoredAnswer,
    StoredHistory,
    build_stored_rows,
    write_answers,
)

ROUTE = "POST /api/v1/jobs"
_N_STEPS = 5_000  # of a transaction: others wait for it, some 50 ms


class Answered(NamedTuple):
    """Who answered. release: None for a model that the job has fitted. further: of the request."""

    release: LoadedRelease | None
    history: StoredHistory | None = None
    further: Mapping[str, object] = {}


def record_answers(job: Job, forecasts: pl.DataFrame, by: Answered) -> Iterator[tuple[int, pl.DataFrame]]:
    """Record the answers in *forecasts*: of each series as of each time, or all as one.

    forecasts: of one release with the column as_of, or of one fitted model without it.
    Gives the number of answers recorded so far, and their rows with the column prediction_id.
    Raises ServedStoreError when they cannot be recorded.
    """
    keys = ["as_of", "series_id"] if "as_of" in forecasts.columns else []
    parts = forecasts.partition_by(keys, maintain_order=True) if keys else [forecasts]
    n_done, size = 0, max(1, _N_STEPS // max(1, parts[0].height)) if parts else 1
    for start in range(0, len(parts), size):
        answers, named = [], []
        for part in parts[start : start + size]:
            answer, rows = _build_answer(job, part, by)
            answers.append(answer)
            named.append(rows)
        known = list_recorded(job.dataset, [answer.prediction_id for answer in answers])
        if new := [answer for answer in answers if answer.prediction_id not in known]:
            write_answers(new)
        n_done += len(answers)
        yield n_done, pl.concat(named)


def format_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """*rows* as a result has them in JSON."""
    finite = rows.with_columns(cs.float().fill_nan(None))
    return finite.with_columns(pl.col(UTC_DTYPE).dt.strftime("%FT%T%.fZ"))


def _build_answer(job: Job, part: pl.DataFrame, by: Answered) -> tuple[StoredAnswer, pl.DataFrame]:
    as_of: datetime | None = part["as_of"][0] if "as_of" in part.columns else None
    series: Sequence[str] = part["series_id"].unique(maintain_order=True).to_list()
    of = json.dumps([job.id, None if as_of is None else format_iso(as_of), series])
    created_at = datetime.fromtimestamp(job.created_at, UTC)
    prediction_id = build_prediction_id(created_at, hashlib.sha256(of.encode()).digest())
    rows = part.select(pl.lit(prediction_id).alias("prediction_id"), pl.all())
    loaded, manifest = by.release, None if by.release is None else by.release.manifest
    content = {
        "series_id": series,
        "as_of": None if as_of is None else format_iso(as_of),
        "horizon_steps": None,
        "levels": None,
        "history": None if by.history is None else by.history.digest,
        "job_id": job.id,
        **by.further,
    }
    entry = AuditEntry(
        job.principal,
        job.tenant,
        ROUTE,
        json.dumps(content),
        None if manifest is None else manifest.digest,
        None if loaded is None else job.version,
        None if manifest is None else manifest.data_version,
        None if loaded is None else loaded.code_commit,
        None if by.history is not None else job.rows_version,
        None,
        job.request.encode(),
        format_rows(rows).write_json().encode(),
    )
    stored = build_stored_rows(
        part.drop("as_of", strict=False).with_columns(digest=pl.lit(entry.release or "")),
        own_history=by.history is not None,
        as_of=as_of,
        by_default=False,
    )
    now = datetime.now(UTC)
    return StoredAnswer(job.dataset, prediction_id, now, stored, by.history, entry), rows
