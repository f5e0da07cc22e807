"""Forecasts of a release: features of what was known, members' sum, adaptive quantiles.

A forecast is a pure function of (release, cutoff, rows known by it). The state of the quantiles is not stored; it is replayed from the
release's history and from its own forecasts since, made `stride_steps` apart, each from what was known at its cutoff.
"""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from tasks.core.windows import blocks
from tasks.release.load import Release

BLOCK_ROWS = 8192  # bounds the memory of one call into a graph; trees need a few kB for each row


def z_hat(release: Release, x: np.ndarray) -> np.ndarray:
    """The members' weighted sum (n, H) float64 in the space of z, for feature rows x (n, F) float32 in the order of the schema; n may be 0."""
    out = np.zeros((len(x), release.schema.horizon_steps))
    for part in blocks(len(x), BLOCK_ROWS):
        block = np.ascontiguousarray(x[part], dtype=np.float32)
        for name, weight in sorted(release.weights.items()):
            out[part] += weight * release.members[name].run(["z_hat"], {"x": block})[0].astype(np.float64)
    return out


def forecasts(release: Release, rows: pl.DataFrame, cutoffs: Sequence[datetime]) -> pl.DataFrame:
    """Forecasts at each cutoff from the rows known by it (schema FORECAST, quantile columns, no y).

    rows: SERIES, vintages and later rows included; a tail is enough, as long as it reaches `schema.lookback_steps` before the first
    replayed cutoff. A cutoff between two steps speaks from the last step known by then; the column `cutoff` holds that step's own
    cutoff, and of several that fall on one step the latest counts. Series without a value in the last steps are absent (`why_absent`).
    Quantiles are null when no error is known yet.
    """
    raise NotImplementedError


def why_absent(release: Release, rows: pl.DataFrame, cutoff: datetime) -> dict[str, str]:
    """Reason for each series of *rows* or of the release that `forecasts` leaves out at *cutoff*."""
    raise NotImplementedError
