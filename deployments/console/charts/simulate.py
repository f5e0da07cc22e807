"""Charts of a simulation: rolling error and coverage of each policy, with its trainings."""

from collections.abc import Callable
from typing import Any

import polars as pl

from deployments.console.charts.canvas import Draw, draw_panels
from deployments.console.html import Image
from deployments.console.theme import INK, SERIES
from tasks.core.reports.simulate import SimulationReport

WINDOW = 63  # cutoffs of a rolling mean


def draw_policies(report: SimulationReport, losses: pl.DataFrame) -> Image:
    """Rolling means and saved loss by policy, and its trainings.

    losses: policy, cutoff, loss, coverage_frac, sorted by cutoff within a policy.
    """
    draws: list[Draw] = [
        _build_lines(report, losses, "loss", f"{report.primary_score} loss, mean of {WINDOW} cutoffs"),
        lambda axes: _draw_saved_loss(axes, report, losses),
        lambda axes: _draw_trainings(axes, report),
    ]
    if report.level is not None:
        title = f"share within the interval, mean of {WINDOW} cutoffs; nominal {report.level:.0%}"
        draws.append(_build_lines(report, losses, "coverage_frac", title, report.level))
    title = "error, trainings and coverage of each policy over time"
    return draw_panels(title, draws, 1, (9.4, 2.6 * len(draws)))


def _build_lines(
    report: SimulationReport, losses: pl.DataFrame, column: str, title: str, level: float | None = None
) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        for i, result in enumerate(report.policies):
            of_policy = losses.filter(pl.col("policy") == result.policy)
            values = of_policy[column].rolling_mean(min(WINDOW, max(1, of_policy.height)))
            axes.plot(
                of_policy["cutoff"].to_list(),
                values.to_list(),
                color=SERIES[i % len(SERIES)],
                linewidth=1.2,
                label=result.policy,
            )
        if level is not None:
            axes.axhline(level, linewidth=0.8, color=INK)
        axes.set_xlim(report.since, report.as_of)
        axes.set_title(title)
        axes.legend(ncols=len(report.policies), loc="upper right")

    return draw


def _draw_saved_loss(axes: Any, report: SimulationReport, losses: pl.DataFrame) -> None:
    """Cumulative difference of losses, first policy minus each."""
    first = report.policies[0].policy
    reference = losses.filter(pl.col("policy") == first).select("cutoff", reference="loss")
    for i, result in enumerate(report.policies):
        both = losses.filter(pl.col("policy") == result.policy).join(
            reference, on="cutoff", maintain_order="left"
        )
        saved = (both["reference"] - both["loss"]).cum_sum()
        axes.plot(both["cutoff"].to_list(), saved.to_list(), color=SERIES[i % len(SERIES)], linewidth=1.2)
    axes.set_xlim(report.since, report.as_of)
    axes.set_title(f"loss saved so far against {first}, sum over cutoffs")


def _draw_trainings(axes: Any, report: SimulationReport) -> None:
    for i, result in enumerate(report.policies):
        trained = [tick for tick in result.ticks[1:] if tick.verdict is not None]
        colour = SERIES[i % len(SERIES)]
        axes.scatter(
            [tick.as_of for tick in trained],
            [i] * len(trained),
            s=22,
            edgecolors=colour,
            facecolors=[colour if tick.verdict == "promote" else "none" for tick in trained],
        )
    axes.set_xlim(report.since, report.as_of)
    axes.set_ylim(len(report.policies) - 0.5, -0.5)
    axes.set_yticks(range(len(report.policies)), [result.policy for result in report.policies])
    axes.set_title("trainings; filled: the challenger became champion")
