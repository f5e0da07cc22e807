"""Losses of both releases, in pairs, at cutoffs whose outcomes are known."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.blocks import split_blocks
from tasks.monitor.scheduled import count_max_cutoffs
from tasks.promote.gate import join_losses, list_gate_cutoffs, predict_pair
from tasks.release import Release
from tasks.rollout.evidence import PairedLosses

N_BEFORE = 120  # newest cutoffs before a rollout, which give the unit


class LiveLosses(NamedTuple):
    """losses: by cutoff. cutoffs: since the rollout began, those of `losses.challenger`."""

    losses: PairedLosses
    cutoffs: Sequence[datetime]
    horizon_steps: int


def compute_live_losses(
    challenger: Release, champion: Release, rows: pl.DataFrame, begun_as_of: datetime
) -> LiveLosses:
    """Both releases as served at every cutoff since *begun_as_of*, from the rows known by it.

    The unit of a series is the mean loss of both at cutoffs whose outcomes were known by then, so
    that nothing that comes later changes it. A cutoff counts with its mean over series and steps.
    """
    horizon = max(challenger.schema.horizon_steps, champion.schema.horizon_steps)
    cutoffs = list_gate_cutoffs(challenger, champion, rows)
    early = [cutoff for cutoff in cutoffs if cutoff < begun_as_of]
    before = early[: max(0, len(early) - horizon + 1)][-N_BEFORE:]
    live = cutoffs[len(early) :]
    losses = _scale_losses(_sum_losses(challenger, champion, rows, [*before, *live]), before)
    earlier, later = (losses.filter(pl.col("cutoff").is_in(part)) for part in (before, live))
    paired = PairedLosses(
        *(part[side].to_numpy() for part in (later, earlier) for side in ("challenger", "opponent"))
    )
    return LiveLosses(paired, later["cutoff"].to_list(), horizon)


def _sum_losses(
    challenger: Release, champion: Release, rows: pl.DataFrame, cutoffs: Sequence[datetime]
) -> pl.DataFrame:
    """series_id, cutoff, sum of each side's losses over the steps, and their number.

    By groups of cutoffs, so that memory does not grow with their number.
    """
    parts = []
    for group in split_blocks(len(cutoffs), count_max_cutoffs(challenger, rows["series_id"].n_unique())):
        pair = predict_pair(challenger, champion, rows, cutoffs[group])
        losses = join_losses(pair.challenger, pair.opponent, challenger.about, pair.seasonal)
        sides = pl.col("challenger", "opponent").sum()
        parts.append(losses.group_by("series_id", "cutoff").agg(sides, n=pl.len()))
    return pl.concat(parts)


def _scale_losses(sums: pl.DataFrame, before: Sequence[datetime]) -> pl.DataFrame:
    """cutoff, challenger, opponent: mean over series and steps, in units of each series."""
    both = (pl.col("challenger") + pl.col("opponent")).sum() / (2 * pl.col("n").sum())
    earlier = sums.filter(pl.col("cutoff").is_in(before))
    units = earlier.group_by("series_id").agg(unit=both).filter(pl.col("unit") > 0)
    usual = float(np.mean(units["unit"].to_numpy())) if units.height else 1.0  # of a series that is new
    unit, n = pl.col("unit").fill_null(usual), pl.col("n").sum()
    return (
        sums.join(units, on="series_id", how="left")
        .sort("cutoff", "series_id")
        .group_by("cutoff", maintain_order=True)
        .agg((pl.col("challenger") / unit).sum() / n, (pl.col("opponent") / unit).sum() / n)
    )
