"""The ensemble at a glance, drawn without a display from summary.json: how combiners compare,
who has weight, how alike members err, what each brings.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

INK, MUTED, GRID, BLUE, BAND, ORANGE = "#1f2933", "#6b7785", "#e3e7eb", "#2463a6", "#bcd4ee", "#c8641e"
COLOURS = (BLUE, BAND, ORANGE, "#3c8d5a", "#8a6fae", "#d8b24a", MUTED, "#7fb3a0", "#b0677a", "#9aa0a6")
_BAND = 0.05  # around the level: what a year of 250 cutoffs with overlapping horizons strays by luck
_LABELS = 8  # more would overlap
_MANY = 12  # members in a heat map, beyond which figures in its cells would not be read


def draw_ensemble(summary: dict[str, Any], path: Path) -> None:
    """Four panels into *path*."""
    _draw(path, (_draw_combiners, _draw_weights, _draw_correlation, _draw_contributions), summary)


def draw_intervals(summary: dict[str, Any], path: Path) -> None:
    """Coverage above, width and interval score below, by year, step and regime, into *path*."""
    parts = ("by_year", "by_step", "by_regime")
    _draw(
        path,
        [partial(draw, part=part) for draw in (_draw_coverage, _draw_costs) for part in parts],
        summary,
        columns=3,
    )


def _draw(
    path: Path,
    panels: Sequence[Callable[[Any, dict[str, Any]], None]],
    summary: dict[str, Any],
    columns: int = 2,
) -> None:
    # Half a second, and only drawing needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, draw in zip(figure.subplots(2, columns).ravel(), panels, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID)
        axes.tick_params(labelsize=8, color=GRID, labelcolor=MUTED)
        draw(axes, summary)
    figure.savefig(path, metadata={"Software": None})


def _draw_combiners(axes: Any, summary: dict[str, Any]) -> None:
    selection = summary["selection"]
    rows = [row for row in selection["combiners"] if row["below_best_member_frac"] is not None]
    gains = [100 * row["below_best_member_frac"] for row in rows]
    colours = [ORANGE if row["chosen"] else GRID if row["not_servable"] else BAND for row in rows]
    bars = axes.barh([row["combiner"] for row in rows], gains, color=colours)
    axes.bar_label(bars, labels=[f"{gain:+.2f} %" for gain in gains], padding=3, fontsize=7, color=MUTED)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel(
        f"gain over {summary['best_member']}, its best member, on the selection slice, %\norange: chosen;"
        " grey: cannot be served",
        fontsize=8,
    )
    _draw_title(axes, f"Combiners, {selection['n_cutoffs']} cutoffs that none had seen")


def _draw_weights(axes: Any, summary: dict[str, Any]) -> None:
    path = summary["weights_over_time"]
    times = pl.Series([w["cutoff"] for w in path]).str.to_datetime(time_zone="UTC")
    shown = [m for m in summary["weights"] if any(w[m] > 0 for w in path)]
    if len(path) > 1:
        axes.stackplot(
            times, [[w[m] for w in path] for m in shown], labels=shown, step="post", colors=COLOURS
        )
        axes.margins(x=0)
    else:
        axes.bar(shown, [path[0][m] for m in shown], color=BAND)
    axes.set_ylim(0, 1)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize=7, frameon=False, ncols=4)
    _draw_title(axes, f"Shares of members over time, {summary['combiner']}")


def _draw_correlation(axes: Any, summary: dict[str, Any]) -> None:
    names = list(summary["correlation"])
    of = np.array(
        [[np.nan if r is None else r for r in row] for row in summary["correlation"].values()], dtype=float
    )
    axes.imshow(of, cmap="Blues", vmin=min(0.0, float(np.nanmin(of, initial=0.0))), vmax=1, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    for i, j in np.ndindex(*of.shape) if len(names) <= _MANY else ():
        # Dark cells
        axes.text(
            j,
            i,
            f"{of[i, j]:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if of[i, j] > 0.6 else INK,
        )
    _draw_title(axes, "Correlation of members' errors")


def _draw_contributions(axes: Any, summary: dict[str, Any]) -> None:
    brought = {m: 100 * v for m, v in sorted(summary["contribution_frac"].items(), key=lambda item: -item[1])}
    bars = axes.barh(
        list(brought), list(brought.values()), color=[BLUE if v >= 0 else ORANGE for v in brought.values()]
    )
    axes.bar_label(bars, labels=[f"{v:+.2f} %" for v in brought.values()], padding=3, fontsize=7, color=MUTED)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("how much higher the loss is without it, on the selection slice, %", fontsize=8)
    _draw_title(axes, "What each member brings")


def _list_parts(summary: dict[str, Any], part: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Labels and rows of one table of the intervals; regimes with their number of outcomes,
    since they can be very unequal.
    """
    coverage = summary["coverage"]
    rows = coverage["tables"][part]
    if part == "by_regime":
        return [f"{coverage['regime']['names'][row['regime']]}\n({row['n']} outcomes)" for row in rows], rows
    return [str(row["year" if part == "by_year" else "step"]) for row in rows], rows


def _draw_coverage(axes: Any, summary: dict[str, Any], part: str) -> None:
    labels, rows = _list_parts(summary, part)
    level = summary["coverage"]["level"]
    axes.axhspan(level - _BAND, level + _BAND, color=GRID, zorder=0)
    axes.axhline(level, color=INK, linewidth=0.8, linestyle=":")
    axes.plot(labels, [row["coverage_frac"] for row in rows], "o-", color=BLUE, linewidth=1)
    axes.set_ylim(min([level - 0.2, *(row["coverage_frac"] - 0.02 for row in rows)]), 1.0)
    _draw_few_ticks(axes, labels)
    what = part.removeprefix("by_")
    of = f" of {summary['coverage']['regime']['column']}" if rows and part == "by_regime" else ""
    _draw_title(axes, f"Coverage by {what}{of}" if rows else f"No {what} is told apart")


def _draw_costs(axes: Any, summary: dict[str, Any], part: str) -> None:
    labels, rows = _list_parts(summary, part)
    for name, colour in (("interval_score", ORANGE), ("width", BLUE)):
        axes.plot(
            labels,
            [row[name] for row in rows],
            "o-",
            color=colour,
            linewidth=1,
            markersize=4,
            label=name.replace("_", " "),
        )
    axes.set_ylim(bottom=0)
    _draw_few_ticks(axes, labels)
    if rows:
        axes.legend(fontsize=7, frameon=False)
    axes.set_ylabel(summary["unit"], fontsize=7, color=MUTED)
    _draw_title(axes, f"Width, and what misses add, by {part.removeprefix('by_')}")


def _draw_few_ticks(axes: Any, labels: list[str]) -> None:
    every = -(-len(labels) // _LABELS) or 1
    axes.set_xticks(range(0, len(labels), every), labels[::every])


def _draw_title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, color=INK)
