"""The rows that a request brings, checked as the dataset's own."""

from collections.abc import Sequence
from math import inf
from typing import Any

import polars as pl

from deployments.forecaster.loaded import LoadedRelease, format_iso, list_value_columns
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import ForecastRequest, build_history_columns
from tasks.core.calendar import parse_step_length
from tasks.core.errors import TidemillError
from tasks.core.frames import SERIES
from tasks.features import list_column_names
from tasks.release import Release

LEARNED_STEPS = 10_000  # of an own history beyond what features look back on: .6 s, 40 years of trading days
# The grid is built from the release's rows to the history: 8 MB; a typo in a year must not use all
# memory
MAX_SPAN_STEPS = 1_000_000


def build_own_rows(loaded: LoadedRelease, request: ForecastRequest) -> pl.DataFrame:
    """The history of *request* as SERIES.

    Raises ProblemError for rows that the release cannot forecast from.
    """
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
    return parse_own_rows(loaded, request.series[0], request.history or [])


def parse_own_rows(loaded: LoadedRelease, series_id: str, history: Sequence[Any]) -> pl.DataFrame:
    """*history* as SERIES. Raises ProblemError for rows that are none of the dataset's."""
    columns = list_value_columns(loaded.release.rows)
    lookback = loaded.release.schema.lookback_steps
    if len(history) > (max_rows := lookback + 1 + LEARNED_STEPS):
        rule = f"Features look back {lookback} steps; intervals learn from at most {LEARNED_STEPS:,} more."
        raise ProblemError(422, "history", f"{len(history):,} rows", rule, f"Send the newest {max_rows:,}.")
    content = build_history_columns(history, columns)
    dtypes = {"event_time": SERIES.columns["event_time"], **dict.fromkeys(columns, pl.Float64)}
    frame = pl.DataFrame(content, schema=dtypes).sort("event_time")
    _check_steps(loaded.release, frame["event_time"])
    _check_bounds(loaded.release, frame)
    return SERIES.conform(
        frame.with_columns(series_id=pl.lit(series_id), known_at=loaded.release.calendar.nominal_known_at())
    )


def _check_bounds(release: Release, rows: pl.DataFrame) -> None:
    """Raise ProblemError for a value of the target that the dataset's contract does not allow."""
    target = release.about.target
    if target.bounds is None:
        return
    value, bounds = pl.col(target.column), target.bounds
    low = -inf if bounds.min is None else bounds.min
    is_low = value <= low if bounds.strict_min else value < low
    broken = rows.filter(is_low | (value > (inf if bounds.max is None else bounds.max)))
    if broken.height:
        row = broken.row(0, named=True)
        value_there, time = row[target.column], format_iso(row["event_time"])
        raise ProblemError(
            422,
            "history",
            f"{target.column} is {value_there:g} at {time} ({broken.height:,} such rows)",
            f"The dataset's contract has {target.column} {bounds.describe()}.",
            "Correct the rows, or send null where the value is not known.",
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
