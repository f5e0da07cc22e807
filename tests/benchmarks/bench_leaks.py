"""The leak gate: its seconds beside those of train on the default data, and what it says of real
data where nothing was planted; prints, asserts nothing."""

import shutil
import time

import polars as pl
import pytest
import wizard_runs as runs
from small_checkout import ROOT

from tasks.core.dataset import Dataset
from tasks.edges.params import read_document
from tasks.features import FeatureParams
from tasks.features.leaks import find_leaks
from tasks.features.stage import build_feature_set
from tasks.ingest.__main__ import main as ingest
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

pytestmark = pytest.mark.bench

FILES = {
    "ett/ETTh1.csv": {},
    "nab/data/realKnownCause/nyc_taxi.csv": {},
    "prophet/example_retail_sales.csv": {},
    "prophet/example_yosemite_temps.csv": {},
    "prophet/example_wp_log_peyton_manning.csv": {},
    "prophet/example_wp_log_R_outliers1.csv": {},
    "nab/data/realAWSCloudwatch/ec2_cpu*.csv": {},
    "nab/data/realKnownCause/machine_temperature_system_failure.csv": {},
    "nab/data/realKnownCause/rogue_agent_key_hold.csv": {},
    "nab/data/artificialNoAnomaly/art_daily_small_noise.csv": {},
    "m4/Hourly-train.csv": {},
    "binance_1h/*.json": {"kind": "json"},
}


def timed(work):
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def gate(root, rows):
    """(features, verdict, seconds of features, seconds of the gate)."""
    document = read_document(root)
    about, params = document.about, document.parse_stage("features", FeatureParams)
    made, of_features = timed(lambda: build_feature_set(rows, about, params))
    verdict, of_gate = timed(lambda: find_leaks(rows, about, made.params, made.table, made.calendar))
    return made, verdict, of_features, of_gate


def test_seconds_on_the_default_data(tmp_path, capsys):
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "data/source", tmp_path / "data/source")
    ingest(tmp_path)
    made, verdict, of_features, of_gate = gate(tmp_path, pl.read_parquet(tmp_path / "data/raw/rows.parquet"))
    document, of_train = read_document(tmp_path), {}
    walk = document.parse_stage("train", TrainParams)
    dataset = Dataset(document.about, made.calendar, made.schema)
    data = TrainingData(made.table, dataset, document.gate_steps)
    for model in document.list_models():
        own = document.get_model_params(model)
        _, of_train[model] = timed(lambda m=model, o=own: fit_model(m, data, walk, o, log=lambda _: None))
    whole = sum(of_train.values())
    with capsys.disabled():
        print(
            f"\nleak gate, default data: reach <= 15 % on top of train; seen {100 * of_gate / whole:.1f} %:"
            f" gate {of_gate:.2f} s, features {of_features:.2f} s, train {whole:.1f} s"
        )
        print(
            "  "
            + ", ".join(f"{model} {seconds:.1f} s" for model, seconds in of_train.items())
            + f"; {len(verdict.findings)} findings"
        )


@pytest.mark.shared
def test_no_false_alarm_on_real_data(shared_data, tmp_path, capsys):
    for number, (name, said) in enumerate(FILES.items()):
        root = tmp_path / str(number)
        root.mkdir()
        runs.made_current(root, runs.proposed(shared_data / name, **said))
        rows = runs.ingested(root)
        made, verdict, of_features, of_gate = gate(root, rows)
        good = verdict.checks["too_good"]
        with capsys.disabled():
            print(
                f"{name:<66} {rows.height:>8,} rows x {made.table.width - 6:>2}: features {of_features:5.2f}"
                f" s, gate {of_gate:5.2f} s, {len(verdict.findings)} findings; R2 against the best naive"
                f" {good.get('r2')}, of its own past {good.get('r2_of_own_past')}; bound {good.get('max_r2')}"
            )
