"""Chart of the gate: the challenger's cumulative gain in loss, cutoff by cutoff."""

from typing import Any

import polars as pl

from deployments.console.charts.canvas import draw_chart
from deployments.console.html import Image
from deployments.console.theme import BLUE, INK


def draw_losses(losses: pl.DataFrame, title: str) -> Image:
    """Cumulative difference of scaled losses, opponent minus challenger.

    The line rises where the challenger is better.
    """

    def draw(axes: Any) -> None:
        saved = (losses["opponent"] - losses["challenger"]).cum_sum()
        axes.plot(losses["cutoff"].to_list(), saved.to_list(), color=BLUE, linewidth=1.4)
        axes.axhline(0, linewidth=0.8, color=INK)
        axes.set_ylabel("loss saved so far (scaled)")

    return draw_chart(title, draw, 8, 3.2)
