"""Charts of the explanations: important features, and the parts of the last forecast."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from deployments.console.charts.canvas import Draw, draw_chart, draw_panels
from deployments.console.html import Image
from deployments.console.theme import BLUE, MUTED, ORANGE
from tasks.core.about import Target
from tasks.core.kinds import get_kind
from tasks.core.numbers import format_number
from tasks.core.reports.explain import FeatureImportance

N_BARS = 15
MAX_TICKS = 24
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


def draw_methods(importance: Sequence[FeatureImportance], agreement: Mapping[str, float]) -> Image:
    """The same features, in the same order, by the other methods."""
    shown = importance[:N_BARS][::-1]
    labels = {
        "permutation": "growth of the mean absolute error\nwhen values change rows, in the space of z",
        "lime": "mean absolute coefficient of local\nlinear models (LIME), in the space of z",
    }

    def draw(axes: Any, method: str) -> None:
        sizes = [getattr(row, method) or 0.0 for row in shown]
        axes.barh([row.feature for row in shown], sizes, color=BLUE)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(labels[method])
        rank = f": rank correlation {agreement[method]:.2f}" if method in agreement else ""
        axes.set_title(f"{method}{rank}")

    title = "The same by other methods, in the order of the mean absolute part"
    draws = [partial(draw, method=method) for method in labels]
    return draw_panels(title, draws, len(draws), (10.5, 1.4 + 0.25 * max(1, len(shown))), heading=title)


def draw_shares(importance: Sequence[FeatureImportance]) -> Image:
    """Mean absolute parts by step of the horizon, and by member of the ensemble."""
    shown = importance[:N_BARS]
    steps = [str(step + 1) for step in range(len(shown[0].by_step))] if shown else []
    members = sorted(shown[0].by_member) if shown else []

    def draw(axes: Any, values: np.ndarray, names: Sequence[str], of: str) -> None:
        axes.imshow(values, aspect="auto", cmap="Blues", vmin=0.0)
        axes.set_xticks(range(len(names)), names, rotation=90 if of == "member" and len(names) > 4 else 0)
        if len(names) > MAX_TICKS:
            axes.xaxis.set_major_locator(_build_sparse_locator())
        axes.set_yticks(range(len(shown)), [row.feature for row in shown])
        axes.grid(visible=False)
        axes.set_title(f"by {of} (white: 0, darkest: {values.max(initial=0.0):.3g})")

    by_step = np.array([row.by_step for row in shown])
    by_member = np.array([[row.by_member[name] for name in members] for row in shown])
    draws = [
        partial(draw, values=by_step, names=steps, of="step"),
        partial(draw, values=by_member, names=members, of="member"),
    ]
    title = "Mean absolute part, in the space of z"
    return draw_panels(title, draws, 2, (10.5, 2.2 + 0.25 * max(1, len(shown))), heading=title)


def draw_curves(curves: pl.DataFrame) -> Image:
    """How the forecast of each sampled row moves with one feature, and the mean of them."""
    features = curves["feature"].unique(maintain_order=True).to_list()

    def draw(axes: Any, feature: str) -> None:
        of_feature = curves.filter(pl.col("feature") == feature)
        for _, row in of_feature.group_by("series_id", "cutoff", maintain_order=True):
            axes.plot(row["value"], row["z_hat"], color=MUTED, linewidth=0.5, alpha=0.5)
        mean = of_feature.group_by("value").agg(pl.col("z_hat").mean()).sort("value")
        axes.plot(mean["value"], mean["z_hat"], color=ORANGE, linewidth=2)
        axes.set_title(feature)

    columns = min(3, len(features))
    rows = -(-len(features) // columns)
    draws: list[Draw] = [partial(draw, feature=feature) for feature in features]
    draws += [lambda axes: axes.set_axis_off()] * (rows * columns - len(features))
    title = (
        "What one feature does while the others stay: each row (grey) and their mean (orange); forecast in"
        " the space of z, less the series' level"
    )
    return draw_panels(title, draws, columns, (10.5, 0.4 + 2.4 * rows), heading=title)


def _build_sparse_locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(MAX_TICKS, integer=True)


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
