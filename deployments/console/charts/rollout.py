"""Charts of a rollout: the gain, both losses, and the two bets."""

from typing import Any

from deployments.console.charts.canvas import draw_chart
from deployments.console.html import Image
from deployments.console.theme import BLUE, INK
from tasks.core.reports.rollout import RolloutReport


def draw_gain(report: RolloutReport) -> Image:
    """The middle 90 % of the gain's posterior, and its middle."""
    comparison = report.comparison
    assert comparison is not None, "it is drawn where there is one"

    def draw(axes: Any) -> None:
        low, high = 100 * comparison.gain_low_frac, 100 * comparison.gain_high_frac
        axes.plot([low, high], [0, 0], color=BLUE, linewidth=6, solid_capstyle="butt")
        axes.plot([(low + high) / 2], [0], color=INK, marker="o")
        axes.axvline(0, linewidth=0.8, linestyle="--", color=INK)
        axes.set_yticks([])

    return draw_chart("share by which the challenger's loss is lower, in percent: the middle 90 %", draw)


def draw_losses(report: RolloutReport) -> Image:
    """The mean losses of both since the rollout began, up to each cutoff."""

    def draw(axes: Any) -> None:
        times = [point.cutoff for point in report.points]
        for name, colour in (("challenger", BLUE), ("champion", INK)):
            total, means = 0.0, []
            for n, point in enumerate(report.points, 1):
                total += getattr(point, name)
                means.append(total / n)
            axes.plot(times, means, color=colour, label=name)
        axes.set_ylim(0)
        axes.legend()

    return draw_chart("mean loss since the rollout began, in units of the usual loss", draw)


def draw_bets(report: RolloutReport) -> Image:
    """Both bets at the end of each block, and what they must reach."""

    def draw(axes: Any) -> None:
        ends = [point for point in report.points if point.better is not None]
        times = [point.cutoff for point in ends]
        axes.plot(times, [point.better for point in ends], color=BLUE, marker="o", label="it is not better")
        axes.plot(times, [point.worse for point in ends], color=INK, marker="o", label="it is not worse")
        axes.axhline(1 / report.alpha, linewidth=0.8, linestyle="--", color=INK)
        axes.set_yscale("log")
        axes.legend()

    return draw_chart("bets against each statement; it is refuted at the dashed line", draw)
