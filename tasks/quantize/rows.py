"""Feature rows with their outcomes: the gate's, and those of the training window.

Graphs are compared with their forecasters on the gate's rows, which chooses nothing. What chooses
the form of a net is measured on the newest rows of the training window, and INT8's ranges come from
rows before those, so that promote's gate tests what was chosen on rows that chose nothing.
"""

from dataclasses import dataclass

import numpy as np

from tasks.core.errors import ReleaseError
from tasks.core.panel import Panel
from tasks.core.seasonal import build_seasonal_from_panel

MAX_JUDGED_ROWS = 20_000  # of many series these show a hundredth of a percent, too
MAX_CALIBRATION_ROWS = 2_000  # ranges of inputs hardly grow beyond


@dataclass(frozen=True)
class OutcomeRows:
    """Rows that can be forecast.

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


def build_gate_rows(panel: Panel, gate_steps: int) -> OutcomeRows:
    """Rows from the origin of seen_until to the last.

    Raises ReleaseError when no series has a value there.
    """
    n_steps = len(panel.event_time)
    rows = _build_rows(panel, np.arange(n_steps - 1 - gate_steps, n_steps), n_steps)
    if not len(rows.x):
        raise ReleaseError(
            f"None of the last {gate_steps + 1} steps has a known value, so no graph can be compared. Lower"
            " `promote.gate_steps`."
        )
    return rows


def build_training_rows(panel: Panel, gate_steps: int) -> tuple[OutcomeRows, OutcomeRows]:
    """Rows to judge by and rows to calibrate with, all with outcomes known by seen_until.

    Judged are the newest *gate_steps* origins, at most half of them all; no outcome is in both.
    Raises ReleaseError when there are none.
    """
    seen, steps = len(panel.event_time) - 1 - gate_steps, panel.schema.horizon_steps
    stop = seen - steps + 1
    n_judged = min(gate_steps, max(stop // 2, 0))
    spans = (range(stop - n_judged, stop), range(max(stop - n_judged - steps, 0)))
    judged, calibration = (
        _build_rows(panel, np.arange(span.start, span.stop), seen, max_rows)
        for span, max_rows in zip(spans, (MAX_JUDGED_ROWS, MAX_CALIBRATION_ROWS), strict=True)
    )
    if not (np.isfinite(judged.y).any() and np.isfinite(calibration.y).any()):
        raise ReleaseError(
            f"The {max(stop, 0)} steps before the gate's have too few known values to compare the forms of a"
            " net. Lower `promote.gate_steps`, or remove the nets from `models`."
        )
    return judged, calibration


def compute_losses(z_hat: np.ndarray, rows: OutcomeRows, quantile: float | None) -> np.ndarray:
    """Loss (n, H) of z_hat (n, H), NaN where y is unknown.

    quantile: None for the primary loss, else the pinball loss of that quantile.
    """
    dataset, seasonal = rows.panel.dataset, build_seasonal_from_panel(rows.panel)
    about, kind = dataset.about, dataset.kind
    scaling_errors = (
        None
        if seasonal is None
        else seasonal.scaling_errors(
            rows.y, rows.where[:, [0]], rows.where[:, [1]], np.arange(1, rows.y.shape[1] + 1)
        )
    )
    _, compute_loss = kind.select_loss(about, {"quantile": quantile})
    return compute_loss(rows.y, decode_forecasts(z_hat, rows), scaling_errors)


def decode_forecasts(z_hat: np.ndarray, rows: OutcomeRows) -> np.ndarray:
    """(n, H) in the target's unit of what a model returns for *rows*."""
    dataset = rows.panel.dataset
    linked = rows.panel.add_centres(dataset.kind.link(z_hat), rows.where[:, 1])
    return dataset.kind.decode(dataset.about.target, linked)


def _build_rows(panel: Panel, origins: np.ndarray, seen: int, max_rows: int | None = None) -> OutcomeRows:
    """Rows of *origins*, evenly thinned to *max_rows*, with the values known at position *seen*."""
    x, where = panel.get_inputs(origins)
    if max_rows is not None and len(x) > max_rows:
        kept = np.linspace(0, len(x) - 1, max_rows).astype(np.int64)
        x, where = x[kept], where[kept]
    n_steps = len(panel.event_time)
    ahead = where[:, :1] + np.arange(1, panel.schema.horizon_steps + 1)
    pos, series = np.minimum(ahead, n_steps - 1), where[:, 1:]
    is_known = (ahead < n_steps) & (panel.known_pos[pos, series] <= seen)
    y, z = (np.where(is_known, values[pos, series], np.nan) for values in (panel.y, panel.z))
    return OutcomeRows(panel, x, where, y, z)
