"""The picture of the gate: the loss that the challenger has saved so far, cutoff by cutoff."""

from pathlib import Path

import polars as pl


def draw_losses(path: Path, losses: pl.DataFrame, title: str) -> None:
    """Cumulated difference of scaled losses (other minus challenger): a line that rises is a
    challenger that wins.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        losses["cutoff"].to_list(),
        (losses["opponent"] - losses["challenger"]).cum_sum().to_list(),
        linewidth=1.4,
    )
    axes.axhline(0, linewidth=0.8, color="black")
    axes.set_title(title, fontsize=9)
    axes.set_ylabel("loss saved so far (scaled)")
    axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
