"""From a request to the answer and to the record of it.

Pure: the numbers are from `tasks.release`, and the wall clock is an argument.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import uuid4

import polars as pl

from deployments.forecaster import shapes
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import ForecastRequest, build_history_columns, build_unknown_series_error
from deployments.forecaster.source import LoadedRelease, compute_known_span, format_iso, list_value_columns
from tasks.core.calendar import parse_step_length
from tasks.core.errors import TidemillError
from tasks.core.frames import SERIES, SERVED
from tasks.features import list_column_names
from tasks.release import Release, find_absence_reasons, predict_cutoffs

LEARNED_STEPS = 10_000  # of an own history beyond what features look back on: .6 s, 40 years of trading days
QUICK_STEPS = 500  # 10 ms
# The grid is built from the release's rows to the history: 8 MB; a typo in a year must not use all
# memory
MAX_SPAN_STEPS = 1_000_000


@dataclass(frozen=True)
class ForecastResponse:
    """An answer and its record.

    body: what the caller gets.
    served: the same as a SERVED frame, to be recorded first.
    own_history: made from the request's rows.
    as_of: the time that was requested.
    """

    body: shapes.Prediction
    served: pl.DataFrame
    own_history: bool
    as_of: datetime | None


@dataclass(frozen=True)
class _IssuedForecast:
    """The forecast of one request.

    rows: the rows that it was made from.
    as_of: the time as of which it was made.
    absent: requested series that cannot be forecast, with reasons.
    """

    loaded: LoadedRelease
    request: ForecastRequest
    rows: pl.DataFrame
    as_of: datetime
    made_at: datetime
    served: pl.DataFrame
    absent: dict[str, str]


def build_response(loaded: LoadedRelease, request: ForecastRequest, made_at: datetime) -> ForecastResponse:
    """Forecast the requested series. made_at: the wall clock.

    Raises ProblemError when a series is unknown or none can be forecast.
    """
    has_own_history = request.history is not None
    rows = _build_own_rows(loaded, request) if has_own_history else _select_stored_rows(loaded, request)
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
    served = _build_served_frame(forecasts, made_at, loaded.manifest.digest)
    return ForecastResponse(
        _build_prediction(_IssuedForecast(loaded, request, rows, as_of, made_at, served, absent)),
        served,
        has_own_history,
        request.as_of_time,
    )


def _build_served_frame(forecasts: pl.DataFrame, made_at: datetime, digest: str) -> pl.DataFrame:
    """*forecasts* as a SERVED frame with one id, in their order of series and steps.

    Recording checks the schema.
    """
    columns = {"prediction_id": str(uuid4()), "made_at": made_at, "digest": digest}
    return forecasts.with_columns(
        pl.lit(value, dtype=SERVED.columns[name]).alias(name) for name, value in columns.items()
    )


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


def _build_own_rows(loaded: LoadedRelease, request: ForecastRequest) -> pl.DataFrame:
    if unavailable := list_column_names(loaded.release.about, loaded.release.features, "others", "ahead"):
        # The first names only: the message is one line
        more = " and more" if len(unavailable) > 5 else ""
        fact = f"this release reads {', '.join(unavailable[:5])}{more}"[:1000]
        rule = (
            "A history of one series has no rows of other series, and no values known ahead with their times."
        )
        raise ProblemError(
            422,
            "history",
            fact,
            rule,
            "Request by series_id: the service then uses all rows that it holds.",
        )
    history, columns = request.history or [], list_value_columns(loaded.release.rows)
    lookback = loaded.release.schema.lookback_steps
    if len(history) > (max_rows := lookback + 1 + LEARNED_STEPS):
        rule = f"Features look back {lookback} steps; intervals learn from at most {LEARNED_STEPS:,} more."
        raise ProblemError(422, "history", f"{len(history):,} rows", rule, f"Send the newest {max_rows:,}.")
    content = build_history_columns(history, columns)
    dtypes = {"event_time": SERIES.columns["event_time"], **dict.fromkeys(columns, pl.Float64)}
    frame = pl.DataFrame(content, schema=dtypes).sort("event_time")
    _check_steps(loaded.release, frame["event_time"])
    return SERIES.conform(
        frame.with_columns(
            series_id=pl.lit(request.series[0]), known_at=loaded.release.calendar.nominal_known_at()
        )
    )


def _check_steps(release: Release, times: pl.Series) -> None:
    """Raise ProblemError unless *times*, ascending, are steps of the release's own grid.

    They must also be near enough for the grid to be built.
    """
    known = release.rows.select(pl.col("event_time").max()).to_series()
    low, high = min(times[0], known[0]), max(times[-1], known[0])
    if (high - low) / parse_step_length(release.about.every) > MAX_SPAN_STEPS:
        rule = (
            f"A history is within {MAX_SPAN_STEPS:,} steps of {release.about.every} from the release's own"
            f" rows, which end {format_iso(known[0])}."
        )
        raise ProblemError(
            422,
            "history",
            f"it reaches from {format_iso(times[0])} to {format_iso(times[-1])}",
            rule,
            "Correct the times.",
        )
    try:
        grid = release.calendar.grid(low, high)
    except TidemillError as error:
        raise ProblemError(
            422,
            "history",
            str(error),
            f"Rows are on the calendar {release.about.calendar!r}.",
            "Correct the times.",
        ) from error
    off_grid = times.filter(~times.is_in(grid.implode()))
    if len(off_grid) or not known.is_in(grid.implode())[0]:
        fact = f"{format_iso(off_grid[0] if len(off_grid) else times[0])} is no step of the dataset"
        rule = (
            f"Steps are {release.about.every} on the calendar {release.about.calendar!r}, and"
            f" {format_iso(known[0])} is one."
        )
        raise ProblemError(
            422, "history", fact, rule, "Send the start of each step; leave out rows between them."
        )


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


def _build_prediction(forecast: _IssuedForecast) -> shapes.Prediction:
    loaded, served = forecast.loaded, forecast.served
    newest = dict(
        forecast.rows.filter(pl.col("known_at") <= forecast.as_of)
        .group_by("series_id")
        .agg(pl.col("known_at").max())
        .iter_rows()
    )
    by_series = {key[0]: part for key, part in served.group_by(["series_id"], maintain_order=True)}
    return {
        "prediction_id": served["prediction_id"][0],
        "made_at": format_iso(forecast.made_at),
        "dataset": loaded.manifest.dataset,
        "target": loaded.release.about.target.column,
        "unit": loaded.release.about.target.unit,
        "model": _describe_model(loaded),
        "data_version": loaded.manifest.data_version,
        "rows_version": None if forecast.request.history is not None else loaded.rows_version,
        "series": [
            _build_series(loaded, by_series[s], newest[s]) for s in forecast.request.series if s in by_series
        ],
        "absent": [{"series_id": s, "reason": reason} for s, reason in sorted(forecast.absent.items())],
        "warnings": [
            *_list_absence_warnings(forecast),
            *_list_in_sample_warnings(forecast),
            *_list_quantile_warnings(forecast),
            *_list_old_row_warnings(forecast),
            *_list_history_warnings(forecast),
        ],
    }


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


def _list_absence_warnings(forecast: _IssuedForecast) -> list[str]:
    return [f"{s} cannot be forecast: {reason}" for s, reason in sorted(forecast.absent.items())]


def _list_in_sample_warnings(forecast: _IssuedForecast) -> list[str]:
    seen_until = forecast.loaded.release.seen_until
    if min(forecast.served["cutoff"].to_list()) >= seen_until:
        return []
    return [
        (
            f"In sample: the model was fitted on what was known until {format_iso(seen_until)}, after this"
            " cutoff. Its errors here are no measure of its accuracy."
        )
    ]


def _list_quantile_warnings(forecast: _IssuedForecast) -> list[str]:
    release = forecast.loaded.release
    names = release.kind.list_columns(release.about)[1:]
    complete = not any(forecast.served[name].null_count() for name in names)
    return [] if complete else ["Some quantiles are null: no error of this model is known yet."]


def _list_old_row_warnings(forecast: _IssuedForecast) -> list[str]:
    """A warning when the newest row is older than `last_within_steps` of the features.

    Its age is relative to the requested time, or to now when none was requested.
    """
    about, max_age_steps = forecast.loaded.release.about, forecast.loaded.release.features.last_within_steps
    reference_time = (
        forecast.as_of if forecast.request.as_of_time is not None or about.integer_time else forecast.made_at
    )
    newest = compute_known_span(forecast.rows)[1]
    n_steps = int((reference_time - newest) / parse_step_length(about.every))
    return (
        [
            (
                f"The newest row was known at {format_iso(newest)}, some {n_steps} steps before"
                f" {format_iso(reference_time)}. The forecast starts there."
            )
        ]
        if n_steps > max_age_steps
        else []
    )


def _list_history_warnings(forecast: _IssuedForecast) -> list[str]:
    lookback = forecast.loaded.release.schema.lookback_steps
    if forecast.request.history is None or forecast.rows.height > lookback:
        return []
    return [
        (
            f"The history has {forecast.rows.height} rows and the features read the last {lookback + 1}; what"
            " is missing counts as unknown."
        )
    ]
