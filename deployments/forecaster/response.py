"""From a request to the answer and to the record of it.

Pure: the numbers are from `tasks.release`, and the wall clock is an argument.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import polars as pl

from deployments.forecaster import shapes
from deployments.forecaster.explanation import ComputedForecasts, build_explanations
from deployments.forecaster.forecast_facts import ForecastFacts, list_warnings
from deployments.forecaster.forecast_problems import (
    build_absent_error,
    build_early_error,
    build_failed_error,
    build_unknown_series_error,
)
from deployments.forecaster.loaded import LoadedRelease, ReadySeries, compute_known_span, format_iso
from deployments.forecaster.own_history import build_own_rows
from deployments.forecaster.request import ForecastRequest, SeriesRequest
from deployments.forecaster.selection import Selection, find_selection
from tasks.core.errors import TidemillError
from tasks.core.service_rules import ServiceRules
from tasks.edges.served import StoredAnswer, StoredRow, build_stored_history, build_stored_rows
from tasks.release import find_absence_reasons, predict_cutoffs

NO_RULES = ServiceRules()
QUICK_STEPS = 500  # 10 ms


@dataclass(frozen=True)
class ForecastResponse:
    """An answer and its record, which is written first.

    content: what the caller gets, as JSON.
    n_series: that are forecast.
    is_news: made from the newest rows that the service holds.
    """

    content: str
    stored: StoredAnswer
    n_series: int
    is_news: bool


def build_response(
    loaded: LoadedRelease, request: ForecastRequest, made_at: datetime, rules: ServiceRules = NO_RULES
) -> ForecastResponse:
    """Forecast the requested series. made_at: the wall clock.

    Raises ProblemError when a series is unknown, none can be forecast, or its rows have expired.
    """
    if request.history is None and request.as_of is None and not request.explain:
        ready = find_ready(loaded, request.series)
        if len(ready) == len(request.series):
            return _build_ready_response(loaded, request, [ready[s] for s in request.series], made_at, rules)
    return build_computed_response(loaded, request, made_at, rules)


def find_ready(loaded: LoadedRelease, series: Sequence[str]) -> dict[str, ReadySeries]:
    """The newest forecasts of those of *series* that have one, made ready when first requested."""
    if missing := [s for s in series if s not in loaded.ready]:
        loaded.ready.update(make_ready(loaded, missing))
    return {s: loaded.ready[s] for s in series if s in loaded.ready}


def make_ready(
    loaded: LoadedRelease, series: Sequence[str], as_of: datetime | None = None
) -> dict[str, ReadySeries]:
    """Forecasts of those of *series* that can be forecast. as_of: None: from the newest rows."""
    newest = loaded.newest_by_series if as_of is None else _find_newest(loaded.rows, series, as_of)
    forecasts = loaded.predict(as_of or loaded.newest_known).filter(pl.col("series_id").is_in(series))
    stored_rows = build_stored_rows(
        forecasts.with_columns(digest=pl.lit(loaded.manifest.digest)),
        as_of=as_of,
        by_default=loaded.is_in_use,
    )
    rows_of: dict[str, list[StoredRow]] = {}
    for name, row in zip(forecasts["series_id"], stored_rows, strict=True):
        rows_of.setdefault(name, []).append(row)
    return {
        part["series_id"]: ReadySeries(
            json.dumps(part, allow_nan=False),
            tuple(rows_of[part["series_id"]]),
            datetime.fromisoformat(part["cutoff"]),
            loaded.newest_by_series[part["series_id"]],
            _is_complete([part]),
        )
        for part in _build_all_series(loaded, series, forecasts, newest)
    }


def narrow_ready(ready: ReadySeries, selection: Selection) -> ReadySeries:
    """What of *ready* is sent, and the record of these steps, with all their quantiles."""
    series = selection.select(json.loads(ready.content))
    return ready._replace(
        content=json.dumps(series),
        rows=ready.rows[: selection.horizon_steps],
        is_complete=_is_complete([series]),
    )


def _build_ready_response(
    loaded: LoadedRelease,
    request: ForecastRequest,
    ready: Sequence[ReadySeries],
    made_at: datetime,
    rules: ServiceRules,
) -> ForecastResponse:
    if (selection := select_parts(loaded, request)) is not None:
        ready = [narrow_ready(part, selection) for part in ready]
    prediction_id = build_prediction_id(made_at)
    facts = ForecastFacts(
        min(part.cutoff for part in ready),
        max(part.newest for part in ready),
        None,
        made_at,
        all(part.is_complete for part in ready),
        rules=rules,
    )
    head = json.dumps({"prediction_id": prediction_id} | build_head(loaded, made_at))
    warnings = json.dumps(list_warnings(loaded, facts))
    series = ", ".join(part.content for part in ready)
    content = f'{head[:-1]}, "series": [{series}], "absent": [], "warnings": {warnings}}}'
    rows = [row for part in ready for row in part.rows]
    stored = StoredAnswer(loaded.manifest.dataset, prediction_id, made_at, rows)
    return ForecastResponse(content, stored, len(ready), is_news=loaded.is_in_use)


def compute_forecasts(loaded: LoadedRelease, request: ForecastRequest) -> ComputedForecasts:
    """The forecasts of *request*, from its own rows or those of *loaded*.

    Raises ProblemError when a series is unknown, or as_of is before the first row.
    """
    has_own_history = request.history is not None
    rows = build_own_rows(loaded, request) if has_own_history else _select_stored_rows(loaded, request)
    first, newest = compute_known_span(rows)
    as_of = request.as_of_time or (newest if has_own_history else loaded.newest_known)
    if as_of < first:
        raise build_early_error(as_of, first)
    forecasts = _predict_rows(loaded, request, rows, as_of).filter(pl.col("series_id").is_in(request.series))
    return ComputedForecasts(forecasts, rows, newest, as_of, rows if has_own_history else None)


def build_computed_response(
    loaded: LoadedRelease, request: ForecastRequest, made_at: datetime, rules: ServiceRules = NO_RULES
) -> ForecastResponse:
    """`build_response` of any request, from the forecasts as frames."""
    selection, has_own_history = select_parts(loaded, request), request.history is not None
    computed = compute_forecasts(loaded, request)
    forecasts, rows, newest, as_of, own_rows = computed
    missing = set(request.series) - set(forecasts["series_id"])
    absent = (
        {s: reason for s, reason in find_absence_reasons(loaded.release, rows, as_of).items() if s in missing}
        if missing
        else {}
    )
    if forecasts.is_empty():
        raise build_absent_error(as_of, absent)
    newest_known = _find_newest(rows, request.series, as_of)
    series = _build_all_series(loaded, request.series, forecasts, newest_known)
    if selection is not None:
        series = [selection.select(part) for part in series]
        forecasts = forecasts.filter(pl.col("step") <= selection.horizon_steps)
    facts = ForecastFacts(
        min(forecasts["cutoff"].to_list()),
        newest,
        request.as_of_time,
        made_at,
        _is_complete(series),
        absent,
        rows.height if has_own_history else None,
        rules,
    )
    prediction_id = build_prediction_id(made_at)
    body = {
        "prediction_id": prediction_id,
        **build_head(loaded, made_at, has_own_history=has_own_history),
        "series": series,
        "absent": [{"series_id": s, "reason": reason} for s, reason in sorted(absent.items())],
        "warnings": list_warnings(loaded, facts),
    }
    if request.explain:
        body["explanations"] = build_explanations(loaded, request, as_of, own_rows)
    stored_rows = build_stored_rows(
        forecasts.with_columns(digest=pl.lit(loaded.manifest.digest)),
        own_history=has_own_history,
        as_of=request.as_of_time,
        by_default=loaded.is_in_use,
    )
    history = None if request.history is None else build_stored_history(request.history)
    stored = StoredAnswer(loaded.manifest.dataset, prediction_id, made_at, stored_rows, history)
    is_news = request.as_of is None and not has_own_history and loaded.is_in_use
    n_series = forecasts["series_id"].n_unique()
    return ForecastResponse(json.dumps(body, allow_nan=False), stored, n_series, is_news)


def describe_champion(loaded: LoadedRelease) -> shapes.ChampionModel:
    """The release that answers, as /models shows it."""
    release, manifest = loaded.release, loaded.manifest
    return {
        **_describe_model(loaded),
        "dataset": manifest.dataset,
        "chosen_by": loaded.choice.chosen_by,
        "data_version": manifest.data_version,
        "as_of": format_iso(manifest.as_of),
        "combiner": release.ensemble.combiner,
        "members": dict(sorted(release.weights.items())),
        "horizon_steps": release.about.horizon_steps,
        "every": release.about.every,
        "quantiles": list(release.about.quantiles),
        "series": loaded.series,
        "metrics": {} if loaded.metrics is None else loaded.metrics.model_dump(),
    }


def _describe_model(loaded: LoadedRelease) -> shapes.Model:
    manifest = loaded.manifest
    return {
        "name": loaded.release.model,
        "version": loaded.choice.version,
        "digest": manifest.digest,
        "seen_until": format_iso(manifest.seen_until),
    }


def _select_stored_rows(loaded: LoadedRelease, request: ForecastRequest) -> pl.DataFrame:
    if unknown := [s for s in request.series if s not in loaded.newest_by_series]:
        raise build_unknown_series_error(unknown, loaded.series)
    return loaded.rows.filter(pl.col("series_id").is_in(request.series))


def is_quick(loaded: LoadedRelease, request: ForecastRequest) -> bool:
    """Whether `build_response` takes a few milliseconds at most.

    That is so where the forecasts are in the cache, and are few.
    """
    as_of = request.as_of_time or loaded.newest_known
    n_steps = len(request.series) * loaded.release.about.horizon_steps
    is_plain = request.history is None and not request.explain
    return is_plain and n_steps <= QUICK_STEPS and as_of in loaded.cache


def _predict_rows(
    loaded: LoadedRelease, request: ForecastRequest, rows: pl.DataFrame, as_of: datetime
) -> pl.DataFrame:
    try:
        return (
            loaded.predict(as_of)
            if request.history is None
            else predict_cutoffs(loaded.release, rows, [as_of])
        )
    except TidemillError as error:
        where = "history" if request.history is not None else "as_of" if request.as_of_time else "service"
        raise build_failed_error(error, where) from error


def build_prediction_id(made_at: datetime, content: bytes | None = None) -> str:
    """A UUID of version 7 (RFC 9562): what is made together is stored together.

    content: a digest to take instead of random bytes.
    """
    of_ms, random = int(1000 * made_at.timestamp()), int.from_bytes((content or os.urandom(10))[:10], "big")
    return str(
        UUID(
            int=(of_ms & (1 << 48) - 1) << 80
            | 7 << 76
            | random >> 4 & 0xFFF << 64
            | 2 << 62
            | random & (1 << 62) - 1
        )
    )


def build_head(
    loaded: LoadedRelease, made_at: datetime, *, has_own_history: bool = False
) -> dict[str, object]:
    """What an answer begins with, after its id."""
    return {
        "made_at": format_iso(made_at),
        "dataset": loaded.manifest.dataset,
        "target": loaded.release.about.target.column,
        "unit": loaded.release.about.target.unit,
        "model": _describe_model(loaded),
        "data_version": loaded.manifest.data_version,
        "rows_version": None if has_own_history else loaded.rows_version,
    }


def _find_newest(rows: pl.DataFrame, series: Sequence[str], as_of: datetime) -> dict[str, datetime]:
    """`known_at` of the newest row of each series that was known at *as_of*."""
    known = rows.filter((pl.col("known_at") <= as_of) & pl.col("series_id").is_in(series))
    return dict(known.group_by("series_id").agg(pl.col("known_at").max()).iter_rows())


def _build_all_series(
    loaded: LoadedRelease, series: Sequence[str], forecasts: pl.DataFrame, newest: Mapping[str, datetime]
) -> list[shapes.Series]:
    """In the order of *series*. newest: `known_at` of the newest row that each was made from."""
    found: dict[str, shapes.Series] = {}
    for row in forecasts.iter_rows(named=True):
        name = row["series_id"]
        if name not in found:
            found[name] = {
                "series_id": name,
                "cutoff": format_iso(row["cutoff"]),
                "as_of": format_iso(newest[name]),
                "steps": [],
            }
        found[name]["steps"].append(_build_step(loaded, row))
    return [found[s] for s in series if s in found]


def _build_step(loaded: LoadedRelease, row: Mapping[str, Any]) -> shapes.Step:
    """A step with the columns of the target's kind; the schema documents a numeric one."""
    release = loaded.release
    step = {"step": row["step"], "event_time": format_iso(row["event_time"])}
    return cast("shapes.Step", step | release.kind.build_answer(release.about, row))


def select_parts(loaded: LoadedRelease, request: SeriesRequest) -> Selection | None:
    """See `find_selection`."""
    about, kind = loaded.release.about, loaded.release.kind
    return find_selection(about, request, has_intervals=kind.get_level(about) is not None)


def _is_complete(series: Sequence[shapes.Series]) -> bool:
    """Whether no quantile is null."""
    values = (value for part in series for step in part["steps"] for value in step.values())
    return not any(None in value.values() for value in values if isinstance(value, dict))
