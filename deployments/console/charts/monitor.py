"""Chart of the champion's own forecasts: loss and coverage by step."""

from collections.abc import Sequence
from typing import Any

from deployments.console.charts.canvas import draw_panels
from deployments.console.html import Image
from deployments.console.theme import BLUE, INK
from tasks.core.reports.monitor import StepOutcomes


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
