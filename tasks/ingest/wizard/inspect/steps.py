"""The length of a step, and the step number of each row."""

import re
from datetime import timedelta

import numpy as np
import polars as pl

from tasks.core.calendar import parse_step_length
from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.season import SEASONS

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_MONTHS = {1: ((28, 31), "1mo"), 3: ((89, 92), "1q"), 12: ((365, 366), "1y")}
# half of what validate may put into quarantine; up to it, rows off the grid are better quarantined
MAX_OFF_GRID_FRAC = 0.005
FRIDAY = 5


def find_every(rows: pl.DataFrame) -> tuple[str, str]:
    """Length of a step and the reason: the most frequent distance between times of a series.

    Raises SourceError when no series has two times, or steps are shorter than a second.
    """
    steps = compute_distances(rows)
    if not len(steps):
        raise SourceError(
            "No series has two different times, so the length of a step is unknown. Give a longer history, or"
            " the right `--series`."
        )
    modal: timedelta = steps.value_counts(sort=True).sort("count", "step", descending=[True, False]).row(0)[0]
    share = _compute_share_between(steps, modal, modal)
    if share < 0.5:
        return _find_nearest_step(steps)
    for (low, high), every in _MONTHS.values():
        if timedelta(days=low) <= modal <= timedelta(days=high):
            month_share = _compute_share_between(steps, timedelta(days=low), timedelta(days=high))
            return every, f"{month_share:.1%} of the distances are {low} to {high} days"
    seconds = modal.total_seconds()
    if seconds < 1:
        raise SourceError(
            f"Steps of {modal} are shorter than a second, which is events and not steps. Aggregate them"
            " first, for example to 1 minute."
        )
    every = (
        "1w"
        if modal == timedelta(days=7)
        else next(f"{seconds / n:.0f}{unit}" for unit, n in _SECONDS.items() if seconds % n == 0)
    )
    return every, f"{share:.1%} of the distances between rows"


def list_unlike_steps(rows: pl.DataFrame) -> list[str]:
    """The usual steps of the series if one is a third longer than another; empty if they agree."""
    lengths = (
        rows.group_by("series_id")
        .agg(pl.col("event_time").diff().mode().min().alias("step"))
        .drop_nulls()["step"]
        .unique()
        .sort()
    )
    return [str(step) for step in lengths] if len(lengths) > 1 and lengths[-1] > lengths[0] * 4 / 3 else []


def _find_nearest_step(steps: pl.Series) -> tuple[str, str]:
    """The usual step nearest to the median distance, for times that are not evenly spaced."""
    median = convert_to_float(steps.dt.total_seconds(fractional=True).median())
    every = min(SEASONS, key=lambda e: abs(np.log(max(median, 1e-3) / parse_step_length(e).total_seconds())))
    return every, f"times are uneven; their median distance of {median:.3g} s comes closest"


def compute_distances(rows: pl.DataFrame) -> pl.Series:
    """Distances between successive times of each series."""
    same = pl.col("series_id") == pl.col("series_id").shift()
    return rows.select(pl.when(same).then(pl.col("event_time").diff()).alias("step")).drop_nulls()["step"]


def _compute_share_between(steps: pl.Series, low: timedelta, high: timedelta) -> float:
    return convert_to_float(steps.is_between(low, high).mean())


def find_snap_reason(rows: pl.DataFrame, every: str) -> str | None:
    """Why times must be aligned to the start of their step; None if they are aligned already."""
    # every month has the days up to 28
    if parse_every(every)[1] in ("mo", "q", "y") and (rows["event_time"].dt.day() > 28).any():
        return "months end on different days"
    off_grid_frac = float(compute_positions(rows, every)[1].mean())
    if off_grid_frac > MAX_OFF_GRID_FRAC:
        return f"{off_grid_frac:.0%} of the rows are off the steps of {every} that their series starts"
    if (n_phases := _count_phases(rows, every)) > 1:
        return f"the series start their steps at {n_phases} different moments"
    if (
        every == "1d"
        and (rows["event_time"].dt.weekday() <= FRIDAY).all()
        and (rows["event_time"].dt.hour() > 0).any()
    ):
        return "a session is a date, not an hour"
    return None


def _count_phases(rows: pl.DataFrame, every: str) -> int:
    """Number of different offsets within a step at which series start."""
    if parse_every(every)[1] in ("mo", "q", "y"):
        return int(
            rows.group_by("series_id")
            .agg(pl.col("event_time").min())["event_time"]
            .dt.strftime("%d %T")
            .n_unique()
        )
    length = int(parse_step_length(every).total_seconds() * 1e6)
    starts = rows.group_by("series_id").agg(pl.col("event_time").min())["event_time"].dt.epoch("us")
    return int((starts % length).n_unique())


def align_to_step(rows: pl.DataFrame, every: str) -> pl.DataFrame:
    """Each time at the start of its step; of rows in one step the first is kept, as in ingest."""
    aligned = rows.with_columns(pl.col("event_time").dt.truncate(every))
    return aligned.unique(["series_id", "event_time"], keep="first", maintain_order=True)


def compute_positions(rows: pl.DataFrame, every: str | None) -> tuple[np.ndarray, np.ndarray]:
    """(step number, whether it is off the steps that the series' first row starts) of each row.

    every: None for integer time, which is its own step number.
    """
    if every is None:
        return rows["event_time"].to_numpy(), np.zeros(rows.height, dtype=bool)
    count, unit = parse_every(every)
    first = pl.col("event_time").min().over("series_id")
    if unit in ("mo", "q", "y"):
        months = count * {"mo": 1, "q": 3, "y": 12}[unit]
        month = _build_month(pl.col("event_time"))
        positions = rows.select(
            step=month // months,
            off=pl.col("event_time") != first.dt.offset_by(pl.format("{}mo", month - _build_month(first))),
        )
    else:
        length = int(parse_step_length(every).total_seconds() * 1e6)
        distance = pl.col("event_time").dt.epoch("us") - first.dt.epoch("us")
        start = (first.dt.epoch("us") - rows["event_time"].dt.epoch("us").min()) // length
        positions = rows.select(step=start + distance // length, off=distance % length != 0)
    return positions["step"].to_numpy(), positions["off"].to_numpy()


def _build_month(time: pl.Expr) -> pl.Expr:
    """Months since the year 0."""
    return (time.dt.year() * 12 + time.dt.month() - 1).cast(pl.Int64)


def parse_every(every: str) -> tuple[int, str]:
    """Number and unit of a step. Raises SourceError for anything else."""
    match = re.fullmatch(r"(\d+)([a-z]+)", every)
    if not match:
        raise SourceError(
            f"`--every {every}`: give a number and a unit, for example `1d`, `1h`, `5m`, `1mo`."
        )
    return int(match[1]), match[2]
