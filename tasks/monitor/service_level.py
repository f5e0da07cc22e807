"""Coverage and loss as service levels: a sequential alarm that says since when.

Both are watched by the time of the outcome, each with the forecasts of all steps ahead. The
champion's own forecasts of the gate's rows, which it was not fitted on, are the reference: they
show how much a block varies. Coverage is compared with its nominal level, the loss with the
gate's. A block has as many steps as the horizon, because forecasts of neighbouring steps share
outcomes; what is left of autocorrelation is in the runs that the limit is drawn from (see
`budget`).
"""

from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.frames import format_quantile_columns
from tasks.core.kinds import get_kind
from tasks.core.reports.monitor import LevelPoint, ServiceLevel
from tasks.monitor.budget import FIRST_SHARE, ScaledReference, advance, compute_limits
from tasks.monitor.concept import clip_spikes, compute_ratios
from tasks.monitor.drift import MIN_BLOCKS, SILENT_BLOCKS

WINDOW_BLOCKS = 5  # of the rolling figure
POINTS_SHOWN = 200
_BAND_SD = 1.96
_LEAST_LOSS = 1e-12


class WatchedOutcomes(NamedTuple):
    """Means over all series and steps ahead, by time of the outcome, in order.

    times: (T,) event_time.
    n_rows: (T,) forecasts of each.
    n_reference: of the times, those whose outcome was known before the promotion.
    loss: (T,)
    covered: (T,) share within each interval, by its nominal level; None where no forecast has it.
    n_silent: steps that have come after the last of *times*.
    """

    times: pl.Series
    n_rows: np.ndarray
    n_reference: int
    loss: np.ndarray
    covered: dict[float, np.ndarray | None]
    n_silent: int


class _Budget(NamedTuple):
    """block_steps, run_blocks: of the reference. slack, alarms_per_step: see `MonitorParams`."""

    block_steps: int
    run_blocks: int
    slack: float
    alarms_per_step: float


def build_watched_outcomes(
    outcomes: pl.DataFrame, about: About, is_reference: pl.Expr, grid: pl.Series
) -> WatchedOutcomes:
    """From `build_outcomes` rows; the first times, which have not every step ahead, are left out.

    is_reference: of an outcome, by its event_time.
    grid: event_time of the steps that have come.
    """
    judged = outcomes.filter(pl.col("y").is_not_null() & ~pl.col("is_seen") & pl.col("loss").is_finite())
    times = judged["event_time"].unique().sort()
    first = times.slice(about.horizon_steps - 1)
    judged = judged.filter(pl.col("event_time").is_in(first.implode()))
    index, n_times = first.search_sorted(judged["event_time"]).to_numpy(), len(first)
    n_rows = np.bincount(index, minlength=n_times)

    def compute_means(values: pl.Series) -> np.ndarray:
        total = np.bincount(index, values.cast(pl.Float64).fill_null(0.0).to_numpy(), n_times)
        return total / np.maximum(n_rows, 1)

    columns = format_quantile_columns(about.quantiles)
    covered: dict[float, np.ndarray | None] = {}
    for i in range(len(columns) // 2):
        low, high = columns[i], columns[-1 - i]
        if not {low, high} <= set(get_kind(about.target).list_columns(about)):
            continue
        level = round(about.quantiles[-1 - i] - about.quantiles[i], 9)
        covered[level] = None
        if {low, high} <= set(judged.columns) and (judged[low].is_not_null().any() or judged.is_empty()):
            covered[level] = compute_means(judged.select(pl.col("y").is_between(low, high)).to_series())
    n_reference = int(first.to_frame("event_time").select(is_reference.sum()).item() or 0)
    n_silent = int((grid > times[-1]).sum()) if len(times) else 0
    return WatchedOutcomes(first, n_rows, n_reference, compute_means(judged["loss"]), covered, n_silent)


def watch_levels(
    watched: WatchedOutcomes,
    about: About,
    slack: float,
    alarms_per_step: float,
    inputs: np.ndarray | None = None,
) -> tuple[ServiceLevel, ...]:
    """The loss, over what the inputs explain, then the coverage of each level, the widest first.

    inputs: (T, N) that the forecasts of each time knew. Both figures of the loss share its budget.
    slack: in standard deviations of a block mean.
    alarms_per_step: budget of false alarms of each.
    """
    block_steps = max(1, min(about.horizon_steps, watched.n_reference // MIN_BLOCKS))
    run_blocks = -(-max(2 * about.horizon_steps, about.season_steps) // block_steps)
    budget = _Budget(block_steps, run_blocks, slack, alarms_per_step)
    reference, current = _build_blocks(watched, watched.loss, block_steps)
    if inputs is None or len(reference) < MIN_BLOCKS:
        levels = [_watch(watched, "loss", (reference, current), None, budget)]
    else:
        known = np.concatenate(_build_blocks(watched, inputs, block_steps))
        ratios = compute_ratios(np.concatenate([reference, current]), known, len(reference))
        shares = (FIRST_SHARE, 1 - FIRST_SHARE)
        of_loss, of_concept = (budget._replace(alarms_per_step=s * alarms_per_step) for s in shares)
        parts = ratios[: len(reference)], ratios[len(reference) :]
        levels = [
            _watch(watched, "loss", (reference, current), None, of_loss),
            _watch(watched, "concept", parts, None, of_concept),
        ]
    for level, values in watched.covered.items():
        blocks = _build_blocks(watched, watched.loss if values is None else values, block_steps)
        levels.append(_watch(watched, "coverage", blocks, level, budget, is_absent=values is None))
    return tuple(levels)


def describe_alarm(level: ServiceLevel) -> str:
    """An open alarm in a sentence: which figure, how much, since when."""
    newest, window = level.points[-1].value, level.window_steps
    since = "" if level.since is None else f"since {level.since:%F %T}Z"
    if level.figure == "concept":
        return f"the loss is {level.direction} for these inputs {since}: {newest:.2f} times what they explain"
    if level.figure == "loss":
        ratio = newest / level.normal if level.normal else float("nan")
        return f"the loss is higher {since}: {ratio:.2f} times the gate's over the last {window} steps"
    return (
        f"coverage of the {level.level:.0%} interval is {level.direction} {since}: {newest:.0%} of the last"
        f" {window} steps, {level.band_low:.0%} to {level.band_high:.0%} is usual"
    )


def _build_blocks(
    watched: WatchedOutcomes, values: np.ndarray, block_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Means of the blocks of the reference, and of those since."""
    return (
        _compute_block_means(values[: watched.n_reference], block_steps),
        _compute_block_means(values[watched.n_reference :], block_steps),
    )


def _watch(
    watched: WatchedOutcomes,
    figure: Literal["loss", "concept", "coverage"],
    blocks: tuple[np.ndarray, np.ndarray],
    level: float | None,
    budget: _Budget,
    *,
    is_absent: bool = False,
) -> ServiceLevel:
    reference, current = blocks
    times = watched.times[watched.n_reference :][budget.block_steps - 1 :: budget.block_steps]
    normal = level if level is not None else float(reference.mean()) if len(reference) else None
    found = ServiceLevel(
        figure=figure,
        level=level,
        normal=normal,
        block_steps=budget.block_steps,
        n_blocks=len(current),
        window_steps=WINDOW_BLOCKS * budget.block_steps,
        points=_build_points(times, current),
    )
    if reason := _find_reason(watched, len(reference), len(current), budget, is_absent=is_absent):
        return found.model_copy(update={"unwatched": reason, "points": () if is_absent else found.points})
    n_rows = float(watched.n_rows.mean()) * budget.block_steps
    scaled, deviations, band = _scale(reference, current, level, n_rows, budget)
    limit = float(compute_limits(scaled, budget.slack, budget.alarms_per_step * budget.block_steps)[0, 0])
    alarm = _run_cusum(deviations, limit, budget.slack, times, is_loss=level is None)
    if watched.n_silent >= SILENT_BLOCKS * budget.block_steps:  # an alarm that is open stays so
        alarm["unwatched"] = f"no outcome since {watched.times[-1].isoformat()}"
    return found.model_copy(
        update={"limit": round(limit, 3), "band_low": band[0], "band_high": band[1], **alarm}
    )


def _find_reason(
    watched: WatchedOutcomes, n_reference: int, n_current: int, budget: _Budget, *, is_absent: bool
) -> str | None:
    """Why a figure is not watched; None when it is."""
    if n_reference < MIN_BLOCKS:
        return (
            f"{watched.n_reference} steps of the gate have an outcome, fewer than {MIN_BLOCKS}: nothing shows"
            " how much it varies"
        )
    if is_absent:
        return "the champion's forecasts have no such interval"
    if not n_current:
        n_steps = len(watched.times) - watched.n_reference
        return (
            f"{n_steps} steps since the promotion have an outcome, less than a block of {budget.block_steps}"
        )
    return None


def _scale(
    reference: np.ndarray, current: np.ndarray, level: float | None, n_rows: float, budget: _Budget
) -> tuple[ScaledReference, np.ndarray, tuple[float, float]]:
    """The scaled reference, the scaled blocks since, and the band of the rolling figure."""
    if level is None:  # in logs: losses are skewed
        reference, current = (np.log(np.maximum(x, _LEAST_LOSS)) for x in (reference, current))
        reference = clip_spikes(reference[:, None])[:, 0]
    center = float(reference.mean()) if level is None else level
    least_sd = 1e-9 if level is None else float(np.sqrt(level * (1 - level) / n_rows))
    sd = max(float(reference.std()), least_sd)
    z = ((reference - reference.mean()) / sd)[:, None, None]
    scaled = ScaledReference(
        np.array([[center]]), np.array([[sd]]), z, np.array([len(reference)]), budget.run_blocks
    )
    run = min(WINDOW_BLOCKS, len(reference))
    rolling = np.convolve(np.concatenate([z[:, 0, 0], z[: run - 1, 0, 0]]), np.ones(run) / run, "valid")
    half = _BAND_SD * max(float(rolling.std()), 1 / np.sqrt(run)) * sd
    low, high = center - half, center + half
    band = (np.exp(low), np.exp(high)) if level is None else (max(0.0, low), min(1.0, high))
    return scaled, (current - center) / sd, (round(float(band[0]), 6), round(float(band[1]), 6))


def _run_cusum(
    deviations: np.ndarray, limit: float, slack: float, times: pl.Series, *, is_loss: bool
) -> dict[str, object]:
    """State of both sums now (see `advance`). A loss alarms only upwards."""
    sums, is_open = np.zeros(2), np.zeros(2, dtype=bool)
    since, opened = np.zeros(2, dtype=int), np.zeros(2, dtype=int)
    for block, deviation in enumerate(deviations):
        since = np.where(sums == 0, block, since)
        was_open = is_open
        _, sums, is_open = advance(sums, is_open, np.asarray(deviation), slack, limit)
        if is_loss:
            sums[1], is_open[1] = 0.0, False
        opened = np.where(is_open & ~was_open, block, opened)
    worst = int(np.argmax(np.where(is_open, sums + limit, sums)))
    found: dict[str, object] = {"statistic": round(float(sums[worst]), 3)}
    if is_open[worst]:
        found |= {
            "direction": ("high", "low")[worst],
            "since": times[int(since[worst])],
            "alarm_at": times[int(opened[worst])],
        }
    return found


def _compute_block_means(values: np.ndarray, block_steps: int) -> np.ndarray:
    n_blocks = len(values) // block_steps
    out: np.ndarray = (
        values[: n_blocks * block_steps].reshape(n_blocks, block_steps, *values.shape[1:]).mean(axis=1)
    )
    return out


def _build_points(times: pl.Series, blocks: np.ndarray) -> tuple[LevelPoint, ...]:
    """Rolling means over the newest blocks of each time, the newest POINTS_SHOWN."""
    rolled = [float(blocks[max(0, i + 1 - WINDOW_BLOCKS) : i + 1].mean()) for i in range(len(blocks))]
    points = [LevelPoint(event_time=t, value=round(v, 6)) for t, v in zip(times, rolled, strict=False)]
    return tuple(points[-POINTS_SHOWN:])
