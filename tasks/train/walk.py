"""Walking forward with one forecaster, and its forecasts as a frame."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import ForecasterError
from tasks.core.frames import FORECAST
from tasks.core.transform import from_z
from tasks.core.windows import Fold, Panel, WalkForward
from tasks.forecasters import Forecaster

SAY_EVERY_S = 5.0


class Predicted(NamedTuple):
    """where: (m, 2) positions of (origin, series); z_hat: (m, H)."""

    where: np.ndarray
    z_hat: np.ndarray


def walk_forward(panel: Panel, folds: list[Fold], walk: WalkForward, build: Callable[[], Forecaster], say: Callable[[str], None]) -> Predicted:
    """Refit at each fold, predict its cutoffs. Out of sample by construction: a fit sees `panel.training(fold.fit_at)` and nothing else."""
    parts = []
    for fold in _told(folds, say):
        fit = fit_at(panel, fold.fit_at, walk, build)
        x, where = panel.at(fold.origins)
        parts.append(Predicted(where, fit.predict(x)))
    return Predicted(np.concatenate([p.where for p in parts]), np.concatenate([p.z_hat for p in parts]))


def fit_at(panel: Panel, origin: int, walk: WalkForward, build: Callable[[], Forecaster]) -> Forecaster:
    """A forecaster fitted as of the cutoff with this origin. Raises ForecasterError when there is nothing to learn from."""
    x, z = panel.training(origin, walk)
    if not len(x):
        raise ForecasterError(
            f"No pair of origin and step is usable at the cutoff {panel.cutoff[origin]:%F %R}Z. Raise `train.min_train_steps`, or look at the gaps."
        )
    return build().fit(x, z)


def forecast_frame(panel: Panel, predicted: Predicted, about: About, calendar: Calendar, model: str) -> pl.DataFrame:
    """FORECAST rows with y where it is known, in the target's unit."""
    steps = panel.schema.horizon_steps
    order = np.lexsort(predicted.where.T)  # by series, then origin: the order of the frame
    (origin, series), z_hat = predicted.where[order].T, predicted.z_hat[order]
    times = pl.concat([panel.event_time, calendar.following(panel.event_time[-1], steps)])
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
            "y_hat": from_z(about.target, z_hat).ravel(),
            "y": pl.Series(y.ravel()).fill_nan(None),
        }
    )
    return FORECAST.conform(frame)


def _told(folds: list[Fold], say: Callable[[str], None]) -> Iterator[Fold]:
    started = told = time.monotonic()
    for done, fold in enumerate(folds, 1):
        yield fold
        now = time.monotonic()
        if now - told > SAY_EVERY_S or done == len(folds):
            told = now
            left = (now - started) / done * (len(folds) - done)
            say(f"fold {done} of {len(folds)}, {now - started:.0f} s" + (f", about {left:.0f} s left" if left else ""))
