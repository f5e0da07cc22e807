"""Charts of the ensemble: combiners, weights, correlation, contributions; and its intervals."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl

from deployments.console.charts.canvas import draw_panels
from deployments.console.html import Image
from deployments.console.theme import BAND, BLUE, GRID, INK, MUTED, ORANGE, SERIES
from tasks.core.reports.ensemble import EnsembleReport, TableRow

Part = Literal["year", "step", "regime"]

_BAND = 0.05  # around the level: the random deviation of a year of 250 cutoffs with overlapping horizons
_LABELS = 8  # more would overlap
_MANY = 12  # members in a heat map; with more, figures in its cells are not readable
_SIZE = (11, 7.6)


def draw_ensemble(report: EnsembleReport) -> Image:
    """Combiners, shares, correlation and contributions."""
    draws = (_draw_combiners, _draw_weights, _draw_correlation, _draw_contributions)
    title = "combiners, shares, correlation, what each member contributes"
    return draw_panels(title, [partial(draw, report=report) for draw in draws], 2, _SIZE)


def draw_intervals(report: EnsembleReport) -> Image:
    """Coverage above, width and interval score below, by year, step and regime."""
    parts: tuple[Part, ...] = ("year", "step", "regime")
    draws = [partial(d, report=report, part=p) for d in (_draw_coverage, _draw_costs) for p in parts]
    return draw_panels("coverage, width and interval score", draws, 3, _SIZE)


def _draw_combiners(axes: Any, report: EnsembleReport) -> None:
    gains = {
        row.combiner: (
            100 * row.below_best_member_frac,
            ORANGE if row.chosen else GRID if row.not_servable else BAND,
        )
        for row in report.selection.combiners
        if row.below_best_member_frac is not None
    }
    _draw_signed_bars(axes, gains)
    axes.set_xlabel(
        f"gain over {report.best_member}, its best member, on the selection slice, %\norange: chosen;"
        " grey: cannot be served"
    )
    axes.set_title(f"Combiners, {report.selection.n_cutoffs} cutoffs that none has seen")


def _draw_weights(axes: Any, report: EnsembleReport) -> None:
    path = report.weights_over_time
    times = pl.Series([str(weights["cutoff"]) for weights in path]).str.to_datetime(time_zone="UTC")
    shares_of = {member: [float(weights[member]) for weights in path] for member in report.weights}
    shown = [member for member, shares in shares_of.items() if any(share > 0 for share in shares)]
    if len(path) > 1:
        shares = [shares_of[member] for member in shown]
        axes.stackplot(times, shares, labels=shown, step="post", colors=SERIES)
        axes.margins(x=0)
    else:
        axes.bar(shown, [shares_of[member][0] for member in shown], color=BAND)
    axes.set_ylim(0, 1)
    axes.grid(visible=False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize=7, ncols=4)
    axes.set_title(f"Shares of members over time, {report.combiner}")


def _draw_correlation(axes: Any, report: EnsembleReport) -> None:
    names = list(report.correlation)
    rows = [[np.nan if r is None else r for r in row] for row in report.correlation.values()]
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


def _draw_contributions(axes: Any, report: EnsembleReport) -> None:
    ordered = sorted(report.contribution_frac.items(), key=lambda item: -item[1])
    _draw_signed_bars(axes, {member: (100 * frac, BLUE if frac >= 0 else ORANGE) for member, frac in ordered})
    axes.set_xlabel("how much higher the loss is without it, on the selection slice, %")
    axes.set_title("What each member contributes")


def _draw_signed_bars(axes: Any, gains: Mapping[str, tuple[float, str]]) -> None:
    """gains: name -> percent and colour."""
    percents = [percent for percent, _ in gains.values()]
    bars = axes.barh(list(gains), percents, color=[colour for _, colour in gains.values()])
    labels = [f"{percent:+.2f} %" for percent in percents]
    axes.bar_label(bars, labels=labels, padding=3, fontsize=7, color=MUTED)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.grid(axis="y", visible=False)


def _list_parts(report: EnsembleReport, part: Part) -> tuple[list[str], list[TableRow]]:
    """Labels and rows of one table of the intervals.

    A regime's label has its number of outcomes, since they can be very unequal.
    """
    tables, regime = report.coverage.tables, report.coverage.regime
    if part == "year":
        return [str(row["year"]) for row in tables.by_year], list(tables.by_year)
    if part == "step":
        return [str(row["step"]) for row in tables.by_step], list(tables.by_step)
    names = regime.names if regime else ()
    labels = [f"{names[int(row['regime'] or 0)]}\n({row['n']} outcomes)" for row in tables.by_regime]
    return labels, list(tables.by_regime)


def _draw_coverage(axes: Any, report: EnsembleReport, part: Part) -> None:
    labels, rows = _list_parts(report, part)
    level = report.coverage.level or 0.0  # never null where a kind has this chart
    axes.axhspan(level - _BAND, level + _BAND, color=GRID, zorder=0)
    axes.axhline(level, color=INK, linewidth=0.8, linestyle=":")
    shares = [float(row["coverage_frac"] or 0.0) for row in rows]
    axes.plot(labels, shares, "o-", color=BLUE, linewidth=1)
    axes.set_ylim(min([level - 0.2, *(share - 0.02 for share in shares)]), 1.0)
    _draw_few_ticks(axes, labels)
    regime = report.coverage.regime
    suffix = f" of {regime.column}" if regime and part == "regime" else ""
    axes.set_title(f"Coverage by {part}{suffix}" if rows else f"No {part} is distinguished")


def _draw_costs(axes: Any, report: EnsembleReport, part: Part) -> None:
    labels, rows = _list_parts(report, part)
    for name, colour in (("interval_score", ORANGE), ("width", BLUE)):
        line = {"color": colour, "linewidth": 1, "markersize": 4, "label": name.replace("_", " ")}
        axes.plot(labels, [row[name] for row in rows], "o-", **line)
    axes.set_ylim(bottom=0)
    _draw_few_ticks(axes, labels)
    if rows:
        axes.legend(fontsize=7)
    axes.set_ylabel(report.unit, fontsize=7)
    axes.set_title(f"Width, and what misses add, by {part}")


def _draw_few_ticks(axes: Any, labels: Sequence[str]) -> None:
    every = -(-len(labels) // _LABELS) or 1
    axes.set_xticks(range(0, len(labels), every), labels[::every])
    axes.grid(visible=False)
