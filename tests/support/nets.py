"""Which forecasters are nets, and fits of small ones."""

import numpy as np

from tasks.core.schema import FeatureColumn, FeatureSchema
from tasks.forecasters import FORECASTERS, build_forecaster, get_forecaster_class
from tasks.forecasters.parts.net import Net

NETS = [name for name in FORECASTERS if issubclass(get_forecaster_class(name), Net)]
STEPS, LAGS = 3, 6
SMALL = {"epochs": 4, "batch_rows": 64}


def schema_of(lags=LAGS, names=("close_value",), steps=STEPS):
    roles = {
        "z_last": "level",
        **{f"z_lag_{k}": "level" for k in range(1, lags)},
        **dict.fromkeys(names, "free"),
    }
    columns = tuple(FeatureColumn(name=name, role=role, lookback_steps=lags) for name, role in roles.items())
    return FeatureSchema(columns=columns, last="z_last", horizon_steps=steps, season_steps=1)


def pairs(n=512, level=0.0, unit=1.0, seed=0):
    """A noisy wave, all of it known."""
    rng = np.random.default_rng(seed)
    z = level + unit * (np.sin(np.arange(n + 20) / 2) + 0.3 * rng.standard_normal(n + 20))
    at = np.arange(10, 10 + n)
    x = np.column_stack([*(z[at - k] for k in range(LAGS)), rng.standard_normal(n)])
    return x.astype(np.float32), np.column_stack([z[at + s] for s in range(1, STEPS + 1)]).astype(np.float32)


def fitted(net="gru", x=None, z=None, start=None, seed=1, schema=None, **params):
    if x is None:
        x, z = pairs()
    return build_forecaster(net, schema or schema_of(), seed, {**SMALL, **params}).fit(x, z, start)
