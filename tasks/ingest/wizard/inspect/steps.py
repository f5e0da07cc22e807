"""The length of a step, and where each row is among the steps."""

import re
from datetime import timedelta

import numpy as np
import polars as pl

from tasks.core.calendar import parse_step_length
from tasks.core.errors import SourceError
from tasks.ingest.wizard.inspect.figures import convert_to_float
from tasks.ingest.wizard.inspect.season import SEASONS

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
MONTHS = {1: ((28, 31), "1mo"), 3: ((89, 92), "1q"), 12: ((365, 366), "1y")}
# Half of what validate puts into quarantine before it stops; below, a stray row is better kept
# apart than moved
SNAP_ABOVE_FRAC = 0.005
FRIDAY = 5


def find_every(rows: pl.DataFrame) -> tuple[str, str]:
    """Length of a step and why: the commonest distance between successive times of a series.

    Raises SourceError when they have none.
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
    for (least, most), every in MONTHS.values():
        if timedelta(days=least) <= modal <= timedelta(days=most):
            return (
                every,
                (
                    f"{_compute_share_between(steps, timedelta(days=least), timedelta(days=most)):.1%} of the"
                    f" distances are {least} to {most} days"
                ),
            )
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
    """The series' own usual steps when one is more than a third longer than another; empty when
    they agree.
    """
    lengths = (
        rows.group_by("series_id")
        .agg(pl.col("event_time").diff().mode().min().alias("step"))
        .drop_nulls()["step"]
        .unique()
        .sort()
    )
    return [str(step) for step in lengths] if len(lengths) > 1 and lengths[-1] > lengths[0] * 4 / 3 else []


def _find_nearest_step(steps: pl.Series) -> tuple[str, str]:
    """The usual length of step that the median distance comes closest to; times are then moved
    back to the start of their step.
    """
    median = convert_to_float(steps.dt.total_seconds(fractional=True).median())
    every = min(SEASONS, key=lambda e: abs(np.log(max(median, 1e-3) / parse_step_length(e).total_seconds())))
    return every, f"times are uneven; their median distance of {median:.3g} s comes closest"


def compute_distances(rows: pl.DataFrame) -> pl.Series:
    """Distances between successive times of each series."""
    same = pl.col("series_id") == pl.col("series_id").shift()
    return rows.select(pl.when(same).then(pl.col("event_time").diff()).alias("step")).drop_nulls()["step"]


def _compute_share_between(steps: pl.Series, least: timedelta, most: timedelta) -> float:
    return convert_to_float(steps.is_between(least, most).mean())


def find_snap_reason(rows: pl.DataFrame, every: str) -> str | None:
    """Why times have to be moved back to the start of their step, or None when they are steps
    already.
    """
    # No other month may end earlier
    if parse_every(every)[1] in ("mo", "q", "y") and (rows["event_time"].dt.day() > 28).any():
        return "months end on different days"
    off = float(compute_positions(rows, every)[1].mean())
    if off > SNAP_ABOVE_FRAC:
        return f"{off:.0%} of the rows lie beside the steps of {every} that their series began"
    if (phases := count_phases(rows, every)) > 1:
        return f"the series begin their steps at {phases} different moments"
    if (
        every == "1d"
        and (rows["event_time"].dt.weekday() <= FRIDAY).all()
        and (rows["event_time"].dt.hour() > 0).any()
    ):
        return "a session is a date, not an hour"
    return None


def count_phases(rows: pl.DataFrame, every: str) -> int:
    """At how many offsets within a step the series begin."""
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
    """Each time at the start of its step; of rows that meet in a step the first stays, as in
    ingest.
    """
    moved = rows.with_columns(pl.col("event_time").dt.truncate(every))
    return moved.unique(["series_id", "event_time"], keep="first", maintain_order=True)


def compute_positions(rows: pl.DataFrame, every: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Step number of each row, and whether it lies off the steps that its series' first row starts.

    Integer time counts itself.
    """
    if every is None:
        return rows["event_time"].to_numpy(), np.zeros(rows.height, dtype=bool)
    count, unit = parse_every(every)
    first = pl.col("event_time").min().over("series_id")
    if unit in ("mo", "q", "y"):
        months = count * {"mo": 1, "q": 3, "y": 12}[unit]
        month = (pl.col("event_time").dt.year() * 12 + pl.col("event_time").dt.month() - 1).cast(pl.Int64)
        read = rows.select(
            step=month // months,
            off=pl.col("event_time") != first.dt.offset_by(pl.format("{}mo", month - _build_month(first))),
        )
    else:
        length = int(parse_step_length(every).total_seconds() * 1e6)
        distance = pl.col("event_time").dt.epoch("us") - first.dt.epoch("us")
        start = (first.dt.epoch("us") - rows["event_time"].dt.epoch("us").min()) // length
        read = rows.select(step=start + distance // length, off=distance % length != 0)
    return read["step"].to_numpy(), read["off"].to_numpy()


def _build_month(when: pl.Expr) -> pl.Expr:
    return (when.dt.year() * 12 + when.dt.month() - 1).cast(pl.Int64)


def parse_every(every: str) -> tuple[int, str]:
    """Number and unit of a step. Raises SourceError for anything else."""
    match = re.fullmatch(r"(\d+)([a-z]+)", every)
    if not match:
        raise SourceError(
            f"`--every {every}`: give a number and a unit, for example `1d`, `1h`, `5m`, `1mo`."
        )
    return int(match[1]), match[2]
