"""Seconds for the features of 100 series x 10,000 steps x 45 columns, the measure of the libraries in the findings: cold once, then warm."""

import time
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from tasks.core.about import About, Target
from tasks.core.calendar import calendar_for
from tasks.features import FeatureParams, build_features

pytestmark = pytest.mark.bench

ABOUT = About(description="bench", every="1h", target=Target(column="y", unit="1"), horizon_steps=1)
LIST = [
    {"kind": "lag", "column": "z", "steps": list(range(1, 24))},  # 23 and z_last
    *({"kind": kind, "column": "z", "window_steps": [6, 12, 24, 48, 168]} for kind in ("mean", "std", "min", "max")),
    {"kind": "ewm", "column": "z", "span_steps": [12]},
]


def test_a_million_rows_by_45_columns(capsys):
    n_series, n_steps = 100, 10_000
    start = datetime(2020, 1, 1, tzinfo=UTC)
    times = pl.Series(np.arange(n_steps) * 3_600_000_000 + int(start.timestamp()) * 10**6)
    times = times.cast(pl.Datetime("us", "UTC"))
    y = np.random.default_rng(1).standard_normal(n_series * n_steps)
    rows = pl.DataFrame(
        {"series_id": np.repeat([f"s{i:03d}" for i in range(n_series)], n_steps), "event_time": pl.concat([times] * n_series), "y": y}
    )
    rows = rows.with_columns(known_at=pl.col("event_time").dt.offset_by("1h"))
    params, calendar = FeatureParams.model_validate({"list": LIST}), calendar_for(ABOUT)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        table = build_features(rows, ABOUT, params, calendar)
        seconds.append(time.perf_counter() - began)
    assert table.width - 6 == 45
    with capsys.disabled():
        print(f"\nfeatures of 1,000,000 rows x 45 columns: cold {seconds[0]:.2f} s, warm {min(seconds[1:]):.2f} s")
