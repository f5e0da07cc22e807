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

MOST_MET_FRAC = 0.2  # of the rows that fall into a step with another one; of these only the first would count
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
    """The rows that ingest will keep, and its caps."""
    lengths = rows.group_by("series_id").len().sort("series_id")
    most_rows, most_series = budget.compute_caps(lengths.height, convert_to_int(lengths["len"].max()))
    limits = {}
    if most_series is not None:
        limits["max_series"] = most_series
        rows = rows.filter(pl.col("series_id").is_in(lengths["series_id"].head(most_series).implode()))
    if most_rows is not None:
        limits["max_rows_per_series"] = most_rows
        rows = rows.filter(pl.int_range(pl.len(), 0, -1).over("series_id") <= most_rows)
    return rows, limits


def align_rows(
    rows: pl.DataFrame, look: InspectedFiles, asked: OwnerAnswers
) -> tuple[pl.DataFrame, str | None]:
    """The rows on one grid, and why they had to be moved.

    Raises SourceError when that would throw many away.
    """
    if look.integer_time:
        return rows, None
    every = asked.every or find_every(rows)[0]
    why = find_snap_reason(rows, every)
    if why is None:
        return rows, None
    moved = align_to_step(rows, every)
    if (met := 1 - moved.height / rows.height) > MOST_MET_FRAC:
        usual = find_every(rows)[0]
        leave_it = f"Leave `--every {every}` away: rows come every {usual}"
        way_out = leave_it if asked.every else "Say the series with `--series`"
        raise SourceError(
            f"Within steps of {every} {met:.0%} of the rows meet another one, and rows are not aggregated."
            f" {way_out}, or aggregate the file first."
        )
    return moved, why


def decide_grid(
    rows: pl.DataFrame, look: InspectedFiles, asked: OwnerAnswers, draft: EntryDraft
) -> DetectedGrid:
    """The grid of the rows; what is unusual about it is reported."""
    grid = find_grid(rows, "__z", look.integer_time, asked.every, asked.season)
    n = f"{grid.n_series} series" if grid.n_series > 1 else "1 series"
    draft.said.append(
        f"{look.received} rows read from {look.n_files} file(s): {n} on {grid.n_steps} steps of {grid.every},"
        f" {format_span(rows, look.integer_time)}."
    )
    if grid.n_missing:
        draft.said.append(
            f"{grid.n_missing} steps are missing, the longest gap has {grid.longest_gap}; they become gaps on"
            " the grid, nothing is filled in."
        )
    if not look.integer_time and (unlike := list_unlike_steps(rows)):
        draft.questions.append(
            f"The series have steps of unlike length ({', '.join(unlike)}); better make a dataset of each."
        )
    if look.repeated:
        draft.said.append(f"{look.repeated} rows repeat a key; ingest keeps them apart and counts them.")
    if grid.off_grid:
        draft.said.append(
            f"{grid.off_grid} rows are no step of {grid.every}; validate puts them into quarantine."
        )
    return grid


def format_span(rows: pl.DataFrame, integer_time: bool) -> str:
    """First and last date of the rows."""
    if integer_time:
        return "without dates"
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    return f"{first:%F} to {last:%F}"


def decide_horizon(grid: DetectedGrid, look: InspectedFiles, asked: OwnerAnswers, draft: EntryDraft) -> int:
    """The horizon in steps: as asked, or what is usual for the grid."""
    if asked.horizon is not None:
        steps, why = asked.horizon, "as asked"
    elif look.integer_time and grid.season_steps > 1:
        steps, why = 2 * grid.season_steps, "two seasons, since there is no time to go by"
    elif grid.calendar != "continuous":
        steps, why = 5, "a trading week"
    else:
        steps, why = _HORIZONS.get(grid.every, 12), "usual for this step; say --horizon for another"
    if asked.horizon is None and steps > grid.n_steps // 16:
        steps, why = max(1, grid.n_steps // 16), "a sixteenth of a short history"
    draft.add_value(("about", "horizon_steps"), steps, why)
    return steps


def list_windows(grid: DetectedGrid, n_steps: int) -> list[int]:
    """Spans of rolling features: part of a season, a season, several; without one a week's, a
    month's and a quarter's worth of steps.
    """
    s = grid.season_steps
    wanted = [max(2, s // 4), s, grid.second_season_steps or 4 * s] if s > 1 else [5, 22, 66]
    fitting = [w for w in wanted if w <= n_steps // 12]
    return sorted(set(fitting)) or [3]
