"""50 LightGBM trials on windows of M4 Hourly, killed twice from outside while they run: seconds
altogether, and whether a trial was lost or repeated; prints, asserts nothing.

Beside it the same search undisturbed, and what its gain was worth on cutoffs that no trial saw.
Inner fits learn from all hours. The competition's test part is not read.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tasks.edges.settings import ROOT, build_child_environment

pytestmark = [pytest.mark.bench, pytest.mark.shared]

N_TRIALS, KILLED_AFTER, N_WORKERS = 50, (12, 31), 2
RUN = """
import json, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
import polars as pl
from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.core.frames import SERIES
from tasks.features import FeatureParams
from tasks.features.stage import build_feature_set
from tasks.train.params import TrainParams
from tasks.core.dataset import Dataset
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

folder, source, workers, n_trials = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
about = About(description="M4 Hourly", every="1h", target={"column": "value", "unit": "1", "transform": "log"}, horizon_steps=48, season_steps=24, primary_score="mae")
end, frames = datetime(2000, 1, 1, tzinfo=UTC), []
for row in pl.read_csv(source, infer_schema_length=None).rows():
    y = [float(v) for v in row[1:] if v is not None]
    frames.append(pl.DataFrame({"series_id": row[0], "event_time": [end - timedelta(hours=len(y) - 1 - i) for i in range(len(y))], "value": y}))
rows = pl.concat(frames).with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")), y=pl.col("value"))
params = FeatureParams.model_validate({"scale": "z_std_168", "list": [
    {"kind": "lag", "column": "z", "steps": [1, 2, 3, 24, 48, 168]}, {"kind": "mean", "column": "z", "window_steps": [24, 168]},
    {"kind": "std", "column": "z", "window_steps": [24, 168]}, {"kind": "calendar", "parts": ["hour", "weekday"]}]})
made = build_feature_set(SERIES.conform(rows.with_columns(known_at=pl.col("event_time").dt.offset_by("1h"))), about, params)
space = {
    "num_leaves": {"int": [4, 63], "log": True}, "learning_rate": {"float": [0.02, 0.3], "log": True}, "n_trees": {"int": [20, 120]},
    "min_data_in_leaf": {"int": [20, 400], "log": True}, "feature_fraction": {"float": [0.4, 1.0]}, "lambda_l2": {"float": [0.01, 100.0], "log": True},
}
search = {"space": space, "n_trials": n_trials, "workers": workers, "inner_cutoffs": 4, "inner_stride_steps": 24, "inner_refits": 2}
walk = TrainParams(n_cutoffs=3, stride_steps=24, refit_every_cutoffs=3, min_train_steps=500)
data = TrainingData(made.table, Dataset(about, made.calendar, made.schema), 48)
trained = fit_model("lightgbm", data, walk, {"search": search})
print("RESULT" + json.dumps(trained.search.render()["searches"][0]))
"""
LOOK = """
import json, sys
from pathlib import Path
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna import load_study, get_all_study_names, logging
logging.set_verbosity(logging.ERROR)
storage = JournalStorage(JournalFileBackend(sys.argv[1]))
study = load_study(study_name=get_all_study_names(storage)[0], storage=storage)
print(json.dumps([[t.number, t.state.name, t.params, "whole" in t.user_attrs, t.user_attrs.get("again")] for t in study.trials]))
"""


def _start(folder, shared_data):
    command = [
        sys.executable,
        "-c",
        RUN,
        str(folder),
        str(shared_data / "m4/Hourly-train.csv"),
        str(N_WORKERS),
        str(N_TRIALS),
    ]
    environment = build_child_environment(TIDEMILL_HOME=str(folder), TIDEMILL_WORKERS=str(N_WORKERS))
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def _n_ended(folder):
    """How many lines of the journal end a trial: 6 is Optuna's word for a new state, 1 to 3 are
    those of an end."""
    said = [
        json.loads(line)
        for path in folder.glob("search/*/journal.log")
        for line in path.read_text().split("\n")[:-1]
    ]
    return sum(line["op_code"] == 6 and line["state"] in {1, 2, 3} for line in said)


def _trials(folder):
    (journal,) = folder.glob("search/*/journal.log")
    return json.loads(
        subprocess.run(
            [sys.executable, "-c", LOOK, str(journal)], capture_output=True, text=True, check=True
        ).stdout
    )


def _finish(folder, shared_data):
    out, _ = _start(folder, shared_data).communicate()
    return json.loads(out.split("RESULT")[1])


def test_fifty_trials_killed_twice(shared_data, tmp_path, capsys):
    folder, began = tmp_path / "killed", time.perf_counter()
    folder.mkdir()
    for n in KILLED_AFTER:
        process = _start(folder, shared_data)
        while process.poll() is None and _n_ended(folder) < n:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    found = _finish(folder, shared_data)
    killed_s = time.perf_counter() - began
    trials = _trials(folder)
    began = time.perf_counter()
    calm_folder = tmp_path / "calm"
    calm_folder.mkdir()
    calm = _finish(calm_folder, shared_data)
    calm_s = time.perf_counter() - began
    ended = [json.dumps(t[2]) for t in trials if t[1] in {"COMPLETE", "PRUNED"}]
    cut_off = [t for t in trials if t[1] == "FAIL"]
    lost = [t for t in cut_off if t[3] and ended.count(json.dumps(t[2])) != 1]
    with capsys.disabled():
        print(
            f"\nsearch: {N_TRIALS} LightGBM trials on M4 Hourly windows, {N_WORKERS} workers; reach: killed"
            " twice <= 300 s, no trial lost or repeated"
        )
        print(
            f"  killed after {KILLED_AFTER} trials: {killed_s:.0f} s with features and walk, {len(ended)}"
            f" ended, {len(cut_off)} cut off and done again"
        )
        print(f"  lost {len(lost)}, repeated {len(ended) - len(set(ended))}; undisturbed {calm_s:.0f} s")
        for name, seen in (("killed", found), ("undisturbed", calm)):
            gain = (
                f"inner gain {100 * seen['inner_gain']:.1f} %, outer {100 * seen['outer']['gain']:.1f} %,"
                f" overfit {100 * seen['overfit']:.1f} points"
            )
            print(f"  {name}: {seen['states']}, {gain}")
