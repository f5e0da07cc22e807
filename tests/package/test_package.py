import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import httpx
import numpy as np
import polars as pl
import pytest
import yaml
from reports import ensemble_report, quantize_decision
from small_release import (
    SMALL_ABOUT,
    SMALL_FEATURES,
    build_small_body,
    cutoff_at,
    small_about,
    small_features,
    small_rows,
    write_linear_graph,
)

from tasks.core.errors import ReleaseError
from tasks.core.reports.ensemble import EnsembleReport
from tasks.core.reports.package import CodeState, OnlineComparison
from tasks.core.reports.quantize import QuantizeDecision
from tasks.core.sketch import parse_reference
from tasks.edges.artifacts import read_report, write_report
from tasks.edges.params import STAGES
from tasks.edges.processes import is_answering, wait_healthy
from tasks.edges.settings import ROOT, build_child_environment
from tasks.features.stage import build_feature_set
from tasks.package.__main__ import main
from tasks.package.assemble import build_release, select_rows_tail
from tasks.package.bento import REQUIREMENTS, build_bento, list_service_sources
from tasks.package.online import Number, check_numbers, compare_online
from tasks.package.provenance import read_code_state
from tasks.release import check_manifest, load_release, load_unsealed_release, predict_cutoffs
from tasks.release.outputs import run_outputs

CHAIN = ("prefect", "dvc", "torch", "lightning", "mlflow", "great_expectations", "evidently", "shap")


def write_inputs(root, rows, **package):
    """A checkout's inputs of the stage, with two bodies made by hand."""
    entry = {
        "about": SMALL_ABOUT,
        "models": {"ridge": {}},
        **{stage: {} for stage in STAGES},
        "features": SMALL_FEATURES,
        "package": package,
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(
        yaml.safe_dump({"dataset": "small", "models": ["ridge"], "package": {}, "datasets": {"small": entry}})
    )
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    (root / "data/clean").mkdir(parents=True)
    rows.write_parquet(root / "data/clean/rows.parquet")
    (root / "data/features").mkdir()
    params = small_features()
    features = build_feature_set(rows, small_about(), params)
    features.table.write_parquet(root / "data/features/table.parquet")
    # Quantiles learn from the errors of all series, and a request with a history has one alone
    build_small_body(root / "models/challenger/challenger", rows, group="all")
    build_small_body(
        root / "models/challenger/baseline", rows, weights={"seasonal_naive": 1.0}, model="seasonal_naive"
    )
    (root / "models/quantized").mkdir()
    write_report(root / QuantizeDecision.PATH, quantize_decision())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkout")
    write_inputs(root, small_rows())
    write_report(root / EnsembleReport.PATH, ensemble_report({"ensemble": 0.25, "seasonal_naive": 0.5}))
    main(root)
    return root


def test_both_releases_verify_and_answer_as_their_bodies_do(root):
    rows = small_rows()
    at = [cutoff_at(d) for d in (300, 339, 370, 399)]
    for role, folder in (
        ("challenger", root / "models/release"),
        ("baseline", root / "models/release/baseline"),
    ):
        release = load_release(folder)
        body = load_unsealed_release(root / "models/challenger" / role)
        assert predict_cutoffs(release, release.rows, at).equals(predict_cutoffs(body, rows, at))


def test_each_release_carries_the_values_it_was_fitted_on_outside_its_digest(root):
    for folder in (root / "models/release", root / "models/release/baseline"):
        release = load_release(folder)
        known = small_rows().filter(pl.col("known_at") <= release.manifest.seen_until)
        sketches = parse_reference(pl.read_parquet(folder / "reference.parquet"))
        assert {name: int(sketch.n.sum()) for name, sketch in sketches.items()} == {
            f"{series}:load": known.filter(pl.col("series_id") == series).height
            for series in ("north", "south")
        }
        assert "reference.parquet" not in release.manifest.files


def test_the_digest_is_the_same_when_the_stage_runs_again(root, tmp_path):
    write_inputs(tmp_path / "again", small_rows())
    main(tmp_path / "again")
    for folder in ("models/release", "models/release/baseline"):
        assert check_manifest(tmp_path / "again" / folder) == check_manifest(root / folder)
    assert sorted(path.name for path in (tmp_path / "again/models").iterdir()) == [
        "challenger",
        "quantized",
        "release",
    ]


def test_card_and_provenance_say_what_it_is_and_where_it_comes_from(root):
    folder = root / "models/release"
    card, said = (folder / "model_card.md").read_text(), json.loads((folder / "provenance.json").read_text())
    manifest = check_manifest(folder)
    for fact in (
        manifest.digest,
        manifest.data_version,
        "2020-12-06",
        "ridge",
        "0.6000",
        "0.25",
        "0.79",
        "no net in the ensemble",
        "one graph, `ensemble.onnx`",
        "Holidays are not in it",
        "Apache-2.0",
    ):
        assert fact in card
    assert said["digest"] == manifest.digest
    assert said["metrics"]["score"] == 0.25
    assert said["versions"]["python"].startswith("3.")
    assert said["bento_bytes"]["total"] == sum(
        path.stat().st_size for path in (folder / "bento").rglob("*") if path.is_file()
    )
    assert socket.gethostname() not in json.dumps(said)
    assert str(ROOT) not in card + json.dumps(said)
    assert {path.name for path in folder.iterdir()} >= {"dvc.lock", "params.yaml", "bento", "baseline"}


def test_the_bento_holds_nothing_of_the_chain(root):
    bento = root / "models/release/bento"
    required = (bento / "env/python/requirements.txt").read_text().lower()
    assert "onnxruntime==" in required
    pins = re.findall(r"^([a-z0-9_.-]+==\S+)([^\n]*\n(?:    [^\n]*\n)*)", required, flags=re.MULTILINE)
    assert len(pins) == len(re.findall("==", re.sub(r"[;#].*", "", required))) > 30
    assert all("--hash=sha256:" in rest for _, rest in pins)
    locked = (ROOT / "requirements.lock").read_text().lower()
    assert [pin for pin, _ in pins if f"\n{pin} " not in f"\n{locked}"] == []
    assert not [name for name in CHAIN if name in required]
    held = [path.relative_to(bento / "src").parts for path in (bento / "src").rglob("*") if path.is_file()]
    assert {parts[0] for parts in held} == {"tasks", "deployments", "release", "bentofile.yaml"}
    assert {parts[1] for parts in held if parts[0] == "tasks"} == {
        "__init__.py",
        "core",
        "edges",
        "explain",
        "features",
        "release",
        "rollout",  # the challenger, which the service loads
        "validate",  # the contract, by which the service judges observations
    }
    asked = f"import sys, deployments.forecaster.service; print([m for m in {CHAIN!r} if m in sys.modules])"
    environment = build_child_environment(PYTHONPATH=str(bento / "src"), PYTHONDONTWRITEBYTECODE="1")
    assert (
        subprocess.run(
            [sys.executable, "-c", asked],
            cwd=bento / "src",
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        == "[]"
    )


def test_the_packaged_service_has_the_numbers_of_training_by_series_and_by_history(root):
    found = read_report(root / OnlineComparison.PATH, OnlineComparison)
    release = load_release(root / "models/release")
    assert found.digest == release.manifest.digest
    assert (found.first_cutoff, found.last_cutoff) == (cutoff_at(390), cutoff_at(399))
    n_answers = 10 * 2 + 2 * 2  # cutoffs by series, and two cutoffs by history
    assert (found.n_series, found.n_histories) == (2, 4)
    assert found.n_features == n_answers * len(release.schema.columns)
    assert found.n_forecasts == n_answers * 5 * 4
    assert found.max_difference <= 1e-6
    assert f"{found.n_features:,} features" in (root / "models/release/model_card.md").read_text()


def test_a_feature_that_the_packaged_service_computes_otherwise_stops_the_stage_by_name(root, tmp_path):
    """By a hundred thousandth, in the Bento's copy of the code."""
    shutil.copytree(root / "models/release/bento", tmp_path / "bento")
    with (tmp_path / "bento/src/tasks/features/table.py").open("a") as module:
        module.write(
            "\n_build = build_features\n"
            "def build_features(*args):\n"
            "    return _build(*args).with_columns(pl.col('z_mean_7') * 1.00001)\n"
        )
    table = pl.scan_parquet(root / "data/features/table.parquet")
    with pytest.raises(ReleaseError, match="by series, z_mean_7 of series 'north' at 2021-01-26 00"):
        compare_online(load_release(root / "models/release"), tmp_path / "bento", small_rows(), table)


@pytest.mark.parametrize(("ours", "theirs"), [(1.0, 1 + 2e-6), (None, 1.0), (1.0, None), (1e9, -1e9)])
def test_numbers_that_differ_are_named(ours, theirs):
    same = [Number("series", "north", "2024-01-01", "z_lag_1", value, value) for value in (1.0, None, 3.0)]
    assert check_numbers(same) == 0
    other = Number("history", "south", "2024-01-02", "z_mean_7", ours, theirs)
    with pytest.raises(ReleaseError, match="by history, z_mean_7 of series 'south' at 2024-01-02"):
        check_numbers([*same, other])


def test_the_exported_bento_serves_the_embedded_release(root, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = build_child_environment(
        TIDEMILL_HOME=str(tmp_path / "home"),
        BENTOML_HOME=str(tmp_path / "bentoml"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        str(root / "models/release/bento"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (tmp_path / "log").open("w") as log:
        service = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        ready = f"http://127.0.0.1:{port}/api/v1/health/ready"
        wait_healthy(service, "the service", lambda: is_answering(ready), tmp_path / "log")
        said = httpx.get(ready).json()
    finally:
        os.killpg(service.pid, signal.SIGTERM)
        service.wait(30)
    assert said["digest"] == check_manifest(root / "models/release").digest
    assert said["chosen_by"] == "embedded"


def test_a_quantized_graph_takes_the_place_of_its_member(root, tmp_path):
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    body = load_unsealed_release(root / "models/challenger/challenger")
    write_linear_graph(quantized / "ridge.onnx", np.zeros((len(body.schema.columns), 5)), np.zeros(5))
    (quantized / "decision.json").write_text(json.dumps({"decision": "INT8"}))
    manifest = build_release(body.folder, quantized, small_rows(), 1500, tmp_path / "release")
    x = np.ones((3, len(body.schema.columns)), dtype=np.float32)
    assert not run_outputs(load_release(tmp_path / "release"), x, ["z_hat_ridge"])[0].any()
    assert manifest.digest != check_manifest(root / "models/release").digest


def test_the_rows_reach_back_from_the_first_cutoff_of_the_history(root):
    body, rows = load_unsealed_release(root / "models/challenger/challenger"), small_rows()
    first = body.history["cutoff"].min()
    tail = select_rows_tail(body, rows, 10)
    assert tail.height < rows.height
    assert tail.filter(pl.col("known_at") < first)["event_time"].n_unique() >= body.schema.lookback_steps
    assert select_rows_tail(body, rows, 380).filter(series_id="south").height == 380


def test_a_service_that_cannot_be_imported_stops_the_stage_with_what_the_build_said(root, tmp_path):
    checkout = tmp_path / "checkout"
    for source in [*list_service_sources(ROOT), "tasks/edges/parent_watch.py"]:  # the build starts with it
        (checkout / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, checkout / source)
    shutil.copyfile(ROOT / REQUIREMENTS, checkout / REQUIREMENTS)
    with (checkout / "tasks/core/frames.py").open("a") as module:
        module.write("\nimport there_is_no_such_module\n")
    with pytest.raises(ReleaseError, match="there_is_no_such_module"):
        build_bento(root / "models/release", checkout, tmp_path / "bento")
    assert not (tmp_path / "bento").exists()


def test_code_state_sees_uncommitted_code_and_its_content(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
            check=True,
            capture_output=True,
        )

    assert read_code_state(tmp_path) == CodeState(commit=None, uncommitted=None)
    git("init", "-q")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/a.py").write_text("a = 1\n")
    git("add", "tasks")
    git("commit", "-q", "-m", "first")
    clean = read_code_state(tmp_path)
    assert len(clean.commit) == 40
    assert clean.uncommitted is None
    (tmp_path / "dvc.lock").write_text("written by a run")
    assert read_code_state(tmp_path) == clean
    seen = set()
    for content in ("b = 1\n", "b = 2\n"):
        (tmp_path / "tasks/b.py").write_text(content)
        seen.add(read_code_state(tmp_path).uncommitted)
    assert len(seen) == 2
    assert None not in seen
