"""The ensemble at a glance: how combiners compare, who has weight, how alike members err, what
each contributes; and whether the intervals are honest.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from deployments.console.charts.canvas import draw_panels
from deployments.console.html import Image
from deployments.console.theme import BAND, BLUE, GRID, INK, MUTED, ORANGE, SERIES

Summary = Mapping[str, Any]  # data/reports/ensemble/summary.json

_BAND = 0.05  # around the level: what a year of 250 cutoffs with overlapping horizons strays by luck
_LABELS = 8  # more would overlap
_MANY = 12  # members in a heat map, beyond which figures in its cells would not be read
_SIZE = (11, 7.6)


def draw_ensemble(summary: Summary) -> Image:
    """Combiners, shares, correlation and contributions."""
    draws = (_draw_combiners, _draw_weights, _draw_correlation, _draw_contributions)
    title = "combiners, shares, correlation, what each member contributes"
    return draw_panels(title, [partial(draw, summary=summary) for draw in draws], 2, _SIZE)


def draw_intervals(summary: Summary) -> Image:
    """Coverage above, width and interval score below, by year, step and regime."""
    parts = ("by_year", "by_step", "by_regime")
    draws = [partial(d, summary=summary, part=p) for d in (_draw_coverage, _draw_costs) for p in parts]
    return draw_panels("coverage, width and interval score", draws, 3, _SIZE)


def _draw_combiners(axes: Any, summary: Summary) -> None:
    selection = summary["selection"]
    rows = [row for row in selection["combiners"] if row["below_best_member_frac"] is not None]
    gains = {row["combiner"]: 100 * row["below_best_member_frac"] for row in rows}
    colours = [ORANGE if row["chosen"] else GRID if row["not_servable"] else BAND for row in rows]
    _draw_signed_bars(axes, gains, colours)
    axes.set_xlabel(
        f"gain over {summary['best_member']}, its best member, on the selection slice, %\norange: chosen;"
        " grey: cannot be served"
    )
    axes.set_title(f"Combiners, {selection['n_cutoffs']} cutoffs that none had seen")


def _draw_weights(axes: Any, summary: Summary) -> None:
    path = summary["weights_over_time"]
    times = pl.Series([weights["cutoff"] for weights in path]).str.to_datetime(time_zone="UTC")
    shown = [member for member in summary["weights"] if any(weights[member] > 0 for weights in path)]
    if len(path) > 1:
        shares = [[weights[member] for weights in path] for member in shown]
        axes.stackplot(times, shares, labels=shown, step="post", colors=SERIES)
        axes.margins(x=0)
    else:
        axes.bar(shown, [path[0][member] for member in shown], color=BAND)
    axes.set_ylim(0, 1)
    axes.grid(visible=False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize=7, ncols=4)
    axes.set_title(f"Shares of members over time, {summary['combiner']}")


def _draw_correlation(axes: Any, summary: Summary) -> None:
    names = list(summary["correlation"])
    rows = [[np.nan if r is None else r for r in row] for row in summary["correlation"].values()]
    cells = np.array(rows, dtype=float)
    axes.imshow(
        cells, cmap="Blues", vmin=min(0.0, float(np.nanmin(cells, initial=0.0))), vmax=1, aspect="auto"
    )
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    for i, j in np.ndindex(*cells.shape) if len(names) <= _MANY else ():
        on_dark = cells[i, j] > 0.6
        label = {"ha": "center", "va": "center", "fontsize": 7, "color": "white" if on_dark else INK}
        axes.text(j, i, f"{cells[i, j]:.2f}", **label)
    axes.set_title("Correlation of members' errors")


def _draw_contributions(axes: Any, summary: Summary) -> None:
    ordered = sorted(summary["brings_frac"].items(), key=lambda item: -item[1])
    gains = {member: 100 * frac for member, frac in ordered}
    _draw_signed_bars(axes, gains, [BLUE if gain >= 0 else ORANGE for gain in gains.values()])
    axes.set_xlabel("how much higher the loss is without it, on the selection slice, %")
    axes.set_title("What each member contributes")


def _draw_signed_bars(axes: Any, gains: Mapping[str, float], colours: Sequence[str]) -> None:
    bars = axes.barh(list(gains), list(gains.values()), color=colours)
    labels = [f"{gain:+.2f} %" for gain in gains.values()]
    axes.bar_label(bars, labels=labels, padding=3, fontsize=7, color=MUTED)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.grid(axis="y", visible=False)


def _list_parts(summary: Summary, part: str) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Labels and rows of one table of the intervals; regimes with their number of outcomes,
    since they can be very unequal.
    """
    coverage = summary["coverage"]
    rows = coverage["tables"][part]
    if part == "by_regime":
        names = coverage["regime"]["names"] if rows else ()
        return [f"{names[row['regime']]}\n({row['n']} outcomes)" for row in rows], rows
    return [str(row["year" if part == "by_year" else "step"]) for row in rows], rows


def _draw_coverage(axes: Any, summary: Summary, part: str) -> None:
    labels, rows = _list_parts(summary, part)
    level = summary["coverage"]["level"]
    axes.axhspan(level - _BAND, level + _BAND, color=GRID, zorder=0)
    axes.axhline(level, color=INK, linewidth=0.8, linestyle=":")
    axes.plot(labels, [row["coverage_frac"] for row in rows], "o-", color=BLUE, linewidth=1)
    axes.set_ylim(min([level - 0.2, *(row["coverage_frac"] - 0.02 for row in rows)]), 1.0)
    _draw_few_ticks(axes, labels)
    what = part.removeprefix("by_")
    of = f" of {summary['coverage']['regime']['column']}" if rows and part == "by_regime" else ""
    axes.set_title(f"Coverage by {what}{of}" if rows else f"No {what} is distinguished")


def _draw_costs(axes: Any, summary: Summary, part: str) -> None:
    labels, rows = _list_parts(summary, part)
    for name, colour in (("interval_score", ORANGE), ("width", BLUE)):
        line = {"color": colour, "linewidth": 1, "markersize": 4, "label": name.replace("_", " ")}
        axes.plot(labels, [row[name] for row in rows], "o-", **line)
    axes.set_ylim(bottom=0)
    _draw_few_ticks(axes, labels)
    if rows:
        axes.legend(fontsize=7)
    axes.set_ylabel(summary["unit"], fontsize=7)
    axes.set_title(f"Width, and what misses add, by {part.removeprefix('by_')}")


def _draw_few_ticks(axes: Any, labels: Sequence[str]) -> None:
    every = -(-len(labels) // _LABELS) or 1
    axes.set_xticks(range(0, len(labels), every), labels[::every])
    axes.grid(visible=False)
