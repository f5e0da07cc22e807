"""Which rows are used, their grid and the horizon on it."""

import polars as pl

from tasks.core.errors import SourceError
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
    rows: pl.DataFrame, inspected: InspectedFiles, answers: OwnerAnswers
) -> tuple[pl.DataFrame, str | None]:
    """The rows aligned to their steps, and why; None if they are aligned already.

    Raises SourceError when many rows would share a step.
    """
    if inspected.integer_time:
        return rows, None
    every = answers.every or find_every(rows)[0]
    reason = find_snap_reason(rows, every)
    if reason is None:
        return rows, None
    aligned = align_to_step(rows, every)
    if (repeated_frac := 1 - aligned.height / rows.height) > MAX_REPEATED_FRAC:
        remove_every = f"Remove `--every {every}`: rows come every {find_every(rows)[0]}"
        way_out = remove_every if answers.every else "Give the column of the series with `--series`"
        raise SourceError(
            f"With steps of {every}, {repeated_frac:.0%} of the rows share a step with another row, and rows"
            f" are not aggregated. {way_out}, or aggregate the file first."
        )
    return aligned, reason


def decide_grid(
    rows: pl.DataFrame, inspected: InspectedFiles, answers: OwnerAnswers, draft: EntryDraft
) -> DetectedGrid:
    """The grid of the rows; what is unusual about it becomes a fact or a question."""
    grid = find_grid(rows, "__z", inspected.integer_time, answers.every, answers.season)
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


def format_span(rows: pl.DataFrame, integer_time: bool) -> str:
    """First and last date of the rows."""
    if integer_time:
        return "without dates"
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    return f"{first:%F} to {last:%F}"


def decide_horizon(
    grid: DetectedGrid, inspected: InspectedFiles, answers: OwnerAnswers, draft: EntryDraft
) -> int:
    """The horizon in steps: as asked, or what is usual for the grid."""
    if answers.horizon is not None:
        steps, reason = answers.horizon, "as asked"
    elif inspected.integer_time and grid.season_steps > 1:
        steps, reason = 2 * grid.season_steps, "two seasons, since the file has no time"
    elif grid.calendar != "continuous":
        steps, reason = 5, "a trading week"
    else:
        steps, reason = _HORIZONS.get(grid.every, 12), "usual for this step; give --horizon for another"
    if answers.horizon is None and steps > grid.n_steps // 16:
        steps, reason = max(1, grid.n_steps // 16), "a sixteenth of a short history"
    draft.add_value(("about", "horizon_steps"), steps, reason)
    return steps


def list_windows(grid: DetectedGrid, n_steps: int) -> list[int]:
    """Spans of rolling features: part of a season, a season, several seasons.

    Without a season they are 5, 22 and 66 steps: a trading week, month and quarter.
    """
    s = grid.season_steps
    spans = [max(2, s // 4), s, grid.second_season_steps or 4 * s] if s > 1 else [5, 22, 66]
    return sorted({span for span in spans if span <= n_steps // 12}) or [3]
