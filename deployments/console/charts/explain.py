"""Charts of the explanations: important features, and the parts of the last forecast."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from deployments.console.charts.canvas import draw_chart, draw_panels
from deployments.console.html import Image
from deployments.console.theme import BLUE, MUTED, ORANGE
from tasks.core.about import Target
from tasks.core.kinds import get_kind
from tasks.core.numbers import format_number
from tasks.core.reports.explain import FeatureImportance

N_BARS = 15
N_PARTS = 10  # of a waterfall; the rest are one


def draw_importance(importance: Sequence[FeatureImportance], model: str) -> Image:
    """The features that move the forecast most, as bars of their mean absolute part."""
    shown = importance[:N_BARS][::-1]

    def draw(axes: Any) -> None:
        sizes = [row.mean_abs_part for row in shown]
        bars = axes.barh([row.feature for row in shown], sizes, color=BLUE)
        axes.bar_label(bars, labels=[f"{size:.3g}" for size in sizes], padding=3, fontsize=8)
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("mean absolute part of the forecast, in the space of z")

    return draw_chart(f"What moves the forecasts of {model}", draw, 7.5, 1.2 + 0.3 * max(1, len(shown)))


def draw_last(attributions: pl.DataFrame, series_id: str, target: Target) -> Image:
    """From the base to the last forecast of one series, feature by feature.

    Two panels: the first and the last step.
    """
    of_series = attributions.filter("is_last", pl.col("series_id") == series_id)
    steps = of_series["step"].unique().sort().to_list()
    steps = [steps[0], steps[-1]] if len(steps) > 1 else steps
    parts = [of_series.filter(pl.col("step") == step) for step in steps]
    draws = [partial(_draw_waterfall, parts=part, target=target) for part in parts]
    title = f"{series_id}: why the forecast of {of_series['cutoff'][0]:%F %R}Z says what it says"
    return draw_panels(title, draws, len(steps), (6.2 * len(steps), 5.2), heading=title)


def _draw_waterfall(axes: Any, parts: pl.DataFrame, target: Target) -> None:
    base, z_hat = parts["base"][0], parts["z_hat"][0]
    by_size = parts.sort(pl.col("part").abs(), descending=True, maintain_order=True)
    names, sizes = by_size["feature"].to_list(), by_size["part"].to_list()
    if rest := sizes[N_PARTS:]:
        names, sizes = [*names[:N_PARTS], f"{len(rest)} others"], [*sizes[:N_PARTS], sum(rest)]
    ends = base + np.cumsum(sizes)
    starts = ends - sizes
    y = np.arange(len(sizes), 0, -1)
    axes.barh(y, sizes, left=starts, color=[ORANGE if size > 0 else BLUE for size in sizes], height=0.7)
    axes.vlines(ends[:-1], y[:-1] - 1.35, y[:-1] + 0.35, color=MUTED, linewidth=0.6)
    label = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    for row, start, end, size in zip(y, starts, ends, sizes, strict=True):
        axes.annotate(f"{size:+.3g}", (max(start, end), row), **label)
    for value in (base, z_hat):
        axes.axvline(value, color=MUTED, linewidth=0.8, linestyle=":")
    first, last = (_format_in_unit(value, target) for value in (base, z_hat))
    axes.set_yticks([len(sizes) + 1, *y, 0], [f"base: {first}", *names, f"forecast: {last}"])
    axes.plot([base, z_hat], [len(sizes) + 1, 0], "o", color=MUTED, markersize=5)
    axes.use_sticky_edges = False  # the figures need room between the bars and the frame
    axes.margins(x=0.15, y=0.04)
    axes.grid(visible=False)
    scale = target.column if target.transform == "none" else f"{target.transform} of {target.column}"
    axes.set_xlabel(f"{scale}\n(base and forecast: {target.unit}, before the level factor)")
    axes.set_title(f"step {parts['step'][0]}: {parts['event_time'][0]:%F %R}Z")


def _format_in_unit(z: float, target: Target) -> str:
    return format_number(float(get_kind(target).decode(target, np.array(z))), 4)
