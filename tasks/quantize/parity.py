"""Parity: the graph that is served against the forecaster that was scored, on every gate row."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.blocks import split_blocks
from tasks.core.errors import ReleaseError
from tasks.core.panel import Panel
from tasks.forecasters import load_forecaster

MAX_PARITY_SD = 1e-5
_BLOCK_ROWS = 8192  # bounds the memory of a graph over many series


@dataclass(frozen=True)
class GateRows:
    """The rows after seen_until that can be forecast.

    x: (n, F).
    where: (n, 2) indices of (origin, series).
    y, z: (n, H), NaN until known.
    """

    panel: Panel
    x: np.ndarray
    where: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @property
    def sd(self) -> float:
        """Standard deviation of z over these rows.

        Where it is 0, that over the whole table; where this is 0, too, 1.
        """
        spreads = (float(np.std(known)) for z in (self.z, self.panel.z) if len(known := z[np.isfinite(z)]))
        return next((sd for sd in spreads if sd > 0), 1.0)


def build_gate_rows(panel: Panel, gate_steps: int) -> GateRows:
    """Rows from the origin of seen_until to the last.

    Raises ReleaseError when no series has a value there.
    """
    n_steps, steps = len(panel.event_time), panel.schema.horizon_steps
    x, where = panel.at(np.arange(n_steps - 1 - gate_steps, n_steps))
    if not len(x):
        raise ReleaseError(
            f"None of the last {gate_steps + 1} steps has a known value, so no graph can be compared. Lower"
            " `promote.gate_steps`."
        )
    ahead = where[:, :1] + np.arange(1, steps + 1)
    inside, series = ahead < n_steps, where[:, 1:]
    y, z = (
        np.where(inside, values[np.minimum(ahead, n_steps - 1), series], np.nan)
        for values in (panel.y, panel.z)
    )
    return GateRows(panel, x, where, y, z)


def run_graph(session: Any, x: np.ndarray) -> np.ndarray:
    """z_hat (n, H) of a session over x (n, F)."""
    return np.concatenate(
        [session.run(["z_hat"], {"x": x[part]})[0] for part in split_blocks(len(x), _BLOCK_ROWS)]
    )


def check_parity(name: str, session: Any, fit: Path, rows: GateRows) -> float:
    """Largest difference of graph and forecaster, in standard deviations of z.

    Raises ReleaseError that names the worst row when it is above MAX_PARITY_SD, or not finite.
    """
    expected, actual = (
        load_forecaster(fit).predict(rows.x).astype(np.float64),
        run_graph(session, rows.x).astype(np.float64),
    )
    difference_sd = np.abs(actual - expected) / rows.sd
    is_finite = np.isfinite(difference_sd)
    worst_index = int(np.argmax(np.where(is_finite, difference_sd, np.inf)))
    worst = np.unravel_index(worst_index, difference_sd.shape)
    if not difference_sd[worst] <= MAX_PARITY_SD:
        origin, series = rows.where[worst[0]]
        raise ReleaseError(
            f"The graph of {name!r} returns {actual[worst]:.9g} where the forecaster returns"
            f" {expected[worst]:.9g}: series {rows.panel.series_ids[series]!r}, cutoff"
            f" {rows.panel.cutoff[int(origin)]:%F %T}Z, step {worst[1] + 1}, {difference_sd[worst]:.1e}"
            f" standard deviations apart; at most {MAX_PARITY_SD:g} is allowed. Train {name!r} again"
            f" (`dvc repro -f train@{name}`); if the difference stays, its `formula` compares after a matrix"
            " product."
        )
    return float(difference_sd[worst])
