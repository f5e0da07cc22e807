"""10,000 series x 500 rows through the features and the train stage's own functions, 4 cutoffs with
a refit each: seconds and peak memory of each process.

Beside it, what a second training costs whose fits are all kept, and how many fits a history needs
that is a month longer. Printed, not asserted.
"""

import json
import subprocess
import sys

import pytest

from tasks.edges.settings import ROOT, build_child_environment

pytestmark = pytest.mark.bench

PRELUDE = """
import json, resource, sys, time
from pathlib import Path
import numpy as np, polars as pl
from tasks.core.about import About
from tasks.core.frames import FEATURES, SERIES
from tasks.features import FeatureParams
from tasks.features.stage import build_feature_set
from tasks.core.calendar import build_calendar
from tasks.core.schema import FeatureSchema
from tasks.train.params import TrainParams
from tasks.core.dataset import Dataset
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

folder, n_series, n_steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
about = About(description="bench", every="1d", target={"column": "y", "unit": "1", "transform": "log1p"}, horizon_steps=7, season_steps=7, primary_score="mae")
began = time.perf_counter()
def end(**facts):
    seen = {"seconds": time.perf_counter() - began, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    print(json.dumps(seen | facts))
"""
MAKE = """
params = FeatureParams.model_validate({"scale": "z_std_28", "list": [
    {"kind": "lag", "column": "z", "steps": [1, 2, 3, 4, 5, 6, 7, 14]}, {"kind": "mean", "column": "z", "window_steps": [7, 14, 28]},
    {"kind": "std", "column": "z", "window_steps": [28]}, {"kind": "ewm", "column": "z", "span_steps": [7, 28]}, {"kind": "calendar", "parts": ["weekday"]}]})
rng = np.random.default_rng(1)
level = rng.gamma(2.0, 50.0, n_series)[:, None] * (1 + 0.3 * np.sin(np.arange(n_steps) * 2 * np.pi / 7))
y = rng.poisson(level * np.exp(np.cumsum(rng.normal(0, 0.02, (n_series, n_steps)), axis=1))).astype(float)
times = pl.Series(np.arange(n_steps) * 86_400_000_000 + 1_577_836_800_000_000).cast(pl.Datetime("us", "UTC"))
rows = pl.DataFrame({"series_id": np.repeat([f"s{i:05d}" for i in range(n_series)], n_steps), "event_time": pl.concat([times] * n_series), "y": y.ravel()})
features = build_feature_set(SERIES.conform(rows.with_columns(known_at=pl.col("event_time").dt.offset_by("1d"))), about, params)
features.table.write_parquet(folder / "table.parquet")
(folder / "schema.json").write_text(features.schema.model_dump_json())
end(columns=len(features.schema.columns))
"""
WALK = """
schema = FeatureSchema.model_validate_json((folder / "schema.json").read_text())
walk = TrainParams(n_cutoffs=4, stride_steps=28, refit_every_cutoffs=1, min_train_steps=200)
said = []
def read():
    table = pl.read_parquet(folder / "table.parquet")
    return table.filter(pl.col("event_time") < table["event_time"].max() - pl.duration(days=int(sys.argv[5]))) if sys.argv[5] != "0" else table
data = TrainingData(read(), Dataset(about, build_calendar(about), schema), 28)
trained = fit_model(sys.argv[4], data, walk, {}, said.append)
end(n_fits=trained.plan.n_fits, said=said, mae=trained.metrics.overall["mae"])
"""


def _run(code, folder, *arguments):
    command = [sys.executable, "-c", PRELUDE + code, str(folder), *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=build_child_environment(TIDEMILL_HOME=str(folder / "home"), TIDEMILL_WORKERS="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_ten_thousand_series(tmp_path, capsys):
    size = (10_000, 500)
    with capsys.disabled():
        made = _run(MAKE, tmp_path, *size)
        print(
            f"\n{size[0]:,} series x {size[1]} rows, {made['columns']} columns, 4 cutoffs, one worker; reach:"
            " ridge and lightgbm together <= 600 s, <= 4 GB"
        )
        print(f"  features            {made['seconds']:6.1f} s  peak {made['peak_gb']:.2f} GB")
        total = 0.0
        for model in ("ridge", "lightgbm"):
            shorter, longer, again = (_run(WALK, tmp_path, *size, model, days) for days in (28, 0, 0))
            total += shorter["seconds"]
            print(
                f"  {model:<8} fresh      {shorter['seconds']:6.1f} s  peak {shorter['peak_gb']:.2f} GB,"
                f" {shorter['n_fits']} fits, MAE {shorter['mae']:.3f}"
            )
            print(
                f"  {model:<8} 28 d later {longer['seconds']:6.1f} s  peak {longer['peak_gb']:.2f} GB,"
                f" {longer['said'][1]}"
            )
            print(
                f"  {model:<8} again      {again['seconds']:6.1f} s  peak {again['peak_gb']:.2f} GB,"
                f" {again['said'][1]}"
            )
        print(f"  together            {total:6.1f} s")
