"""mlforecast's LightGBM on M4 Hourly (log, seasonal difference of 24), run by bench_accuracy in the
peers' environment.

argv: a parquet file (unique_id, ds, y) of the training part, where to write the forecasts, windows
of a cross-validation (0: none). Prints seconds.
"""

import sys
import time

import lightgbm
import numpy as np
import polars as pl
from mlforecast import MLForecast
from mlforecast.target_transforms import Differences, GlobalSklearnTransformer
from sklearn.preprocessing import FunctionTransformer

source, target, windows = sys.argv[1], sys.argv[2], int(sys.argv[3])
frame = pl.read_parquet(source)
log = GlobalSklearnTransformer(FunctionTransformer(np.log, np.exp, check_inverse=False))
model = MLForecast(
    {"y_hat": lightgbm.LGBMRegressor(n_estimators=200, verbosity=-1, n_jobs=2, random_state=0)},
    freq=1,
    lags=[*range(1, 25), *(24 * k for k in range(2, 15))],
    target_transforms=[log, Differences([24])],
    num_threads=2,
)
started = time.monotonic()
found = (
    model.cross_validation(frame, n_windows=windows, h=48, step_size=48, refit=True)
    if windows
    else model.fit(frame).predict(48)
)
print(time.monotonic() - started)
found.write_parquet(target)
