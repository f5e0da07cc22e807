"""Pictures of an explanation, drawn without a display."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.about import Target
from tasks.core.kinds import get_kind

N_BARS = 15
N_STEPS_OF_WATERFALL = 10
_UP, _DOWN, _PLAIN = "#c44e52", "#4c72b0", "#55606b"


def draw_importance(importance: list[dict[str, Any]], model: str, path: Path) -> None:
    """The features that move the forecast most, as bars of their mean absolute part."""
    shown = importance[:N_BARS][::-1]
    figure, axes = _build_canvas(7.5, 1.2 + 0.3 * max(1, len(shown)))
    sizes = [entry["mean_abs_part"] for entry in shown]
    bars = axes.barh([entry["feature"] for entry in shown], sizes, color=_DOWN)
    axes.bar_label(bars, labels=[f"{size:.3g}" for size in sizes], padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.set_xlabel("mean absolute part of the forecast, in the space of z")
    axes.set_title(f"What moves the forecasts of {model}", loc="left")
    figure.savefig(path, metadata={"Software": None})


def draw_last(attributions: pl.DataFrame, series_id: str, target: Target, path: Path) -> None:
    """From the base to the last forecast of one series at its first and its last step, feature
    by feature.
    """
    own = attributions.filter("is_last", pl.col("series_id") == series_id)
    steps = own["step"].unique().sort().to_list()
    steps = [steps[0], steps[-1]] if len(steps) > 1 else steps
    figure, panels = _build_canvas(6.2 * len(steps), 5.2, len(steps))
    for axes, step in zip(np.atleast_1d(panels), steps, strict=True):
        _draw_waterfall(axes, own.filter(pl.col("step") == step), target)
    figure.suptitle(
        f"{series_id}: why the forecast of {own['cutoff'][0]:%F %R}Z says what it says", x=0.01, ha="left"
    )
    figure.savefig(path, metadata={"Software": None})


def build_file_name(series_id: str) -> str:
    """`last_<series>.png`, with what a file name cannot hold replaced."""
    return f"last_{re.sub(r'[^A-Za-z0-9_.-]', '_', series_id)[:80]}.png"


def _draw_waterfall(axes: Any, own: pl.DataFrame, target: Target) -> None:
    base, z_hat = own["base"][0], own["z_hat"][0]
    by_size = own.sort(pl.col("part").abs(), descending=True, maintain_order=True)
    names, parts = (
        by_size["feature"].to_list()[:N_STEPS_OF_WATERFALL],
        by_size["part"].to_list()[:N_STEPS_OF_WATERFALL],
    )
    if rest := by_size["part"].to_list()[N_STEPS_OF_WATERFALL:]:
        names, parts = [*names, f"{len(rest)} others"], [*parts, sum(rest)]
    ends = base + np.cumsum(parts)
    starts = ends - parts
    y = np.arange(len(parts), 0, -1)
    axes.barh(y, parts, left=starts, color=[_UP if p > 0 else _DOWN for p in parts], height=0.7)
    axes.vlines(ends[:-1], y[:-1] - 1.35, y[:-1] + 0.35, color=_PLAIN, linewidth=0.6)
    for place, start, end, part in zip(y, starts, ends, parts, strict=True):
        axes.annotate(
            f"{part:+.3g}",
            (max(start, end), place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    for value in (base, z_hat):
        axes.axvline(value, color=_PLAIN, linewidth=0.8, linestyle=":")
    axes.set_yticks(
        [len(parts) + 1, *y, 0],
        [f"base: {_format_in_unit(base, target)}", *names, f"forecast: {_format_in_unit(z_hat, target)}"],
    )
    axes.plot([base, z_hat], [len(parts) + 1, 0], "o", color=_PLAIN, markersize=5)
    axes.use_sticky_edges = False  # bars may not touch the frame: the figures stand beside them
    axes.margins(x=0.15, y=0.04)
    scale = target.column if target.transform == "none" else f"{target.transform} of {target.column}"
    axes.set_xlabel(f"{scale}\n(base and forecast: {target.unit}, before the level factor)")
    axes.set_title(f"step {own['step'][0]}: {own['event_time'][0]:%F %R}Z", loc="left", fontsize=10)


def _format_in_unit(z: float, target: Target) -> str:
    return f"{float(get_kind(target).decode(target, np.array(z))):.4g}"


def _build_canvas(width: float, height: float, n_panels: int = 1) -> tuple[Any, Any]:
    # Half a second, and only drawing needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, n_panels)
    for axes in np.atleast_1d(panels):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, panels
