"""From what is asked to what is answered and what is recorded.

Pure: the numbers come from `tasks.release`, the wall clock comes in.
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
# The grid is laid from the release's rows to the history: 8 MB; a typo in a year must not take all
# memory
MAX_SPAN_STEPS = 1_000_000


@dataclass(frozen=True)
class ForecastResponse:
    """body: what the caller gets. served: the same as a SERVED frame, to be recorded first.

    own_history: spoken from the request's rows. as_of: the time that it asked for.
    """

    body: shapes.Prediction
    served: pl.DataFrame
    own_history: bool
    as_of: datetime | None


@dataclass(frozen=True)
class _IssuedForecast:
    """One ask worked out. rows: what was spoken from. at: as of when. absent: series asked for
    that cannot be forecast, with reasons.
    """

    standing: LoadedRelease
    ask: ForecastRequest
    rows: pl.DataFrame
    at: datetime
    made_at: datetime
    served: pl.DataFrame
    absent: dict[str, str]


def build_response(standing: LoadedRelease, ask: ForecastRequest, made_at: datetime) -> ForecastResponse:
    """Forecast what *ask* asks. made_at: the wall clock.

    Raises ProblemError when a series is unknown or none can be forecast.
    """
    own = ask.history is not None
    rows = _build_own_rows(standing, ask) if own else _select_stored_rows(standing, ask)
    first, newest = compute_known_span(rows)
    at = ask.at or (newest if own else standing.newest_known)
    if at < first:
        rule = f"The rows of what is asked begin at {format_iso(first)}."
        raise ProblemError(
            422,
            "as_of",
            f"{format_iso(at)} is before the first row was known",
            rule,
            f"Ask for {format_iso(first)} or later.",
        )
    made = _predict_rows(standing, ask, rows, at).filter(pl.col("series_id").is_in(ask.series))
    missing = set(ask.series) - set(made["series_id"])
    absent = (
        {s: reason for s, reason in find_absence_reasons(standing.release, rows, at).items() if s in missing}
        if missing
        else {}
    )
    if made.is_empty():
        reasons = "; ".join(f"{s!r}: {reason}" for s, reason in sorted(absent.items()))
        fact = f"nothing can be forecast as of {format_iso(at)}: {reasons}"[:1000]
        raise ProblemError(
            422,
            "series_id",
            fact,
            "A forecast starts from a recent known value.",
            "Ask for another as_of, or send newer rows.",
        )
    served = _build_served_frame(made, made_at, standing.manifest.digest)
    return ForecastResponse(
        _build_prediction(_IssuedForecast(standing, ask, rows, at, made_at, served, absent)),
        served,
        own,
        ask.at,
    )


def _build_served_frame(made: pl.DataFrame, made_at: datetime, digest: str) -> pl.DataFrame:
    """*made* as a SERVED frame; recording checks it, and one id keeps the order of series and
    steps.
    """
    marks = {"prediction_id": str(uuid4()), "made_at": made_at, "digest": digest}
    return made.with_columns(
        pl.lit(value, dtype=SERVED.columns[name]).alias(name) for name, value in marks.items()
    )


def describe_champion(standing: LoadedRelease) -> shapes.ChampionModel:
    """The release that answers, as /models shows it."""
    release, manifest = standing.release, standing.manifest
    return {
        **_describe_model(standing),
        "dataset": manifest.dataset,
        "chosen_by": standing.choice.chosen_by,
        "data_version": manifest.data_version,
        "as_of": format_iso(manifest.as_of),
        "combiner": release.blend.combiner,
        "members": dict(sorted(release.weights.items())),
        "horizon_steps": release.about.horizon_steps,
        "every": release.about.every,
        "quantiles": list(release.about.quantiles),
        "series": standing.series,
        "metrics": {} if standing.metrics is None else standing.metrics.model_dump(),
    }


def _describe_model(standing: LoadedRelease) -> shapes.Model:
    manifest = standing.manifest
    return {
        "name": standing.release.model,
        "version": standing.choice.version,
        "digest": manifest.digest,
        "seen_until": format_iso(manifest.seen_until),
    }


def _select_stored_rows(standing: LoadedRelease, ask: ForecastRequest) -> pl.DataFrame:
    if set(ask.series) - set(standing.series):
        raise build_unknown_series_error(ask.series, standing.series)
    return standing.rows.filter(pl.col("series_id").is_in(ask.series))


def is_quick(standing: LoadedRelease, ask: ForecastRequest) -> bool:
    """Whether `answer` takes no longer than a few milliseconds: its numbers are there, and they
    are few.
    """
    at = ask.at or standing.newest_known
    n_steps = len(ask.series) * standing.release.about.horizon_steps
    return ask.history is None and n_steps <= QUICK_STEPS and at in standing.kept


def _build_own_rows(standing: LoadedRelease, ask: ForecastRequest) -> pl.DataFrame:
    if beyond := list_column_names(standing.release.about, standing.release.features, "others", "ahead"):
        # A line's worth
        fact = f"this release reads {', '.join(beyond[:5])}{' and more' if len(beyond) > 5 else ''}"[:1000]
        rule = "The rows of other series, and what was said ahead and when, are in no history of one series."
        raise ProblemError(
            422,
            "history",
            fact,
            rule,
            "Ask by series_id: the service then speaks from all rows that it holds.",
        )
    history, columns = ask.history or [], list_value_columns(standing.release.rows)
    lookback = standing.release.schema.lookback_steps
    if len(history) > (most := lookback + 1 + LEARNED_STEPS):
        rule = f"Features look back {lookback} steps; intervals learn from at most {LEARNED_STEPS:,} more."
        raise ProblemError(422, "history", f"{len(history):,} rows", rule, f"Send the newest {most:,}.")
    content = build_history_columns(history, columns)
    dtypes = {"event_time": SERIES.columns["event_time"], **dict.fromkeys(columns, pl.Float64)}
    frame = pl.DataFrame(content, schema=dtypes).sort("event_time")
    _check_steps(standing.release, frame["event_time"])
    return SERIES.conform(
        frame.with_columns(
            series_id=pl.lit(ask.series[0]), known_at=standing.release.calendar.nominal_known_at()
        )
    )


def _check_steps(release: Release, times: pl.Series) -> None:
    """Raise ProblemError unless *times*, ascending, are steps of the release's own grid, and
    near enough for it to be laid out.
    """
    known = release.rows.select(pl.col("event_time").max()).to_series()
    low, high = min(times[0], known[0]), max(times[-1], known[0])
    if (high - low) / parse_step_length(release.about.every) > MAX_SPAN_STEPS:
        rule = (
            f"A history lies within {MAX_SPAN_STEPS:,} steps of {release.about.every} from the release's own"
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
            f"Rows lie on the calendar {release.about.calendar!r}.",
            "Correct the times.",
        ) from error
    off = times.filter(~times.is_in(grid.implode()))
    if len(off) or not known.is_in(grid.implode())[0]:
        fact = f"{format_iso(off[0] if len(off) else times[0])} is no step of the dataset"
        rule = (
            f"Steps are {release.about.every} on the calendar {release.about.calendar!r}, and"
            f" {format_iso(known[0])} is one."
        )
        raise ProblemError(
            422, "history", fact, rule, "Send the start of each step; leave out rows between them."
        )


def _predict_rows(
    standing: LoadedRelease, ask: ForecastRequest, rows: pl.DataFrame, at: datetime
) -> pl.DataFrame:
    try:
        return standing.forecast(at) if ask.history is None else predict_cutoffs(standing.release, rows, [at])
    except TidemillError as error:
        where = "history" if ask.history is not None else "as_of" if ask.at else "service"
        rule = "Rows lie on the dataset's calendar, and the calendar reaches as far as the forecast."
        raise ProblemError(422, where, str(error), rule, "Correct the times, or leave as_of out.") from error


def _build_prediction(spoken: _IssuedForecast) -> shapes.Prediction:
    standing, served = spoken.standing, spoken.served
    newest = dict(
        spoken.rows.filter(pl.col("known_at") <= spoken.at)
        .group_by("series_id")
        .agg(pl.col("known_at").max())
        .iter_rows()
    )
    by_series = {key[0]: part for key, part in served.group_by(["series_id"], maintain_order=True)}
    return {
        "prediction_id": served["prediction_id"][0],
        "made_at": format_iso(spoken.made_at),
        "dataset": standing.manifest.dataset,
        "target": standing.release.about.target.column,
        "unit": standing.release.about.target.unit,
        "model": _describe_model(standing),
        "data_version": standing.manifest.data_version,
        "series": [
            _build_series(standing, by_series[s], newest[s]) for s in spoken.ask.series if s in by_series
        ],
        "absent": [{"series_id": s, "reason": reason} for s, reason in sorted(spoken.absent.items())],
        "warnings": [
            *_list_absence_warnings(spoken),
            *_list_in_sample_warnings(spoken),
            *_list_quantile_warnings(spoken),
            *_list_old_row_warnings(spoken),
            *_list_history_warnings(spoken),
        ],
    }


def _build_series(standing: LoadedRelease, part: pl.DataFrame, as_of: datetime) -> shapes.Series:
    steps = [_build_step(standing, row) for row in part.iter_rows(named=True)]
    return {
        "series_id": part["series_id"][0],
        "cutoff": format_iso(part["cutoff"][0]),
        "as_of": format_iso(as_of),
        "steps": steps,
    }


def _build_step(standing: LoadedRelease, row: Mapping[str, Any]) -> shapes.Step:
    """The columns are those of the target's kind; the shape documents a numeric one."""
    release = standing.release
    step = {"step": row["step"], "event_time": format_iso(row["event_time"])}
    return cast("shapes.Step", step | release.kind.build_answer(release.about, row))


def _list_absence_warnings(spoken: _IssuedForecast) -> list[str]:
    return [f"{s} cannot be forecast: {reason}" for s, reason in sorted(spoken.absent.items())]


def _list_in_sample_warnings(spoken: _IssuedForecast) -> list[str]:
    seen_until = spoken.standing.release.seen_until
    if min(spoken.served["cutoff"].to_list()) >= seen_until:
        return []
    return [
        (
            f"In sample: the model was fitted on what was known until {format_iso(seen_until)}, after this"
            " cutoff. How well it does here says nothing."
        )
    ]


def _list_quantile_warnings(spoken: _IssuedForecast) -> list[str]:
    release = spoken.standing.release
    names = release.kind.list_columns(release.about)[1:]
    complete = not any(spoken.served[name].null_count() for name in names)
    return [] if complete else ["Some quantiles are null: no error of this model is known yet."]


def _list_old_row_warnings(spoken: _IssuedForecast) -> list[str]:
    """Rows older than the patience of the features, against the time asked for, or against now
    when none was.
    """
    about, patience = spoken.standing.release.about, spoken.standing.release.features.last_within_steps
    asked_for = spoken.at if spoken.ask.at is not None or about.integer_time else spoken.made_at
    newest = compute_known_span(spoken.rows)[1]
    n_steps = int((asked_for - newest) / parse_step_length(about.every))
    return (
        [
            (
                f"The newest row was known at {format_iso(newest)}, some {n_steps} steps before"
                f" {format_iso(asked_for)}. The forecast starts there."
            )
        ]
        if n_steps > patience
        else []
    )


def _list_history_warnings(spoken: _IssuedForecast) -> list[str]:
    lookback = spoken.standing.release.schema.lookback_steps
    if spoken.ask.history is None or spoken.rows.height > lookback:
        return []
    return [
        (
            f"The history has {spoken.rows.height} rows and the features read the last {lookback + 1}; what "
            f"is"
            " missing counts as unknown."
        )
    ]
