"""The grid of the series: length of a step, calendar, gaps, season."""

from calendar import day_name
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl

from tasks.core.calendar import format_open_days, list_exchange_sessions
from tasks.core.frames import UTC as UTC_DTYPE
from tasks.ingest.wizard.inspect.figures import convert_to_float, convert_to_int
from tasks.ingest.wizard.inspect.season import find_season
from tasks.ingest.wizard.inspect.steps import FRIDAY, compute_positions, find_every, parse_every

MIN_CLOSED_WEEKS = 8  # a weekday without a row in fewer may be holidays
MAX_CHANCE_CLOSED = 1e-6


@dataclass(frozen=True)
class DetectedGrid:
    """The grid on which the series are.

    every, calendar: as in `about`.
    n_steps: from the first step of any series to the last.
    off_grid: rows that are off the steps.
    n_missing, longest_gap: steps without a row.
    season_steps: 1 if there is no season.
    acf: autocorrelation at the season.
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
    """Step, calendar, gaps and season of *rows*.

    rows: `series_id`, `event_time` and *z*, the column whose season is sought.
    every, season: as the owner answered; None to find them.
    """
    reasons: dict[str, str] = {}
    if integer_time:
        step, reasons["every"] = "1h", "no time in the file; the hour only names a step"
        calendar, reasons["calendar"] = "continuous", "rows are steps"
    else:
        step, reasons["every"] = (every, "as asked") if every else find_every(rows)
        parse_every(step)
        calendar, reasons["calendar"] = find_calendar(rows, step)
    steps, is_off = compute_positions(rows, None if integer_time else step)
    n_missing, longest_gap = _count_gaps(rows, steps, is_off, calendar)
    if calendar != "continuous":  # closed days are no steps
        steps = rows["event_time"].rank("dense").cast(pl.Int64).to_numpy()
    arrays = build_dense_arrays(rows, z, steps, is_off)
    season_steps, second, acf, reasons["season_steps"] = find_season(
        arrays, None if integer_time else step, calendar
    )
    if season is not None:
        season_steps, second, reasons["season_steps"] = season, None, "as asked"
    return DetectedGrid(
        every=step,
        calendar=calendar,
        n_steps=int(steps.max() - steps.min()) + 1,
        n_series=rows["series_id"].n_unique(),
        off_grid=int(is_off.sum()),
        n_missing=n_missing,
        longest_gap=longest_gap,
        season_steps=season_steps,
        second_season_steps=second,
        acf=acf,
        reasons=reasons,
    )


def find_calendar(rows: pl.DataFrame, every: str) -> tuple[str, str]:
    """Calendar and the reason; daily rows that are never on some weekdays have closed days."""
    if every != "1d":
        return "continuous", "every step exists"
    days = rows["event_time"].unique().sort()
    # fewer than three weeks without a weekend may be chance
    if len(days) < 15 or (days.dt.weekday() > FRIDAY).any():
        return _find_open_days(days)
    sessions = list_exchange_sessions("XNYS", days[0], days[-1] + timedelta(days=1)).cast(UTC_DTYPE)
    weekdays = pl.datetime_range(days[0], days[-1], "1d", time_zone="UTC", time_unit="us", eager=True)
    weekdays = weekdays.filter(weekdays.dt.weekday() <= FRIDAY)
    on_session_frac = convert_to_float(days.is_in(sessions.implode()).mean())
    present_frac = convert_to_float(sessions.is_in(days.implode()).mean())
    # a few days may be missing
    if on_session_frac == 1.0 and present_frac > len(days) / len(weekdays) and present_frac > 0.97:
        return (
            "exchange:XNYS",
            f"no row off a session of the New York exchange, {present_frac:.1%} of its sessions are there",
        )
    return "weekdays", "no row on a weekend"


def _find_open_days(days: pl.Series) -> tuple[str, str]:
    """The weekdays of *days* (ascending, distinct), where the others cannot be missing by chance.

    By chance a day is missing as often as those of the weekdays that have rows; a weekday that is
    missing in each of n weeks has that share to the power of n.
    """
    every_day = pl.datetime_range(days[0], days[-1], "1d", time_zone="UTC", time_unit="us", eager=True)
    n_of = dict(every_day.dt.weekday().value_counts().iter_rows())
    is_open = sorted(days.dt.weekday().unique())
    n_closed = {day: n for day, n in n_of.items() if day not in is_open}
    missing_frac = 1 - len(days) / sum(n_of[day] for day in is_open)
    n_weeks = min(n_closed.values(), default=0)
    if n_weeks < MIN_CLOSED_WEEKS or missing_frac**n_weeks > MAX_CHANCE_CLOSED:
        return "continuous", "rows on all weekdays" if not n_closed else "too few weeks to call a day closed"
    named = " and ".join(f"{n_closed[day]} {day_name[day - 1]}s" for day in sorted(n_closed))
    return format_open_days(is_open), f"no row on any of {named}: closed days are no steps, and not forecast"


def _count_gaps(rows: pl.DataFrame, steps: np.ndarray, is_off: np.ndarray, calendar: str) -> tuple[int, int]:
    """Missing steps and the longest run of them, within the span of each series.

    With another calendar than `continuous` only days on which some series has a row count, and the
    longest run is 0.
    """
    if calendar != "continuous":
        days = rows["event_time"].unique().sort()
        spans = rows.group_by("series_id").agg(
            first=pl.col("event_time").min(), last=pl.col("event_time").max(), n=pl.len()
        )
        n_missing = sum(
            days.is_between(first, last).sum() - n
            for first, last, n in spans.select("first", "last", "n").iter_rows()
        )
        return int(n_missing), 0
    on_grid = rows.select("series_id").with_columns(step=pl.Series(steps)).filter(~pl.Series(is_off))
    missing = on_grid.select(
        pl.when(pl.col("series_id") == pl.col("series_id").shift()).then(pl.col("step").diff() - 1).alias("n")
    ).drop_nulls()["n"]
    return convert_to_int(missing.clip(0).sum()), max(0, convert_to_int(missing.max()))


def build_dense_arrays(
    rows: pl.DataFrame,
    column: str,
    steps: np.ndarray,
    is_off: np.ndarray,
    max_series: int = 40,
    max_steps: int = 20_000,
) -> list[np.ndarray]:
    """An array for each of up to *max_series* series: their newest steps, NaN where one is missing.

    steps, is_off: of each row, as `compute_positions` gives them.
    """
    gridded = (
        rows.select("series_id", pl.col(column).cast(pl.Float64).fill_null(float("nan")))
        .with_columns(step=pl.Series(steps))
        .filter(~pl.Series(is_off))
    )
    ids = gridded["series_id"].unique().sort()
    chosen = ids.gather(np.unique(np.linspace(0, len(ids) - 1, min(len(ids), max_series)).astype(int)))
    arrays = []
    for series in chosen:
        part = gridded.filter(pl.col("series_id") == series)
        index = part["step"].to_numpy() - convert_to_int(part["step"].max()) + max_steps - 1
        values = np.full(max_steps, np.nan)
        values[index[index >= 0]] = part[column].to_numpy()[index >= 0]
        arrays.append(values[max(0, int(index.min())) :])
    return arrays
