"""The grid of the series: length of a step, calendar, gaps, season."""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl

from tasks.core.calendar import list_exchange_sessions
from tasks.core.frames import UTC as UTC_DTYPE
from tasks.ingest.wizard.inspect.figures import convert_to_float, convert_to_int
from tasks.ingest.wizard.inspect.season import find_season
from tasks.ingest.wizard.inspect.steps import FRIDAY, compute_positions, find_every, parse_every


@dataclass(frozen=True)
class DetectedGrid:
    """The steps.

    every, calendar: as in `about`. n_steps: from the first step of any series to the last.
    off_grid: rows that are no step. n_missing, longest_gap: steps without a row. season_steps: 1
    for none.
    """

    every: str
    calendar: str
    n_steps: int
    n_series: int
    off_grid: int
    n_missing: int
    longest_gap: int
    season_steps: int
    second_season_steps: int | None
    acf: float
    reasons: dict[str, str]


def find_grid(
    rows: pl.DataFrame, z: str, integer_time: bool, every: str | None = None, season: int | None = None
) -> DetectedGrid:
    """All of it. rows: `series_id`, `event_time`, and the column *z*, in whose space the season
    is sought.
    """
    reasons: dict[str, str] = {}
    if integer_time:
        step, reasons["every"] = "1h", "no time in the file; the hour only names a step"
        calendar, reasons["calendar"] = "continuous", "rows are steps"
    else:
        step, reasons["every"] = (every, "as asked") if every else find_every(rows)
        parse_every(step)
        calendar, reasons["calendar"] = find_calendar(rows, step)
    place, off = compute_positions(rows, None if integer_time else step)
    n_missing, longest = _count_gaps(rows, place, off, calendar)
    arrays = build_dense_arrays(rows, z, place, off)
    found, second, acf, reasons["season_steps"] = find_season(
        arrays, None if integer_time else step, calendar
    )
    if season is not None:
        found, second, reasons["season_steps"] = season, None, "as asked"
    n_steps = (
        int(place.max() - place.min()) + 1 if calendar == "continuous" else rows["event_time"].n_unique()
    )
    return DetectedGrid(
        step,
        calendar,
        n_steps,
        rows["series_id"].n_unique(),
        int(off.sum()),
        n_missing,
        longest,
        found,
        second,
        acf,
        reasons,
    )


def find_calendar(rows: pl.DataFrame, every: str) -> tuple[str, str]:
    """Calendar and why.

    Only daily rows that never fall on a weekend can be anything but continuous.
    """
    if every != "1d":
        return "continuous", "every step exists"
    days = rows["event_time"].unique().sort()
    # Three weeks without a weekend are a sign
    if len(days) < 15 or (days.dt.weekday() > FRIDAY).any():
        return "continuous", "rows on weekends, too"
    sessions = list_exchange_sessions("XNYS", days[0], days[-1] + timedelta(days=1)).cast(UTC_DTYPE)
    weekdays = pl.datetime_range(days[0], days[-1], "1d", time_zone="UTC", time_unit="us", eager=True)
    weekdays = weekdays.filter(weekdays.dt.weekday() <= FRIDAY)
    on_session, held = (
        convert_to_float(days.is_in(sessions.implode()).mean()),
        convert_to_float(sessions.is_in(days.implode()).mean()),
    )
    # A few days may be lost
    if on_session == 1.0 and held > len(days) / len(weekdays) and held > 0.97:
        return (
            "exchange:XNYS",
            f"no row off a session of the New York exchange, {held:.1%} of its sessions are there",
        )
    return "weekdays", "no row on a weekend"


def _count_gaps(rows: pl.DataFrame, place: np.ndarray, off: np.ndarray, calendar: str) -> tuple[int, int]:
    """Missing steps and the longest run of them, within each series' span; on weekdays and
    exchanges a weekend is no gap.
    """
    if calendar != "continuous":
        days = rows["event_time"].unique().sort()
        spans = rows.group_by("series_id").agg(
            first=pl.col("event_time").min(), last=pl.col("event_time").max(), n=pl.len()
        )
        return (
            int(
                sum(
                    days.is_between(f, e).sum() - n
                    for f, e, n in spans.select("first", "last", "n").iter_rows()
                )
            ),
            0,
        )
    steps = rows.select("series_id").with_columns(step=pl.Series(place)).filter(~pl.Series(off))
    missing = steps.select(
        pl.when(pl.col("series_id") == pl.col("series_id").shift()).then(pl.col("step").diff() - 1).alias("n")
    ).drop_nulls()["n"]
    return convert_to_int(missing.clip(0).sum()), max(0, convert_to_int(missing.max()))


def build_dense_arrays(
    rows: pl.DataFrame,
    column: str,
    place: np.ndarray,
    off: np.ndarray,
    most_series: int = 40,
    most_steps: int = 20_000,
) -> list[np.ndarray]:
    """The newest *most_steps* steps of up to *most_series* series, each an array with NaN where
    a step is missing.
    """
    laid = (
        rows.select("series_id", pl.col(column).cast(pl.Float64).fill_null(float("nan")))
        .with_columns(step=pl.Series(place))
        .filter(~pl.Series(off))
    )
    ids = laid["series_id"].unique().sort()
    chosen = ids.gather(np.unique(np.linspace(0, len(ids) - 1, min(len(ids), most_series)).astype(int)))
    out = []
    for series in chosen:
        part = laid.filter(pl.col("series_id") == series)
        steps = part["step"].to_numpy() - convert_to_int(part["step"].max()) + most_steps - 1
        values = np.full(most_steps, np.nan)
        values[steps[steps >= 0]] = part[column].to_numpy()[steps >= 0]
        out.append(values[max(0, int(steps.min())) :])
    return out
