"""MLflow's own server over HTTP: live runs, champions, aliases, what it refuses."""

import json
import socket
import subprocess
import sys
import warnings
from contextlib import suppress

import polars as pl
import pytest
from homes import at_home
from reports import gate_decision
from small_release import build_small_release, small_rows

from tasks.edges.event_log import EventLabel, EventSeries, append_event, label_events
from tasks.edges.mlflow_aliases import find_moved_alias
from tasks.edges.mlflow_delivery import publish_runs
from tasks.edges.mlflow_live import LiveRun, list_killed_runs
from tasks.edges.processes import is_answering, start_process, stop_process, wait_for
from tasks.edges.registry import apply_promotion
from tasks.edges.safe_names import decode_name, encode_name
from tasks.edges.settings import ROOT, build_child_environment
from tasks.edges.tracking import (
    TrainedModel,
    get_outbox_folder,
    has_news,
    list_pending_entries,
    list_refused_entries,
    log_challenger,
    log_promotion,
    log_run,
    log_training,
    read_last_failure,
)
from tasks.release import load_release, predict_cutoffs

TAGS = {"tidemill.data": "d" * 64}
METRICS = {
    "overall": {"mae": 0.5, "rmse": 0.7, "n": 10},
    "by_series": [{"series_id": "north", "mae": 0.4, "rmse": float("nan"), "n": 5}],
    "by_year": [{"year": 2020, "mae": 0.6, "n": 4}, {"year": 2021, "mae": 0.4, "n": 6}],
}


HARD_NAMES = [
    "^GSPC",
    "EURUSD=X",
    "S&P 500",
    "#1",
    "a#b",
    "50%",
    "BTC/USD",
    "../up",
    "x\\y",
    "a:b",
    "",
    "x" * 400,
    "North",
    "north",
    "東京",
    "🌊",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """MLflow's own server over HTTP, on a database of its own: (address, folder)."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    child, marked = start_process(
        "mlflow", [*command, "--artifacts-destination", str(folder / "artifacts")], subprocess.DEVNULL, quiet
    )
    try:
        assert wait_for(
            lambda: child.poll() is not None or is_answering(f"http://127.0.0.1:{port}/health"), 120
        )
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_process(marked)
        child.wait()


def _list_runs(client, dataset):
    """The runs of *dataset*, by name in capitals before small letters, the training last."""
    found = client.search_runs([client.get_experiment_by_name(encode_name(dataset)).experiment_id])
    return sorted(found, key=lambda run: ("mlflow.parentRunId" not in run.data.tags, run.info.run_name))


def test_a_model_is_a_run_with_its_epochs_while_it_is_trained_and_a_child_of_the_training_then(
    tmp_path, server
):
    """The figures of a run are those of the event log, each point once, sent live or at the end."""
    from mlflow.tracking import MlflowClient

    client, label = MlflowClient(server, server), EventLabel("live #1", "mlp")
    with at_home(tmp_path, TIDEMILL_MLFLOW_URI=server):
        with LiveRun(label) as live, label_events(label, fold="2020-01-01 00:00"):
            series = EventSeries("training.epoch")
            for epoch in range(1, 4):
                series.append(epoch=epoch, of=4, loss=1 / epoch, held_loss=float("nan"))
            series.flush()
            append_event("training.epoch", "live #1", "other", {"fold": "x", "epoch": 1, "loss": 9.0})
            name = "fold 2020-01-01 0000.loss"
            assert wait_for(lambda: _fetch_history(client, "live #1", name) == [1.0, 1 / 2, 1 / 3], 30)
            (running,) = _list_runs(client, "live #1")
            assert running.info.status == "RUNNING"
            series.append(epoch=4, of=4, loss=0.25)
            series.flush()
            trained = TrainedModel("live #1", "mlp", "e" * 64, live.key, live.started_ns, live.read_points())
            log_training(trained, {"width": 8}, METRICS)
        log_training(TrainedModel("live #1", "ridge", "e" * 64), {}, METRICS)
        assert (publish_runs(), list_killed_runs()) == (2, [])
        run, ridge, training = _list_runs(client, "live #1")
        assert run.info.run_id == running.info.run_id
        assert (run.info.status, run.data.params) == ("FINISHED", {"width": "8"})
        assert _fetch_history(client, "live #1", name) == [1.0, 1 / 2, 1 / 3, 1 / 4]
        assert {r.data.tags["mlflow.parentRunId"] for r in (run, ridge)} == {training.info.run_id}
        assert training.info.start_time <= run.info.start_time < run.info.end_time
        assert training.info.end_time == ridge.info.end_time


def _fetch_history(client, dataset, name):
    """Values of the metric *name* of the first run of *dataset*, in order."""
    if client.get_experiment_by_name(encode_name(dataset)) is None or not (
        runs := _list_runs(client, dataset)
    ):
        return []
    return [point.value for point in client.get_metric_history(runs[0].info.run_id, name)]


def test_the_run_of_a_training_that_failed_or_was_killed_is_ended(tmp_path, server):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server, server)
    code = (
        "import os, signal, time\n"
        "from tasks.edges.event_log import EventLabel\n"
        "from tasks.edges.mlflow_live import LiveRun\n"
        "with LiveRun(EventLabel('ended', 'killed')) as live:\n"
        "    while live._run_id is None: time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with at_home(tmp_path, TIDEMILL_MLFLOW_URI=server):
        with suppress(ZeroDivisionError), LiveRun(EventLabel("ended", "failed")) as live:
            assert wait_for(lambda: live._run_id is not None, 30)
            raise ZeroDivisionError
        environment = build_child_environment(TIDEMILL_HOME=str(tmp_path), TIDEMILL_MLFLOW_URI=server)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False)
        assert done.returncode == -9
        assert len(list_killed_runs()) == 1
        log_run("ended", "next", {}, {"m": 1.0}, TAGS)
        publish_runs()
        assert list_killed_runs() == []
        states = {run.info.run_name: run.info.status for run in _list_runs(client, "ended")}
    assert states == {"failed": "FAILED", "killed": "KILLED", "next": "FINISHED"}


def test_series_of_any_name_reach_a_server_and_hold_up_no_other_dataset(tmp_path, server):
    """An entry of a version without safe names is made safe when it is delivered."""
    from mlflow.tracking import MlflowClient

    by_series = [{"series_id": name, "mae": float(k)} for k, name in enumerate(HARD_NAMES)]
    with at_home(tmp_path, TIDEMILL_MLFLOW_URI=server):
        log_training(TrainedModel("hard", "it's", "d" * 64), {"a|b": 1}, {"by_series": by_series})
        log_training(TrainedModel("other", "ridge", "d" * 64), {}, METRICS)
        log_promotion("hard/names: #1", "aa", "1.0.0", tmp_path, {})
        assert (publish_runs(), list_pending_entries(), list_refused_entries()) == (3, [], {})
        client = MlflowClient(server, server)
        run, training = _list_runs(client, "hard")
        assert (training.info.run_name, training.info.status) == ("training dddddddddddd", "FINISHED")
        assert run.data.tags["mlflow.parentRunId"] == training.info.run_id
        found = {decode_name(name, run.data.tags): value for name, value in run.data.metrics.items()}
        assert found == {f"series.{name}.mae": float(k) for k, name in enumerate(HARD_NAMES)}
        assert {decode_name(name): value for name, value in run.data.params.items()} == {"a|b": "1"}
        assert [run.info.status for run in _list_runs(client, "other")] == ["FINISHED", "FINISHED"]
        champion = client.get_model_version_by_alias(encode_name("hard/names: #1"), "champion")
        assert (champion.tags["tidemill.digest"], champion.source) == ("aa", "tidemill:/releases/aa")


def test_a_registered_champion_is_loaded_over_http_and_forecasts_the_release_numbers(
    tmp_path, server, monkeypatch
):
    monkeypatch.setattr(sys, "path", [*sys.path])  # MLflow puts the model's code first
    from mlflow import set_registry_uri, set_tracking_uri
    from mlflow.tracking import MlflowClient

    with warnings.catch_warnings():  # of its own type hints
        warnings.simplefilter("ignore")
        from mlflow import pyfunc

    rows, client = small_rows(), MlflowClient(server, server)
    releases = [tmp_path / "first", tmp_path / "second"]
    digests = [
        build_small_release(folder, gate_steps=steps).digest
        for folder, steps in zip(releases, (100, 120), strict=True)
    ]
    with at_home(tmp_path / "home", TIDEMILL_MLFLOW_URI=server):
        for version, digest, folder in zip(("1.0.0", "1.0.1"), digests, releases, strict=True):
            log_promotion("S&P 500", digest, version, folder, {"tidemill.model": "ridge"})
        assert (publish_runs(), list_refused_entries()) == (2, {})
    name = encode_name("S&P 500")
    aliases = {alias: client.get_model_version_by_alias(name, alias) for alias in ("champion", "previous")}
    assert [aliases[a].tags["tidemill.digest"] for a in ("previous", "champion")] == digests
    run = client.get_run(aliases["champion"].run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "release 1.0.1")
    assert run.inputs.dataset_inputs[0].dataset.name == "S&P 500"
    set_tracking_uri(server)
    set_registry_uri(server)
    model = pyfunc.load_model(f"models:/{name}@champion")
    release = load_release(releases[1])
    expected = predict_cutoffs(release, rows, [rows["known_at"].max()]).sort("series_id", "step")
    plain = rows.with_columns(pl.col("event_time", "known_at").dt.replace_time_zone(None)).to_pandas()
    own = predict_cutoffs(release, release.rows, [release.rows["known_at"].max()]).sort("series_id", "step")
    for asked, right in (
        (plain, expected),
        (plain.drop(columns="known_at"), expected),
        (plain[["series_id"]].drop_duplicates(), own),
    ):
        found = pl.from_pandas(model.predict(asked))
        assert found["series_id"].to_list() == right["series_id"].to_list()
        for column in ("y_hat", "q_0.1", "q_0.9"):
            assert found[column].to_numpy() == pytest.approx(right[column].to_numpy(), rel=1e-6)
    set_tracking_uri(None)
    set_registry_uri(None)


def test_a_challenger_has_an_alias_while_its_rollout_is_active_and_a_version_of_its_own(tmp_path, server):
    """When it becomes champion it is the same version."""
    from mlflow.tracking import MlflowClient

    client, folder = MlflowClient(server, server), tmp_path / "release"
    digest = build_small_release(folder).digest
    with at_home(tmp_path / "home", TIDEMILL_MLFLOW_URI=server):
        log_challenger("rolled", digest, folder, is_active=True)
        publish_runs()
        version = client.get_model_version_by_alias("rolled", "challenger")
        assert version.tags["tidemill.digest"] == digest
        assert client.get_run(version.run_id).info.run_name == f"release {digest[:12]}"
        log_promotion("rolled", digest, "1.1.0", folder, {})
        log_challenger("rolled", digest, folder, is_active=False)
        log_challenger("rolled", "bb", folder / "gone", is_active=False)
        assert (publish_runs(), list_refused_entries()) == (3, {})
    assert client.get_registered_model("rolled").aliases == {"champion": version.version}
    champion = client.get_model_version_by_alias("rolled", "champion")
    assert (champion.version, champion.tags["tidemill.version"]) == (version.version, "1.1.0")


def test_an_alias_that_was_moved_by_hand_is_reported(tmp_path, server):
    from mlflow.tracking import MlflowClient

    folders = [tmp_path / "first", tmp_path / "second"]
    client = MlflowClient(server, server)
    with at_home(tmp_path / "home", TIDEMILL_MLFLOW_URI=server):
        for folder, steps in zip(folders, (100, 120), strict=True):
            build_small_release(folder, gate_steps=steps)
            champion = apply_promotion("small", folder, gate_decision())
        assert find_moved_alias("small") is None  # not delivered yet
        publish_runs()
        assert find_moved_alias("small") is None
        former = client.get_model_version_by_alias("small", "previous")
        client.set_registered_model_alias("small", "champion", former.version)
        found = find_moved_alias("small")
    assert f"version {former.version}" in found
    assert champion.digest[:12] in found


def test_an_entry_that_mlflow_refuses_is_set_aside_with_the_reason(tmp_path, server, capsys):
    """A person deleted the experiment in MLflow; once restored, the entry is delivered."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server, server)
    experiment = client.create_experiment("gone")
    client.delete_experiment(experiment)
    with at_home(tmp_path, TIDEMILL_MLFLOW_URI=server):
        log_run("gone", "refused", {}, {"m": 1.0}, TAGS)
        log_run("tides", "after", {}, {"m": 3.0}, TAGS)
        assert publish_runs() == 1
        ((folder, reason),) = list_refused_entries().items()
        assert (list_pending_entries(), has_news(), read_last_failure()) == ([], False, None)
        assert "active" in reason
        assert str(folder) in capsys.readouterr().err
        client.restore_experiment(experiment)
        folder.rename(get_outbox_folder() / folder.name)
        assert (publish_runs(), list_pending_entries(), list_refused_entries()) == (1, [], {})


def test_a_fault_of_one_entry_alone_is_tried_again_and_then_set_aside(tmp_path, server):
    with at_home(tmp_path, TIDEMILL_MLFLOW_URI=server):
        log_run("tides", "cut", {}, {}, TAGS)
        (list_pending_entries()[0] / "entry.json").write_text('{"kind": "run"')
        for expected in (1, 1, 0):
            log_run("tides", "whole", {}, {}, TAGS)
            assert publish_runs() == 1
            assert len(list_pending_entries()) == expected
        assert "JSONDecodeError" in next(iter(list_refused_entries().values()))


def test_a_champion_that_waits_lets_no_later_one_of_its_dataset_pass(tmp_path, server):
    """Delivered later, it would take the alias back."""
    with at_home(tmp_path, TIDEMILL_MLFLOW_URI=server):
        log_promotion("order", "aa", "1.0.0", tmp_path, {})
        (first,) = list_pending_entries()
        whole = json.loads((first / "entry.json").read_text())
        (first / "entry.json").write_text(json.dumps({k: v for k, v in whole.items() if k != "tags"}))
        log_promotion("order", "bb", "1.1.0", tmp_path, {})
        log_promotion("free", "cc", "1.0.0", tmp_path, {})
        assert publish_runs() == 1
        (first / "entry.json").write_text(json.dumps(whole))
        assert publish_runs() == 2
        from mlflow.tracking import MlflowClient

        assert (
            MlflowClient(server, server)
            .get_model_version_by_alias("order", "champion")
            .tags["tidemill.digest"]
            == "bb"
        )
