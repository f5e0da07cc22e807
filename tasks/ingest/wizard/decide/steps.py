"""Which rows are used, their grid and the horizon on it."""

import calendar

import polars as pl

from tasks.core.calendar import parse_open_days
from tasks.core.errors import SourceError
from tasks.core.numbers import format_number
from tasks.ingest.wizard.decide import budget
from tasks.ingest.wizard.decide.draft import EntryDraft
from tasks.ingest.wizard.inspect.figures import convert_to_int
from tasks.ingest.wizard.inspect.grid import DetectedGrid, find_grid
from tasks.ingest.wizard.inspect.inspected import InspectedFiles, OwnerAnswers
from tasks.ingest.wizard.inspect.steps import (
    align_to_step,
    find_every,
    find_snap_reason,
    list_unlike_steps,
)

MAX_REPEATED_FRAC = 0.2  # of rows that share a step with an earlier one: only the first of a step counts
_HORIZONS = {
    "1m": 30,
    "5m": 12,
    "10m": 12,
    "15m": 16,
    "30m": 24,
    "1h": 24,
    "1d": 7,
    "1w": 8,
    "1mo": 12,
    "1q": 4,
    "1y": 3,
}


def apply_caps(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows that ingest will keep, and the caps that it applies."""
    lengths = rows.group_by("series_id").len().sort("series_id")
    max_rows, max_series = budget.compute_caps(lengths.height, convert_to_int(lengths["len"].max()))
    limits = {}
    if max_series is not None:
        limits["max_series"] = max_series
        rows = rows.filter(pl.col("series_id").is_in(lengths["series_id"].head(max_series).implode()))
    if max_rows is not None:
        limits["max_rows_per_series"] = max_rows
        rows = rows.filter(pl.int_range(pl.len(), 0, -1).over("series_id") <= max_rows)
    return rows, limits


def align_rows(
    rows: pl.DataFrame, inspected: InspectedFiles, answers: OwnerAnswers, draft: EntryDraft
) -> tuple[pl.DataFrame, str | None, str | None]:
    """The rows aligned to their steps, why (None if they are aligned already), and how aggregated.

    Many rows that share a step are a question, unless the owner has answered with `aggregate`.
    """
    if inspected.integer_time:
        if answers.aggregate:
            raise SourceError(
                "`--aggregate`: rows without times are steps, and there is nothing to aggregate."
            )
        return rows, None, None
    every = answers.every or inspected.every or find_every(rows)[0]
    if answers.aggregate:
        return _aggregate(rows, every, answers.aggregate), "as asked", answers.aggregate
    reason = find_snap_reason(rows, every)
    if reason is None:
        return rows, None, None
    aligned = align_to_step(rows, every)
    if (repeated_frac := 1 - aligned.height / rows.height) <= MAX_REPEATED_FRAC:
        return aligned, reason, None
    values = [c for c in rows.columns if c not in ("series_id", "event_time", "__z")]
    means = _aggregate(rows, every, "mean")
    last = _aggregate(rows, every, "last")
    shown = [
        f"{time:%F %R} is {format_number(mean)} or {format_number(newest)}"
        for time, mean, newest in zip(means["event_time"], means[values[0]], last[values[0]], strict=True)
        if mean is not None and newest is not None
    ][:3]
    draft.unanswered.append(
        f"With steps of {every}, {repeated_frac:.0%} of the rows share a step with another row (by mean or"
        f" last, `{values[0]}` at {'; '.join(shown)}). Give `--aggregate mean`, `--aggregate sum` or"
        " `--aggregate last`, a shorter step with `--every`, or the series' column with `--series`."
    )
    return means, f"{repeated_frac:.0%} of the rows share a step with another row", "mean"


def _aggregate(rows: pl.DataFrame, every: str, aggregate: str) -> pl.DataFrame:
    """One row per series and step."""
    known = pl.exclude("series_id", "event_time").drop_nulls()
    column = pl.exclude("series_id", "event_time")
    value = {"mean": column.mean(), "sum": known.sum(), "last": known.last()}[aggregate]
    snapped = rows.with_columns(pl.col("event_time").dt.truncate(every))
    return snapped.group_by("series_id", "event_time", maintain_order=True).agg(
        pl.when(column.count() > 0).then(value)
    )


def decide_grid(
    rows: pl.DataFrame, inspected: InspectedFiles, answers: OwnerAnswers, draft: EntryDraft
) -> DetectedGrid:
    """The grid of the rows; what is unusual about it becomes a fact or a question."""
    every = answers.every or inspected.every
    grid = find_grid(rows, "__z", inspected.integer_time, every, answers.season)
    n = f"{grid.n_series} series" if grid.n_series > 1 else "1 series"
    draft.facts.append(
        f"{inspected.received} rows read from {inspected.n_files} file(s): {n} on {grid.n_steps} steps of"
        f" {grid.every}, {format_span(rows, inspected.integer_time)}."
    )
    if grid.n_missing:
        draft.facts.append(
            f"{grid.n_missing} steps are missing, the longest gap has {grid.longest_gap}; they become gaps on"
            " the grid, nothing is filled in."
        )
    if closed := _list_closed_days(rows, grid):
        draft.questions.append(
            f"No row is on a {' or '.join(closed)}, but the calendar {grid.calendar!r} has these days: they"
            " are forecast, too. Leave them out of what you use, or give the series a row of 0 there."
        )
    if grid.calendar.startswith("weekdays:"):
        draft.questions.append(
            f"The calendar is {grid.calendar}: {grid.reasons['calendar']}. If they should be, set"
            " `about.calendar: continuous`."
        )
    if not inspected.integer_time and (steps := list_unlike_steps(rows)):
        draft.questions.append(
            f"The series have steps of different length ({', '.join(steps)}); better make a dataset of each."
        )
    if inspected.repeated:
        draft.facts.append(
            f"{inspected.repeated} rows repeat a key; ingest keeps them apart and counts them."
        )
    if grid.off_grid:
        draft.facts.append(
            f"{grid.off_grid} rows are off the steps of {grid.every}; validate puts them into quarantine."
        )
    return grid


def _list_closed_days(rows: pl.DataFrame, grid: DetectedGrid) -> list[str]:
    """Weekdays without any row, if steps are days of a continuous calendar."""
    if grid.every != "1d" or grid.calendar != "continuous" or grid.n_steps < 28 or not grid.n_missing:
        return []
    present = set(rows["event_time"].dt.weekday().unique())
    return [name for day, name in enumerate(calendar.day_name, 1) if day not in present]


def format_span(rows: pl.DataFrame, integer_time: bool) -> str:
    """First and last date of the rows."""
    if integer_time:
        return "without dates"
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    return f"{first:%F} to {last:%F}"


def decide_horizon(
    grid: DetectedGrid,
    inspected: InspectedFiles,
    answers: OwnerAnswers,
    draft: EntryDraft,
    n_ahead: int = 0,
) -> int:
    """The horizon in steps: as asked, or what is usual for the grid.

    n_ahead: steps for which covariates are known ahead; 0 if none are.
    """
    if answers.horizon is not None:
        steps, reason = answers.horizon, "as asked"
    elif inspected.integer_time and grid.season_steps > 1:
        steps, reason = 2 * grid.season_steps, "two seasons, since the file has no time"
    elif grid.calendar != "continuous":
        steps, reason = len(parse_open_days(grid.calendar)) or 5, "a week of open days"
    else:
        steps, reason = _HORIZONS.get(grid.every, 12), "usual for this step; give --horizon for another"
    if answers.horizon is None and steps > grid.n_steps // 16:
        steps, reason = max(1, grid.n_steps // 16), "a sixteenth of a short history"
    if answers.horizon is None and 0 < n_ahead < steps:
        steps, reason = n_ahead, "the steps for which the covariates are known ahead"
    draft.add_value(("about", "horizon_steps"), steps, reason)
    return steps


def list_windows(grid: DetectedGrid, n_steps: int) -> list[int]:
    """Spans of rolling features: part of a season, a season, several seasons.

    Without a season they are 5, 22 and 66 steps: a trading week, month and quarter.
    """
    s = grid.season_steps
    spans = [max(2, s // 4), s, grid.second_season_steps or 4 * s] if s > 1 else [5, 22, 66]
    return sorted({span for span in spans if span <= n_steps // 12}) or [3]
