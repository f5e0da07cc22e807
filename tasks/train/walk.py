"""Walking forward with one forecaster, and its forecasts as a frame."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.kinds import get_forecast_schema
from tasks.core.panel import Panel
from tasks.train.fits import FitContext, decode_fit, run_chained_fits, run_independent_fits
from tasks.train.plan import FitPlan


class WalkForecasts(NamedTuple):
    """Forecasts of a walk.

    positions: (m, 2) of (origin, series).
    z_hat: (m, H).
    """

    positions: np.ndarray
    z_hat: np.ndarray


def run_fits(
    context: FitContext,
    plan: FitPlan,
    report: Callable[[str], None],
    deadline: float | None = None,
    start: bytes | None = None,
) -> dict[int, bytes]:
    """The fit of each of the plan's origins.

    deadline: on the monotonic clock; of independent fits those that there was time for, the newest
      first.
    """
    make = run_chained_fits if plan.refit == "warm" else run_independent_fits
    return dict(
        zip(plan.origins, make(context, plan.origins, plan.n_rows, report, deadline, start), strict=False)
    )


def predict_walk(context: FitContext, plan: FitPlan, fits: Mapping[int, bytes]) -> WalkForecasts:
    """What each fit says at the cutoffs it serves.

    Out of sample by construction: a fit saw `panel.get_training_pairs(fit_at)` and nothing else.
    """
    parts = []
    for fold in plan.folds:
        if (fit := fits.get(plan.get_fit_origin(fold))) is not None:
            x, positions = context.panel.get_inputs(fold.origins)
            z_hat = decode_fit(fit, context).predict(x)
            parts.append(WalkForecasts(positions, context.panel.add_centres(z_hat, positions[:, 1])))
    return WalkForecasts(
        np.concatenate([p.positions for p in parts]), np.concatenate([p.z_hat for p in parts])
    )


def build_forecast_frame(panel: Panel, predicted: WalkForecasts, model: str) -> pl.DataFrame:
    """FORECAST rows with y where it is known, in the target's unit."""
    about, kind, steps = panel.dataset.about, panel.dataset.kind, panel.schema.horizon_steps
    order = np.lexsort(predicted.positions.T)  # by series, then origin: the order of the frame
    (origin, series), z_hat = predicted.positions[order].T, predicted.z_hat[order]
    times = pl.concat([panel.event_time, panel.dataset.calendar.list_next_steps(panel.event_time[-1], steps)])
    n_steps = len(panel.event_time)
    ahead = origin[:, None] + np.arange(1, steps + 1)
    y = np.where(ahead < n_steps, panel.y[np.minimum(ahead, n_steps - 1), series[:, None]], np.nan)
    rows = np.repeat(np.arange(len(origin)), steps)
    frame = pl.DataFrame(
        {
            "series_id": pl.Series(panel.series_ids).gather(series[rows]),
            "cutoff": panel.cutoff.gather(origin[rows]),
            "step": np.tile(np.arange(1, steps + 1, dtype=np.int32), len(origin)),
            "event_time": times.gather(ahead.ravel()),
            "model": pl.Series([model]).gather(np.zeros(len(rows), dtype=np.int64)),
            kind.list_columns(about)[0]: kind.decode(about.target, kind.link(z_hat)).ravel(),
            "y": pl.Series(y.ravel()).fill_nan(None),
        }
    )
    return get_forecast_schema(about).conform(frame)
