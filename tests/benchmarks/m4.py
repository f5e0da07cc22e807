"""M4 Hourly for the benches: the files as SERIES rows that end together, and the competition's
scores."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from tasks.core.calendar import Calendar
from tasks.core.frames import SERIES
from tasks.core.scores import mase_scale, owa, smape

HOURLY = Calendar("continuous", "1h")
HORIZON, SEASON = 48, 24
NAIVE2_SMAPE_PCT, NAIVE2_MASE = 18.383, 2.395  # the competition's own, on the hourly series
_END = datetime(2000, 1, 1, tzinfo=UTC)


def m4_series(folder):
    """{series_id: (history, test)}."""
    known, ahead = (
        pl.read_csv(folder / f"Hourly-{part}.csv", infer_schema_length=None) for part in ("train", "test")
    )
    return {
        a[0]: tuple(np.array([float(v) for v in row[1:] if v is not None]) for row in (a, b))
        for a, b in zip(known.rows(), ahead.rows(), strict=True)
    }


def m4_rows(series):
    """SERIES, with the test part."""
    frames = []
    for name, parts in series.items():
        y = np.concatenate(parts)
        times = pl.datetime_range(_END - timedelta(hours=len(y) - 1), _END, "1h", time_unit="us", eager=True)
        frames.append(pl.DataFrame({"series_id": name, "event_time": times, "value": y}))
    return SERIES.conform(pl.concat(frames).with_columns(known_at=HOURLY.nominal_known_at()))


def m4_scores(series, y_hat, back=0):
    """sMAPE, MASE, OWA of y_hat {series_id: (48,)} for the test part, or for the 48 steps *back*
    steps before it."""
    errors, scaled = [], []
    for name, (history, test) in series.items():
        y = np.concatenate([history, test])
        start = len(history) - back
        truth = y[start : start + HORIZON]
        errors.append(smape(truth, y_hat[name]).mean())
        scaled.append(np.abs(truth - y_hat[name]).mean() / mase_scale(y[:start], SEASON))
    return (
        float(np.mean(errors)),
        float(np.mean(scaled)),
        owa(float(np.mean(errors)), float(np.mean(scaled)), NAIVE2_SMAPE_PCT, NAIVE2_MASE),
    )
