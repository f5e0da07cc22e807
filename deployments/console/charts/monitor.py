"""Charts of the champion's own forecasts and of inputs that drift, over time with their alarms."""

from collections.abc import Sequence
from typing import Any

from deployments.console.charts.canvas import draw_chart, draw_panels
from deployments.console.html import Image
from deployments.console.theme import BLUE, GRID, INK
from tasks.core.reports.monitor import ServiceLevel, StepOutcomes, StreamAlarm


def draw_steps(by_step: Sequence[StepOutcomes], level: float | None) -> Image:
    """Steps without an outcome are left out. level: share that the interval should hold, if any."""
    known = [row for row in by_step if row.n_known]
    steps = [row.step for row in known]

    def draw_loss(axes: Any) -> None:
        axes.bar(steps, [row.loss for row in known], color=BLUE)
        axes.set_title("loss by step")

    def draw_coverage(axes: Any) -> None:
        if level is None:
            axes.set_axis_off()
            return
        axes.plot(steps, [row.coverage_frac for row in known], color=BLUE, marker="o")
        axes.axhline(level, linewidth=0.8, color=INK)
        axes.set_ylim(0, 1)
        axes.set_title(f"share within the interval, nominal {level:.0%}")

    return draw_panels("loss and coverage by step", [draw_loss, draw_coverage], 2, (8, 3))


def name_level(level: ServiceLevel) -> str:
    """The watched figure in words."""
    if level.level is not None:
        return f"coverage of the {level.level:.0%} interval"
    return "loss" if level.figure == "loss" else "loss over what the inputs explain"


def draw_service_level(level: ServiceLevel) -> Image:
    """The rolling figure, its usual band, and since when an alarm is open."""
    name = name_level(level)

    def draw(axes: Any) -> None:
        times, values = zip(*((point.event_time, point.value) for point in level.points), strict=True)
        axes.plot(times, values, color=BLUE, marker="o", markersize=3)
        if level.normal is not None:
            axes.axhline(level.normal, linewidth=0.8, color=INK)
        if level.band_low is not None and level.band_high is not None:
            axes.axhspan(level.band_low, level.band_high, color=GRID, alpha=0.5, zorder=0)
        if level.since is not None and level.alarm_at is not None:
            axes.axvline(level.since, color=INK, linestyle=":")
            axes.axvline(level.alarm_at, color=INK, linestyle="--")
        axes.set_ylim(0, 1 if level.level is not None else None)

    return draw_chart(f"{name} of the last {level.window_steps} steps of outcomes", draw)


def draw_alarm(alarm: StreamAlarm) -> Image:
    """Blocks since the reference, its level, since when they deviate, and when that was certain."""

    def draw(axes: Any) -> None:
        times, values = zip(*((point.event_time, point.value) for point in alarm.points), strict=True)
        axes.plot(times, values, color=BLUE, marker="o", markersize=3)
        if alarm.before is not None:
            axes.axhline(alarm.before, linewidth=0.8, color=INK)
        axes.axvline(alarm.since, color=INK, linestyle=":")
        axes.axvline(alarm.alarm_at, color=INK, linestyle="--")

    return draw_chart(f"{alarm.stream}: {alarm.detector}, blocks since the reference", draw)
