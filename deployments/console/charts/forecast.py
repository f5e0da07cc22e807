"""Charts of the newest forecast, the history with its refits, and every model's error."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl

from deployments.console.charts.canvas import draw_chart
from deployments.console.html import Image
from deployments.console.theme import BAND, BLUE, GREEN, GRID, INK, MUTED, ORANGE
from tasks.core.about import About
from tasks.core.frames import format_quantile_columns

STEPS_SHOWN = 120
_POINTS = 2000  # of a series; more are not visible


def draw_fan(gate: pl.DataFrame, series_id: str, about: About) -> Image:
    """The newest forecast of one series, which continues the actual values. gate: FORECAST."""
    of_series = gate.filter(pl.col("series_id") == series_id)
    return draw_chart(series_id, partial(_draw_fan, gate=of_series, about=about))


def _draw_fan(axes: Any, gate: pl.DataFrame, about: About) -> None:
    names = format_quantile_columns(about.quantiles)
    first = gate.filter(pl.col("step") == 1).tail(STEPS_SHOWN)
    last = gate.filter(pl.col("cutoff") == gate["cutoff"].max())
    for part, alpha, label in ((first, 0.6, "interval, one step ahead"), (last, 1.0, None)):
        low, high = part[names[0]], part[names[-1]]
        axes.fill_between(part["event_time"], low, high, color=BAND, alpha=alpha, linewidth=0, label=label)
    axes.plot(first["event_time"], first["y"], color=INK, linewidth=1.2, label="actual")
    one_ahead = {"color": BLUE, "linewidth": 1.0, "label": "forecast, one step ahead"}
    axes.plot(first["event_time"], first["y_hat"], **one_ahead)
    newest = {"color": ORANGE, "linewidth": 1.8, "marker": "o", "markersize": 3, "label": "newest forecast"}
    axes.plot(last["event_time"], last["y_hat"], **newest)
    axes.set_ylabel(about.target.unit)
    axes.legend(loc="upper left", ncols=2)


def draw_history(
    table: pl.DataFrame, series_ids: Sequence[str], refits: pl.Series, gate_from: datetime, about: About
) -> Image:
    """All of history with the refits and the gate's rows.

    table: series_id, event_time and y. refits: times as of which models were fitted.
    """

    def draw(axes: Any) -> None:
        for series_id, colour in zip(series_ids, (BLUE, ORANGE, GREEN, MUTED), strict=False):
            part = table.filter(pl.col("series_id") == series_id)
            part = part.gather_every(max(1, part.height // _POINTS))
            axes.plot(part["event_time"], part["y"], color=colour, linewidth=0.6, label=series_id)
        ticks = {"color": INK, "markersize": 9, "label": "refit", "clip_on": False}
        axes.plot(refits, [0.0] * len(refits), "|", transform=axes.get_xaxis_transform(), **ticks)
        axes.axvspan(gate_from, table["event_time"].max(), color=GRID, zorder=0, label="gate's rows")
        if about.target.transform != "none":
            axes.set_yscale("log")
        axes.set_ylabel(about.target.unit)
        axes.legend(loc="upper left", ncols=3)

    return draw_chart("history, refits and the gate's rows", draw)


def draw_errors(errors: Mapping[str, float], baseline: str, ensemble: str, label: str) -> Image:
    """Every model's error against the baseline's, in the order given. label: of the error."""

    def draw(axes: Any) -> None:
        colours = [BLUE if name == ensemble else MUTED if name == baseline else BAND for name in errors]
        axes.barh(list(errors), list(errors.values()), color=colours)
        axes.axvline(errors[baseline], color=INK, linewidth=1, linestyle=":")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)

    return draw_chart("error of every model", draw, height=0.45 * len(errors) + 0.8)
