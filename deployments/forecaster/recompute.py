"""A recorded answer, and the same answer computed again.

It is computed from what the answer named: its release, its rows or own history, its as_of. What is
not kept any more is named, and nothing else takes its place.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Literal

import polars as pl

from deployments.forecaster import shapes
from deployments.forecaster.explanation import build_explanations
from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice, format_iso
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import ForecastRequest
from deployments.forecaster.response import compute_forecasts
from tasks.core.errors import ReleaseError, TidemillError
from tasks.core.frames import SERIES
from tasks.edges.audit import AuditRow, compute_steps_digest
from tasks.edges.release_files import find_release_deletion, get_release_folder
from tasks.edges.row_versions import find_rows_version
from tasks.edges.served import (
    RecordedAnswer,
    StoredRow,
    StoredStep,
    build_stored_rows,
    find_answer,
    parse_stored_rows,
)
from tasks.release import Release, load_release

MAX_DIFFERENCE = 1e-6  # relative; on the same machine there is none


class _GoneError(Exception):
    """What an answer was made from is not kept any more, or does not load."""


def describe_answer(
    loaded: LoadedRelease, prediction_id: str, tenant: str | None
) -> shapes.RecordedPrediction | None:
    """The answer *prediction_id* of the dataset that is served; None when there is none.

    tenant: whose answers are looked at; None: everyone's.
    """
    if (answer := find_seen_answer(loaded, prediction_id, tenant)) is None:
        return None
    audit = answer.audit
    return {
        "prediction_id": prediction_id,
        "made_at": format_us(audit.made_at),
        "dataset": loaded.manifest.dataset,
        "principal": {"name": audit.principal, "tenant": audit.tenant},
        "route": audit.route,
        "request": json.loads(audit.request),
        "model": _describe_release(audit),
        "data_version": audit.data_version or "",
        "rows_version": audit.rows_version,
        "code_commit": audit.code_commit,
        "latency_ms": (audit.latency_us or 0) / 1000,
        "request_digest": audit.request_digest or "",
        "answer_digest": audit.answer_digest or "",
        "series": build_recorded_series(answer.rows),
        "recomputed": _recompute(loaded, answer),
    }


def explain_answer(
    loaded: LoadedRelease, prediction_id: str, tenant: str | None
) -> shapes.RecordedExplanation | None:
    """As `describe_answer`, its explanation by the release that answered and the rows behind it.

    Raises ProblemError: 410 when it cannot be computed again, 422 when it is too much work.
    """
    if (answer := find_seen_answer(loaded, prediction_id, tenant)) is None:
        return None
    if (reason := _recompute(loaded, answer)["reason"]) is None:
        try:
            again, request = _rebuild_request(loaded, answer)
            computed = compute_forecasts(again, request)
            return {
                "prediction_id": prediction_id,
                "model": _describe_release(answer.audit),
                "explanations": build_explanations(again, request, computed.as_of, computed.own_rows),
            }
        except (_GoneError, TidemillError, OSError, pl.exceptions.PolarsError) as error:
            reason = str(error)  # deleted meanwhile
    rule = "An explanation is of the release that answered, from the rows behind the answer."
    raise ProblemError(410, "answer", reason, rule, f"See /api/v1/predictions/{prediction_id}.")


def find_seen_answer(loaded: LoadedRelease, prediction_id: str, tenant: str | None) -> RecordedAnswer | None:
    """The answer *prediction_id* as *tenant* sees it; None: unknown, or another tenant's."""
    answer = find_answer(loaded.manifest.dataset, prediction_id)
    return None if answer is None or tenant not in {None, answer.audit.tenant} else answer


def _describe_release(audit: AuditRow) -> shapes.RecordedModel:
    return {"digest": audit.release or "", "version": audit.version or ""}


def _recompute(loaded: LoadedRelease, answer: RecordedAnswer) -> shapes.Recomputed:
    if not answer.rows:
        return _build_result("gone", "The steps are not kept any more (TIDEMILL_OLD_ANSWERS).")
    if compute_steps_digest(answer.rows) != answer.audit.steps_digest:
        return _build_result("differs", "The recorded steps were changed: the audit has another digest.")
    try:
        rows = _compute_rows(loaded, answer)
    except _GoneError as error:
        return _build_result("gone", str(error))
    difference = _compute_difference(answer.rows, rows)
    if difference is None:
        return _build_result("differs", "Other steps, or a number where there was none.", rows)
    if difference > MAX_DIFFERENCE:
        return _build_result("differs", f"By more than {MAX_DIFFERENCE:g}.", rows, difference)
    return _build_result("same", None, rows, difference)


def _build_result(
    state: Literal["same", "differs", "gone"],
    reason: str | None,
    rows: Sequence[StoredRow] = (),
    difference: float | None = None,
) -> shapes.Recomputed:
    return {
        "state": state,
        "reason": reason,
        "largest_relative_difference": difference,
        "series": build_recorded_series(rows),
    }


def _compute_rows(loaded: LoadedRelease, answer: RecordedAnswer) -> list[StoredRow]:
    """The steps of the answer, computed again.

    Raises _GoneError when something that it was made from is not kept any more.
    """
    try:
        again, request = _rebuild_request(loaded, answer)
        forecasts = compute_forecasts(again, request).frame
        if request.horizon_steps is not None:
            forecasts = forecasts.filter(pl.col("step") <= request.horizon_steps)
    except (TidemillError, ProblemError, OSError, pl.exceptions.PolarsError) as error:
        raise _GoneError(f"It cannot be computed again: {error}") from error
    return build_stored_rows(
        forecasts.with_columns(digest=pl.lit(answer.audit.release)),
        own_history=request.history is not None,
        as_of=request.as_of_time,
    )


def _rebuild_request(loaded: LoadedRelease, answer: RecordedAnswer) -> tuple[LoadedRelease, ForecastRequest]:
    """The release and rows that answered, and what was asked."""
    audit, asked = answer.audit, json.loads(answer.audit.request)
    if audit.release is None:
        raise _GoneError(
            f"The job {asked.get('job_id')} fitted the model for this answer, and such models are not kept."
            " The same job again fits it again."
        )
    if asked["history"] is not None and answer.history is None:
        setting = "TIDEMILL_KEEP_ANSWERS_DAYS"
        raise _GoneError(f"The own history {asked['history']} is not kept any more ({setting}).")
    history = None if answer.history is None else json.loads(answer.history)
    # The name of an own history is no list
    series = asked["series_id"] if history is None else asked["series_id"][0]
    request = ForecastRequest(
        series_id=series, as_of=asked["as_of"], history=history, horizon_steps=asked.get("horizon_steps")
    )
    release = _load_release(loaded, audit)
    rows = release.rows if history is not None else _read_rows(loaded, release, audit)
    manifest = release.manifest
    assert manifest is not None, "load_release checks it"
    choice = ReleaseChoice(release.folder, audit.version or "", "record")
    return LoadedRelease(release, manifest, choice, rows, (), audit.rows_version or ""), request


def _load_release(loaded: LoadedRelease, audit: AuditRow) -> Release:
    if loaded.manifest.digest == audit.release:
        return loaded.release
    dataset, digest = loaded.manifest.dataset, audit.release or ""
    if (folder := get_release_folder(digest)).exists():
        release = load_release(folder)
        if release.manifest is None or release.manifest.digest != digest:
            raise ReleaseError(f"{folder} is not the release {digest}. Restore it from a backup.")
        return release
    since = find_release_deletion(dataset, digest)
    when = "" if since is None else f" since {format_iso(since)}"
    raise _GoneError(f"The release {digest} is not kept any more{when} (TIDEMILL_KEEP_RELEASES).")


def _read_rows(loaded: LoadedRelease, release: Release, audit: AuditRow) -> pl.DataFrame:
    if (version := audit.rows_version or "") == loaded.rows_version:
        return loaded.rows
    if release.manifest is not None and release.manifest.files["rows.parquet"] == version:
        return release.rows
    if (content := find_rows_version(loaded.manifest.dataset, version)) is None:
        raise _GoneError(f"The rows {version} are not kept any more (TIDEMILL_KEEP_ROWS_MB).")
    return SERIES.check(pl.read_parquet(content))


def _compute_difference(recorded: Sequence[StoredRow], again: Sequence[StoredRow]) -> float | None:
    """The largest relative difference of two numbers; None where the one or the other has none."""
    values, other = _list_values(recorded), _list_values(again)
    if values.keys() != other.keys():
        return None
    largest = 0.0
    for a, b in ((value, other[key]) for key, value in values.items()):
        if a is None or b is None:
            if a is not b:
                return None
        elif a != b:
            largest = max(largest, abs(a - b) / max(abs(a), abs(b)))
    return largest


def _list_values(rows: Sequence[StoredRow]) -> dict[object, float | None]:
    """Each number of a forecast, by series, times and column."""
    return {
        (step.series_id, step.cutoff, step.step, step.event_time, name): value
        for step in parse_stored_rows(rows)
        for name, value in step.values.items()
    }


def build_recorded_series(rows: Sequence[StoredRow]) -> list[shapes.RecordedSeries]:
    """The stored *rows* of an answer, by series."""
    by_series = groupby(sorted(parse_stored_rows(rows)), key=lambda step: step.series_id)
    return [
        {
            "series_id": name,
            "cutoff": format_us(steps[0].cutoff),
            "steps": [_build_step(step) for step in steps],
        }
        for name, steps in ((name, list(part)) for name, part in by_series)
    ]


def _build_step(step: StoredStep) -> Any:
    return {"step": step.step, "event_time": format_us(step.event_time), **step.build_answer_columns()}


def format_us(time_us: int) -> str:
    """Microseconds since 1970 as ISO 8601 in UTC."""
    return format_iso(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us))
