"""The whole chain by `dvc repro`, on the embedded bars and on a file that the wizard has never seen; what runs again, and what does not."""

import json
import re
import shutil

import pytest
import yaml
from small_checkout import small_checkout

from tasks.edges.params import STAGES

WORLD = {"promote", "monitor", "retrain"}  # they look at the world each time
REAL_FILES = {
    "etth1": ["--csv", "ett/ETTh1.csv"],
    "m4": ["--csv", "m4/Hourly-train.csv"],
    "binance": ["--json-file", "binance_1h/*.json"],
    "bitfinex": ["--csv", "bitfinex_1m/*.csv.gz", "--columns", "time,open,close,high,low,volume"],
    "nab": ["--csv", "nab/data/realKnownCause/nyc_taxi.csv"],
    "peyton": ["--csv", "prophet/example_wp_log_peyton_manning.csv"],
    "yosemite": ["--csv", "prophet/example_yosemite_temps.csv"],
}


def _ran(done):
    return {name.split("@")[0] for name in re.findall(r"Running stage '([^']+)'", done.stdout)}


def _ran_models(done):
    return set(re.findall(r"Running stage 'train@([^']+)'", done.stdout))


def _digest(checkout):
    return json.loads((checkout.root / "models/release/manifest.json").read_text())["digest"]


def _edit(checkout, change):
    path = checkout.root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    change(document["datasets"][document["dataset"]], document)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def test_every_stage_leaves_what_it_promises(built):
    for made in ("data/raw", "data/clean", "data/quarantine", "data/features", "models/challenger", "models/quantized", "models/release/bento"):
        assert (built.root / made).is_dir(), made
    decision = json.loads((built.root / "data/decisions/promote/decision.json").read_text())
    assert decision["decision"] in {"promote", "baseline"}
    assert (built.home / "registry").is_dir()
    assert "due" in json.loads((built.root / "data/decisions/retrain/decision.json").read_text())


def test_nothing_changed_runs_nothing_before_promote(built):
    assert _ran(built.repro()) <= WORLD


def test_one_models_parameter_runs_that_model_and_what_lies_after_it(built):
    before = _digest(built)
    _edit(built, lambda entry, _: entry["models"].update(har={"windows_steps": [1, 22]}))
    done = built.repro()
    assert _ran_models(done) == {"har"}
    assert _ran(done) == set(STAGES[STAGES.index("train") :])
    assert _digest(built) != before
    _edit(built, lambda entry, _: entry["models"].update(har={"windows_steps": [1, 5, 22]}))
    built.repro()
    assert _digest(built) == before


def test_another_datasets_entry_reruns_nothing(built):
    def add(entry, document):
        document["datasets"]["other"] = json.loads(json.dumps(entry))

    path = built.root / "params.yaml"
    before = path.read_text()
    _edit(built, add)
    assert _ran(built.repro()) <= WORLD
    path.write_text(before)


def test_a_left_over_folder_of_a_dropped_model_changes_nothing(built):
    before = _digest(built)
    for top in ("data/forecasts", "models/fits"):
        shutil.copytree(built.root / top / "har", built.root / top / "dropped")
    built.repro()
    assert _digest(built) == before
    for top in ("data/forecasts", "models/fits"):
        shutil.rmtree(built.root / top / "dropped")


@pytest.mark.chaos
def test_the_second_build_from_nothing_has_the_same_digest(built, tmp_path):
    again = small_checkout(tmp_path)
    again.repro()
    assert _digest(again) == _digest(built)


@pytest.mark.shared
def test_an_entry_of_the_wizard_runs_unedited_to_a_release(shared_data, tmp_path):
    """The monthly example: short, one series."""
    _run_file(small_checkout(tmp_path), ["--csv", "prophet/example_retail_sales.csv"], shared_data)


@pytest.mark.shared
@pytest.mark.chaos
@pytest.mark.parametrize("name", REAL_FILES)
def test_every_real_files_entry_runs_unedited(name, shared_data, tmp_path):
    _run_file(small_checkout(tmp_path), REAL_FILES[name], shared_data)


def _run_file(checkout, arguments, shared_data):
    kind, pattern, *rest = arguments
    checkout.tidemill("new", "mine", kind, str(shared_data / pattern), *rest)
    checkout.tidemill("use", "mine")
    checkout.repro()
    decision = json.loads((checkout.root / "data/decisions/promote/decision.json").read_text())
    assert decision["dataset"] == "mine"
    assert (checkout.home / "registry/mine/champion.json").exists()
    summary = json.loads((checkout.root / "data/reports/validate/summary.json").read_text())
    assert summary["clean"] + summary["quarantined"] == summary["received"]
