"""From a request to the answer and to the record of it.

Pure: the numbers are from `tasks.release`, and the wall clock is an argument.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import uuid4

import polars as pl

from deployments.forecaster import shapes
from deployments.forecaster.loaded import LoadedRelease, ReadySeries, compute_known_span, format_iso
from deployments.forecaster.own_history import build_own_rows
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import ForecastRequest, build_unknown_series_error
from tasks.core.calendar import parse_step_length
from tasks.core.errors import TidemillError
from tasks.edges.served import StoredAnswer, build_stored_history, build_stored_rows
from tasks.release import find_absence_reasons, predict_cutoffs

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


class _Facts(NamedTuple):
    """What the warnings of an answer follow from.

    cutoff: the first of its forecasts.
    newest: known_at of the newest row. n_rows: of the requested series.
    is_complete: whether no quantile is null.
    absent: requested series that cannot be forecast, with reasons.
    """

    cutoff: datetime
    newest: datetime
    as_of: datetime
    made_at: datetime
    n_rows: int
    is_complete: bool
    absent: Mapping[str, str]


def build_response(loaded: LoadedRelease, request: ForecastRequest, made_at: datetime) -> ForecastResponse:
    """Forecast the requested series. made_at: the wall clock.

    Raises ProblemError when a series is unknown or none can be forecast.
    """
    if request.history is None and request.as_of is None:
        ready = [part for s in request.series if (part := _find_ready(loaded, s)) is not None]
        if len(ready) == len(request.series):
            return _build_ready_response(loaded, request, ready, made_at)
    return build_computed_response(loaded, request, made_at)


def _find_ready(loaded: LoadedRelease, series_id: str) -> ReadySeries | None:
    """The newest forecast of a series, made ready at its first request; None when there is none."""
    if (ready := loaded.ready.get(series_id)) is not None or series_id not in loaded.news:
        return ready
    part, newest = loaded.news[series_id], loaded.newest_by_series[series_id]
    rows = build_stored_rows(part.with_columns(digest=pl.lit(loaded.manifest.digest)))
    content = json.dumps(_build_series(loaded, part, newest), allow_nan=False)
    ready = ReadySeries(content, tuple(rows), part["cutoff"][0], newest, _is_complete(loaded, part))
    loaded.ready[series_id] = ready
    return ready


def _build_ready_response(
    loaded: LoadedRelease, request: ForecastRequest, ready: Sequence[ReadySeries], made_at: datetime
) -> ForecastResponse:
    prediction_id = str(uuid4())
    facts = _Facts(
        min(part.cutoff for part in ready),
        max(part.newest for part in ready),
        loaded.newest_known,
        made_at,
        0,
        all(part.is_complete for part in ready),
        {},
    )
    head = json.dumps(_build_head(loaded, request, prediction_id, made_at))
    warnings = json.dumps(_list_warnings(loaded, request, facts))
    series = ", ".join(part.content for part in ready)
    content = f'{head[:-1]}, "series": [{series}], "absent": [], "warnings": {warnings}}}'
    rows = [row for part in ready for row in part.rows]
    stored = StoredAnswer(loaded.manifest.dataset, prediction_id, made_at, rows)
    return ForecastResponse(content, stored, len(ready), is_news=True)


class ComputedForecasts(NamedTuple):
    """Forecasts of the requested series.

    rows: that they are made from, of these series. newest: known_at of the newest row.
    """

    frame: pl.DataFrame
    rows: pl.DataFrame
    newest: datetime
    as_of: datetime


def compute_forecasts(loaded: LoadedRelease, request: ForecastRequest) -> ComputedForecasts:
    """The forecasts of *request*, from its own rows or those of *loaded*.

    Raises ProblemError when a series is unknown, or as_of is before the first row.
    """
    has_own_history = request.history is not None
    rows = build_own_rows(loaded, request) if has_own_history else _select_stored_rows(loaded, request)
    first, newest = compute_known_span(rows)
    as_of = request.as_of_time or (newest if has_own_history else loaded.newest_known)
    if as_of < first:
        rule = f"The rows of the requested series begin at {format_iso(first)}."
        raise ProblemError(
            422,
            "as_of",
            f"{format_iso(as_of)} is before the first row was known",
            rule,
            f"Ask for {format_iso(first)} or later.",
        )
    forecasts = _predict_rows(loaded, request, rows, as_of).filter(pl.col("series_id").is_in(request.series))
    return ComputedForecasts(forecasts, rows, newest, as_of)


def build_computed_response(
    loaded: LoadedRelease, request: ForecastRequest, made_at: datetime
) -> ForecastResponse:
    """`build_response` of any request, from the forecasts as frames."""
    forecasts, rows, newest, as_of = compute_forecasts(loaded, request)
    missing = set(request.series) - set(forecasts["series_id"])
    absent = (
        {s: reason for s, reason in find_absence_reasons(loaded.release, rows, as_of).items() if s in missing}
        if missing
        else {}
    )
    if forecasts.is_empty():
        reasons = "; ".join(f"{s!r}: {reason}" for s, reason in sorted(absent.items()))
        fact = f"nothing can be forecast as of {format_iso(as_of)}: {reasons}"[:1000]
        raise ProblemError(
            422,
            "series_id",
            fact,
            "A forecast starts from a recent known value.",
            "Ask for another as_of, or send newer rows.",
        )
    facts = _Facts(
        min(forecasts["cutoff"].to_list()),
        newest,
        as_of,
        made_at,
        rows.height,
        _is_complete(loaded, forecasts),
        absent,
    )
    prediction_id = str(uuid4())
    body = _build_head(loaded, request, prediction_id, made_at) | {
        "series": _build_all_series(loaded, request, rows, forecasts, as_of),
        "absent": [{"series_id": s, "reason": reason} for s, reason in sorted(absent.items())],
        "warnings": _list_warnings(loaded, request, facts),
    }
    stored_rows = build_stored_rows(
        forecasts.with_columns(digest=pl.lit(loaded.manifest.digest)),
        own_history=request.history is not None,
        as_of=request.as_of_time,
    )
    history = None if request.history is None else build_stored_history(request.history)
    stored = StoredAnswer(loaded.manifest.dataset, prediction_id, made_at, stored_rows, history)
    is_news = request.as_of is None and request.history is None
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
    if set(request.series) - set(loaded.series):
        raise build_unknown_series_error(request.series, loaded.series)
    return loaded.rows.filter(pl.col("series_id").is_in(request.series))


def is_quick(loaded: LoadedRelease, request: ForecastRequest) -> bool:
    """Whether `build_response` takes a few milliseconds at most.

    That is so where the forecasts are in the cache, and are few.
    """
    as_of = request.as_of_time or loaded.newest_known
    n_steps = len(request.series) * loaded.release.about.horizon_steps
    return request.history is None and n_steps <= QUICK_STEPS and as_of in loaded.cache


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
        rule = "Rows are on the dataset's calendar, and the calendar covers the forecast."
        raise ProblemError(422, where, str(error), rule, "Correct the times, or leave as_of out.") from error


def _build_head(
    loaded: LoadedRelease, request: ForecastRequest, prediction_id: str, made_at: datetime
) -> dict[str, object]:
    """What an answer begins with; `series`, `absent` and `warnings` follow."""
    return {
        "prediction_id": prediction_id,
        "made_at": format_iso(made_at),
        "dataset": loaded.manifest.dataset,
        "target": loaded.release.about.target.column,
        "unit": loaded.release.about.target.unit,
        "model": _describe_model(loaded),
        "data_version": loaded.manifest.data_version,
        "rows_version": None if request.history is not None else loaded.rows_version,
    }


def _build_all_series(
    loaded: LoadedRelease,
    request: ForecastRequest,
    rows: pl.DataFrame,
    forecasts: pl.DataFrame,
    as_of: datetime,
) -> list[shapes.Series]:
    """In the order of the request. rows: those that the forecasts were made from."""
    known = rows.filter(pl.col("known_at") <= as_of).group_by("series_id").agg(pl.col("known_at").max())
    newest = dict(known.iter_rows())
    by_series = {key[0]: part for key, part in forecasts.group_by(["series_id"], maintain_order=True)}
    return [_build_series(loaded, by_series[s], newest[s]) for s in request.series if s in by_series]


def _build_series(loaded: LoadedRelease, part: pl.DataFrame, as_of: datetime) -> shapes.Series:
    steps = [_build_step(loaded, row) for row in part.iter_rows(named=True)]
    return {
        "series_id": part["series_id"][0],
        "cutoff": format_iso(part["cutoff"][0]),
        "as_of": format_iso(as_of),
        "steps": steps,
    }


def _build_step(loaded: LoadedRelease, row: Mapping[str, Any]) -> shapes.Step:
    """A step with the columns of the target's kind; the schema documents a numeric one."""
    release = loaded.release
    step = {"step": row["step"], "event_time": format_iso(row["event_time"])}
    return cast("shapes.Step", step | release.kind.build_answer(release.about, row))


def _is_complete(loaded: LoadedRelease, forecasts: pl.DataFrame) -> bool:
    """Whether no quantile is null."""
    release = loaded.release
    names = release.kind.list_columns(release.about)[1:]
    return not any(forecasts[name].null_count() for name in names)


def _list_warnings(loaded: LoadedRelease, request: ForecastRequest, facts: _Facts) -> list[str]:
    seen_until, lookback = loaded.release.seen_until, loaded.release.schema.lookback_steps
    warnings = [f"{s} cannot be forecast: {reason}" for s, reason in sorted(facts.absent.items())]
    if facts.cutoff < seen_until:
        warnings.append(
            f"In sample: the model was fitted on what was known until {format_iso(seen_until)}, after this"
            " cutoff. Its errors here are no measure of its accuracy."
        )
    if not facts.is_complete:
        warnings.append("Some quantiles are null: no error of this model is known yet.")
    warnings += _list_old_row_warnings(loaded, request, facts)
    if request.history is not None and facts.n_rows <= lookback:
        warnings.append(
            f"The history has {facts.n_rows} rows and the features read the last {lookback + 1}; what"
            " is missing counts as unknown."
        )
    return warnings


def _list_old_row_warnings(loaded: LoadedRelease, request: ForecastRequest, facts: _Facts) -> list[str]:
    """A warning when the newest row is older than `last_within_steps` of the features.

    Its age is relative to the requested time, or to now when none was requested.
    """
    about, max_age_steps = loaded.release.about, loaded.release.features.last_within_steps
    is_timed = request.as_of is not None or about.integer_time
    reference_time = facts.as_of if is_timed else facts.made_at
    n_steps = int((reference_time - facts.newest) / parse_step_length(about.every))
    if n_steps <= max_age_steps:
        return []
    return [
        (
            f"The newest row was known at {format_iso(facts.newest)}, some {n_steps} steps before"
            f" {format_iso(reference_time)}. The forecast starts there."
        )
    ]
