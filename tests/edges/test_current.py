"""Whose a file is: what dvc.lock says of the run that wrote it, or what it says itself."""

from html import escape

import pytest
import yaml
from homes import at_home, small_root
from reports import AS_OF, gate_decision, retrain_decision
from small_release import build_small_release, small_rows

from deployments.console.pages.run import render_run
from deployments.ops.doctor import _report_datasets
from deployments.ops.status import read_checkout_status
from tasks.core.errors import OtherDatasetError
from tasks.core.reports.ingest import IngestLedger, RowCounts
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.retrain import RetrainDecision
from tasks.core.rollout import RolloutParams
from tasks.edges.approvals import request_approval
from tasks.edges.artifacts import write_report
from tasks.edges.current import find_dataset_of_file, find_report
from tasks.edges.registry import apply_promotion, get_rows_path
from tasks.edges.rollouts import apply_rollout_command, start_rollout
from tasks.monitor.__main__ import main as monitor
from tasks.promote.__main__ import main as promote


def lock(root, dataset, *paths):
    """dvc.lock as a run with *dataset* leaves it, with a stage for each of *paths*."""
    stages = {
        f"stage{k}": {"params": {"params.yaml": {"dataset": dataset}}, "outs": [{"path": path}]}
        for k, path in enumerate(paths)
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.fixture
def left(tmp_path):
    """A checkout whose current dataset is `small`, with the files of a run with `other`."""
    with at_home(tmp_path / "home"):
        root = small_root(tmp_path / "root", small_rows(400))
        totals = dict.fromkeys((*RowCounts.model_fields, "series"), 0)
        write_report(root / IngestLedger.PATH, IngestLedger(files=(), totals=totals, as_of=AS_OF))
        write_report(root / GateDecision.PATH, gate_decision(dataset="other"))
        write_report(root / RetrainDecision.PATH, retrain_decision())
        lock(root, "other", "data/raw", "data/clean", "data/decisions/promote")
        yield root


def test_an_output_is_of_the_dataset_of_the_run_that_wrote_it(left):
    assert find_dataset_of_file("data/clean/rows.parquet", left) == "other"
    assert find_dataset_of_file("data/clean", left) == "other"
    assert find_dataset_of_file("data/cleaner", left) is None
    assert find_dataset_of_file("models/release/manifest.json", left) is None, "no run is recorded"
    (left / "dvc.lock").unlink()
    assert find_dataset_of_file("data/clean/rows.parquet", left) is None
    assert find_report(GateDecision, "small", left) is None
    assert find_report(GateDecision, "other", left).reason == "r"


@pytest.mark.parametrize("stage", [promote, monitor])
def test_a_stage_that_looks_at_the_world_refuses_another_datasets_rows(left, stage):
    """Promote published them as the current dataset's."""
    with pytest.raises(OtherDatasetError, match=r"data/clean/rows\.parquet is of the dataset 'other'"):
        stage(left)
    assert not get_rows_path("small").exists()


def test_promote_refuses_another_datasets_release_before_it_publishes_a_row(left):
    lock(left, "small", "data/clean")
    manifest = left / "models/release/manifest.json"
    manifest.write_text(manifest.read_text().replace('"dataset": "small"', '"dataset": "other"'))
    with pytest.raises(OtherDatasetError, match="models/release is of the dataset 'other'"):
        promote(left)
    assert not get_rows_path("small").exists()


def test_status_shows_what_is_of_the_current_dataset_alone(left):
    found = read_checkout_status(left)
    assert found.as_of is None
    assert found.decisions.promote is None
    assert found.decisions.retrain.due is False


def test_status_shows_the_champion_a_rollout_and_what_waits_for_a_person(left, tmp_path):
    build_small_release(tmp_path / "champion", gate_steps=100)
    champion = apply_promotion("small", tmp_path / "champion", gate_decision())
    release = build_small_release(tmp_path / "challenger", gate_steps=120)
    params = RolloutParams(steps_frac=(0.25, 1.0))
    start_rollout("small", tmp_path / "challenger", gate_decision(), params)
    request_approval("small", "f" * 64, {"manifest.json": "0"}, "ann", "it is better", 3600)
    found = read_checkout_status(left)
    assert found.champion.version == champion.version
    assert (found.rollout.challenger, found.rollout.weight) == (release.digest, 0.25)
    assert [(waiting.author, waiting.reason) for waiting in found.approvals] == [("ann", "it is better")]
    apply_rollout_command("small", "abort", "bob", "")
    assert read_checkout_status(left).rollout is None


def test_the_page_and_doctor_say_that_the_files_are_another_datasets(left):
    other = escape("data/decisions/promote/decision.json (of another dataset)")
    assert other in render_run(left, {})
    (files,) = [finding for finding in _report_datasets(left) if finding.what == "files"]
    assert "data/clean is of 'other'" in files.found
