"""ETTh1, all channels, 96 and 336 hours ahead, by the published protocol: two nets beside published
figures.

Rows 0-8640 train, windows of 11520-14400 are scored, z-scores by the training part
(../shared/data/README.md). Nothing is chosen on what is scored.
"""

import time
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from tasks.core.schema import FeatureColumn, FeatureSchema
from tasks.forecasters import build_forecaster

pytestmark = pytest.mark.bench

LAGS, TRAIN, FIRST_TEST, END = 336, 8640, 11519, 14400
PUBLISHED = {
    96: "PatchTST/64 .370/.400, NLinear .374/.394, DLinear .375/.399",
    336: "PatchTST/64 .422/.440, NLinear .429/.427, DLinear .439/.443",
}
COMMON = {"max_rows": 100_000, "loss": "absolute"}
NETS = {
    # Of 4, 6, 8 and both losses the best by MAE on the windows of 8640-11520
    "nlinear": COMMON | {"epochs": 8},
    "patch_transformer": (
        COMMON | {"epochs": 4, "max_rows": 20_000, "patch_steps": 24, "stride_steps": 24, "dropout_frac": 0.2}
    ),
}


class Scored(NamedTuple):
    """Mean squared and absolute error on z-scores, and seconds of processor time of the fit, on
    one thread."""

    mse: float
    mae: float
    fit_s: float


@pytest.mark.shared
@pytest.mark.parametrize("horizon_steps", PUBLISHED)
def test_etth1(capsys, shared_data, horizon_steps):
    z = pl.read_csv(shared_data / "ett/ETTh1.csv").drop("date").to_numpy().astype(np.float64)
    z = ((z - z[:TRAIN].mean(axis=0)) / z[:TRAIN].std(axis=0)).astype(np.float32)
    names = ("z_last", *(f"z_lag_{k}" for k in range(1, LAGS)))
    columns = tuple(FeatureColumn(name=name, role="level", lookback_steps=LAGS) for name in names)
    schema = FeatureSchema(columns=columns, last="z_last", horizon_steps=horizon_steps, season_steps=24)
    x, ahead = rows(z, range(LAGS - 1, TRAIN - horizon_steps), horizon_steps)
    # Imports torch and Lightning
    build_forecaster("nlinear", schema, 1, {"epochs": 1}).fit(x[:1000], ahead[:1000])
    found = {"repeat last": scored(build_forecaster("last_value", schema, 1, {}), x, ahead, z)}
    found |= {
        name: scored(build_forecaster(name, schema, 1, params), x, ahead, z) for name, params in NETS.items()
    }
    with capsys.disabled():
        print(f"\nETTh1, h = {horizon_steps}, MSE/MAE. Published: {PUBLISHED[horizon_steps]}")
        for name, of in found.items():
            print(f"{name:18} {of.mse:.4f}/{of.mae:.4f}, fit {of.fit_s:.1f} s")


def rows(z, origins, horizon_steps):
    """x (n, LAGS) and the outcomes (n, horizon_steps), a row for each origin and channel."""
    at = np.array(origins)
    ways = (range(0, -LAGS, -1), range(1, horizon_steps + 1))
    x, ahead = (np.stack([z[at + k] for k in way], axis=-1) for way in ways)
    return x.reshape(-1, LAGS), ahead.reshape(-1, horizon_steps)


def scored(forecaster, x, ahead, z):
    """Fit on the training part, score every window of the test part."""
    began = time.process_time()
    fit = forecaster.fit(x, ahead)
    fit_s = time.process_time() - began
    squared = absolute = n = 0.0
    horizon_steps = ahead.shape[1]
    for start in range(FIRST_TEST, END - horizon_steps, 500):
        at_origins, came = rows(z, range(start, min(start + 500, END - horizon_steps)), horizon_steps)
        error = (fit.predict(at_origins) - came).astype(np.float64)
        squared, absolute, n = (
            squared + np.square(error).sum(),
            absolute + np.abs(error).sum(),
            n + error.size,
        )
    return Scored(squared / n, absolute / n, fit_s)
