"""`features.py SIDE N_ROUNDS`: one side computes the 45 features of 100 series x 10,000 steps;
prints seconds of each round and the peak of memory.

Peak: of the resident set during all rounds, over what the process held before the first, with the
input in memory (Linux's VmHWM).
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

N_SERIES, N_STEPS, WINDOWS = 100, 10_000, (6, 12, 24, 48, 168)
START_US = 1_577_836_800_000_000  # 2020-01-01


def held_mb(key):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) / 1024


def panel():
    times = pl.Series(np.arange(N_STEPS) * 3_600_000_000 + START_US).cast(pl.Datetime("us", "UTC"))
    y = np.random.default_rng(1).standard_normal(N_SERIES * N_STEPS)
    ids = np.repeat([f"s{i:03d}" for i in range(N_SERIES)], N_STEPS)
    return pl.DataFrame({"series_id": ids, "event_time": pl.concat([times] * N_SERIES), "y": y})


def tidemill():
    sys.path.insert(0, str(Path.cwd()))
    from tasks.core.about import About, Target
    from tasks.core.calendar import build_calendar
    from tasks.features import FeatureParams, build_features

    about = About(description="bench", every="1h", target=Target(column="y", unit="1"), horizon_steps=1)
    declared = [
        {"kind": "lag", "column": "z", "steps": list(range(1, 24))},  # 23 and z_last
        *(
            {"kind": kind, "column": "z", "window_steps": list(WINDOWS)}
            for kind in ("mean", "std", "min", "max")
        ),
        {"kind": "ewm", "column": "z", "span_steps": [12]},
    ]
    rows, params, calendar = (
        panel().with_columns(known_at=pl.col("event_time").dt.offset_by("1h")),
        FeatureParams.model_validate({"list": declared}),
        build_calendar(about),
    )
    return lambda: build_features(rows, about, params, calendar), 6


def mlforecast():
    from mlforecast import MLForecast
    from mlforecast import lag_transforms as of

    made = [
        kind(window_size=w)
        for kind in (of.RollingMean, of.RollingStd, of.RollingMin, of.RollingMax)
        for w in WINDOWS
    ]
    frame = panel().select(unique_id="series_id", ds=pl.col("event_time").dt.replace_time_zone(None), y="y")
    engine = MLForecast(
        models=[],
        freq="1h",
        lags=list(range(1, 25)),
        lag_transforms={1: [*made, of.ExponentiallyWeightedMean(alpha=2 / 13)]},
        num_threads=2,
    )
    return lambda: engine.preprocess(frame, dropna=False), 3


def coreforecast():
    from coreforecast import lag_transforms as of
    from coreforecast.grouped_array import GroupedArray

    data = GroupedArray(
        panel()["y"].to_numpy().astype(np.float32),
        np.arange(0, N_SERIES * N_STEPS + 1, N_STEPS, dtype=np.int32),
        num_threads=2,
    )
    made = [of.Lag(k) for k in range(1, 25)]
    made += [
        kind(1, w) for kind in (of.RollingMean, of.RollingStd, of.RollingMin, of.RollingMax) for w in WINDOWS
    ]
    made.append(of.ExponentiallyWeightedMean(1, 2 / 13))
    return lambda: pl.DataFrame({str(k): transform.transform(data) for k, transform in enumerate(made)}), 0


def polars_over():
    frame, y = panel(), pl.col("y")
    made = [y.shift(k).alias(f"lag_{k}") for k in range(24)]
    for w in WINDOWS:
        made += [
            y.rolling_mean(w).alias(f"mean_{w}"),
            y.rolling_std(w).alias(f"std_{w}"),
            y.rolling_min(w).alias(f"min_{w}"),
            y.rolling_max(w).alias(f"max_{w}"),
        ]
    made.append(y.ewm_mean(span=12).alias("ewm_12"))
    return lambda: frame.with_columns(e.over("series_id").cast(pl.Float32) for e in made), 3


SIDES = {
    "tidemill": tidemill,
    "mlforecast": mlforecast,
    "coreforecast": coreforecast,
    "polars .over": polars_over,
}

if __name__ == "__main__":
    work, n_keys = SIDES[sys.argv[1]]()
    before = held_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    seconds, cpu = [], []
    for _ in range(int(sys.argv[2])):
        began, worked = time.perf_counter(), time.process_time()
        table = work()
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - worked)
        assert table.shape[1] - n_keys == 45, table.columns
        del table
    print(json.dumps({"seconds": seconds, "cpu_s": cpu, "peak_mb": held_mb("VmHWM") - before}))
