"""Intervals and scores of a panel like M4 Hourly: 414 series, 48 steps.

Prints processor seconds, asserts nothing.
"""

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tasks.core.frames import FORECAST
from tasks.core.kinds.conformal import Conformal
from tasks.core.kinds.numeric import NumericKind
from tasks.core.kinds.timeline import Timeline, calibrate
from tasks.core.score_table import INTERVAL_SCORES, compute_mean_scores, score_elements

pytestmark = pytest.mark.bench
N_SERIES, N_STEPS, N_CUTOFFS, QUANTILES = 414, 48, 100, (0.1, 0.5, 0.9)


@pytest.mark.parametrize(("groups", "n_residuals"), [("series", 500), ("all", 4640)])
def test_walk_of_many_series(groups, n_residuals):
    rng = np.random.default_rng(0)
    shape = (N_CUTOFFS, N_SERIES, N_STEPS)
    known = np.minimum(
        np.arange(N_CUTOFFS)[:, None, None]
        + np.arange(1, N_STEPS + 1)
        + np.zeros((1, N_SERIES, 1), dtype=int),
        N_CUTOFFS,
    )
    group = np.arange(N_SERIES) if groups == "series" else np.zeros(N_SERIES, dtype=int)
    line = Timeline(
        np.zeros(shape),
        np.ones(shape[:2]),
        rng.normal(size=shape),
        known,
        np.ones(N_CUTOFFS, dtype=bool),
        group,
        NumericKind(),
    )
    for only_points in (False, True):
        state = Conformal(
            int(group.max()) + 1, N_STEPS, QUANTILES, n_residuals, 0.02, functional="median", transform="log"
        )
        start = time.process_time()
        calibrate(line, state, 1 if only_points else 1 + len(QUANTILES))
        what = "points alone" if only_points else "quantiles and points"
        print(
            f"\n{N_CUTOFFS} cutoffs x {N_SERIES} series x {N_STEPS} steps, pools by {groups}, {what}:"
            f" {time.process_time() - start:.1f} s"
        )


def test_tables_of_many_forecasts():
    rng, n_cutoffs = np.random.default_rng(0), 300
    n, first = N_SERIES * n_cutoffs * N_STEPS, datetime(2024, 1, 1, tzinfo=UTC)
    cutoffs = pl.datetime_range(first, first + timedelta(hours=n_cutoffs - 1), interval="1h", eager=True)
    q = np.sort(rng.normal(size=(n, 3)), axis=1)
    frame = pl.DataFrame(
        {
            "series_id": pl.Series([f"H{i:03d}" for i in range(N_SERIES)]).gather(
                np.repeat(np.arange(N_SERIES), n_cutoffs * N_STEPS)
            ),
            "cutoff": cutoffs.gather(np.tile(np.repeat(np.arange(n_cutoffs), N_STEPS), N_SERIES)),
            "step": np.tile(np.arange(1, N_STEPS + 1, dtype=np.int32), N_SERIES * n_cutoffs),
            "model": pl.repeat("m", n, eager=True),
            "y_hat": q[:, 1],
            "q_0.1": q[:, 0],
            "q_0.5": q[:, 1],
            "q_0.9": q[:, 2],
            "y": rng.normal(size=n),
        }
    ).with_columns(event_time=pl.col("cutoff") + pl.duration(hours=pl.col("step") - 1))
    frame = FORECAST.conform(frame)
    start = time.process_time()
    scored = score_elements(
        frame, ["mae", "rmse", "bias", "smape_pct", *INTERVAL_SCORES], primary="mae", quantiles=QUANTILES
    )
    between = time.process_time()
    for by in ("series_id", "step", "cutoff", "year"):
        compute_mean_scores(scored, [by])
    print(
        f"\n{n:,} forecasts, 9 scores: {between - start:.1f} s, then four tables"
        f" {time.process_time() - between:.1f} s"
    )
