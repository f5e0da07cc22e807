"""Charts that matplotlib draws: one style, no display, the same bytes for the same figures."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from deployments.console.html import Image
from deployments.console.theme import GRID, INK, MUTED

Draw = Callable[[Any], None]  # on matplotlib's axes

DPI = 110
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.formatter.useoffset": False,  # a level keeps its digits
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.color": MUTED,
    "ytick.labelsize": 8,
}


def draw_chart(title: str, draw: Draw, width: float = 9.4, height: float = 2.9) -> Image:
    """One panel with *title* above it. width, height: inches."""

    def draw_titled(axes: Any) -> None:
        draw(axes)
        axes.set_title(title)

    return draw_panels(title, [draw_titled], 1, (width, height))


def draw_panels(
    title: str, draws: Sequence[Draw], columns: int, size: tuple[float, float], heading: str = ""
) -> Image:
    """Several panels, row by row.

    title: what the image shows, for people who cannot see it. size: width and height in inches.
    heading: above all panels.
    """
    # Imported here: it takes half a second, and only drawing needs it
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(-(-len(draws) // columns), columns, squeeze=False).ravel()
        for axes, draw in zip(panels, draws, strict=True):
            draw(axes)
        if heading:
            figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})
    return Image(title, "image/png", content.getvalue())
