"""A frozen release over a range that it has not seen: its forecasts there, and their scores.

Cutoffs, forecasts and outcomes are those of the gate, so that a backtest of the gate's range has
the gate's losses.
"""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from tasks.core.score_table import compute_mean_scores
from tasks.core.seasonal import build_seasonal_from_rows
from tasks.promote.gate import join_truth, list_gate_cutoffs, select_known_truth
from tasks.release import Release


def list_backtest_cutoffs(
    release: Release,
    rows: pl.DataFrame,
    first: datetime | None = None,
    last: datetime | None = None,
    stride_steps: int = 1,
) -> list[datetime]:
    """Cutoffs from `seen_until` on whose outcomes are all in *rows*, every *stride_steps*-th.

    first, last: the cutoffs between them, both included.
    """
    cutoffs = list_gate_cutoffs(release, release, rows)
    within = [c for c in cutoffs if (first is None or c >= first) and (last is None or c <= last)]
    return within[::stride_steps]


def score_backtest(release: Release, rows: pl.DataFrame, forecasts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Mean scores over all of *forecasts*, and by step: step (null: all), n, each score.

    forecasts: of `predict_cutoffs`, in parts. `primary` is the loss that the gate compares.
    """
    about, kind = release.about, release.kind
    truth = select_known_truth(rows, about)
    issued = join_truth(pl.concat(forecasts), truth).filter(pl.col("y").is_not_null())
    issued = issued.sort("series_id", "cutoff", "step")
    seasonal = build_seasonal_from_rows(truth, about, release.calendar)
    scaling_errors = None if seasonal is None else seasonal.scaling_errors_of_rows(issued)
    names = (*kind.train_scores, *kind.calibration_scores, "primary")
    scored = kind.score_elements(about, issued, names, scaling_errors)
    parts = [
        compute_mean_scores(scored, names=names).with_columns(step=pl.lit(None, pl.Int32)),
        compute_mean_scores(scored, by=["step"], names=names),
    ]
    table = pl.concat(parts, how="diagonal_relaxed")
    return table.select("step", "n", *(name for name in names if name in table.columns))
