"""MLflow as a log: entries are cheap and durable, and no fault of MLflow stops a stage."""

import json
import socket
import subprocess
import sys
import warnings

import polars as pl
import pytest
from homes import at_home
from reports import gate_decision
from small_release import build_small_release, small_rows

from tasks.edges.mlflow_aliases import find_moved_alias
from tasks.edges.mlflow_delivery import publish_alongside, publish_runs
from tasks.edges.processes import is_answering, start_process, stop_process, wait_for
from tasks.edges.registry import apply_promotion
from tasks.edges.safe_names import decode_name, encode_name
from tasks.edges.settings import ROOT, build_child_environment, read_settings
from tasks.edges.tracking import (
    MAX_POINTS,
    get_outbox_folder,
    has_news,
    list_pending_entries,
    list_refused_entries,
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


def entry_of(folder):
    return json.loads((folder / "entry.json").read_text())


def test_a_run_waits_in_the_outbox_and_mlflow_is_not_imported(tmp_path):
    code = (
        "import sys; from tasks.edges.tracking import log_run; log_run('e', 'r', {'a': 1}, {'m': 1.0},"
        " {'tidemill.data': 'd'}); print('mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=build_child_environment(TIDEMILL_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
    with at_home(tmp_path):
        assert [entry_of(folder)["name"] for folder in list_pending_entries()] == ["r"]


def test_a_run_without_its_data_or_digest_is_a_mistake(tmp_path):
    with at_home(tmp_path), pytest.raises(ValueError, match=r"tidemill\.digest"):
        log_run("e", "r", {}, {}, {"note": "x"})


def test_figures_that_are_no_numbers_stay_out_and_long_series_are_thinned(tmp_path):
    with at_home(tmp_path):
        log_run(
            "e",
            "r",
            {},
            {"good": 1.0, "bad": float("nan")},
            TAGS,
            steps={"loss": [(k, 0.1) for k in range(5 * MAX_POINTS)]},
        )
        metrics = entry_of(list_pending_entries()[0])["metrics"]
    assert [m for m in metrics if m[0] != "loss"] == [["good", 1.0, 0]]
    assert len([m for m in metrics if m[0] == "loss"]) == MAX_POINTS


def test_a_disk_that_refuses_is_said_and_the_stage_goes_on(tmp_path, capsys):
    (tmp_path / "mlflow").write_text("a file where a folder must stand")
    with at_home(tmp_path):
        log_run("e", "r", {}, {}, TAGS)
    assert "was not kept for MLflow" in capsys.readouterr().err


def test_an_address_that_does_not_answer_keeps_the_entries(tmp_path, capsys):
    with at_home(tmp_path, TIDEMILL_MLFLOW_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
        log_run("e", "r", {}, {"m": 1.0}, TAGS)
        assert has_news()
        assert publish_runs() == 0
        assert len(list_pending_entries()) == 1
        assert not has_news()
        log_run("e", "r", {}, {"m": 1.0}, TAGS)
        assert has_news()
    assert "entries wait" in capsys.readouterr().err


def test_nothing_to_deliver_is_no_work(tmp_path):
    with at_home(tmp_path):
        assert publish_runs() == 0
        assert not (tmp_path / "mlflow").exists()


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """One home with everything delivered by the real command, and MLflow's own client on it.

    Making the database takes seconds, so once.
    """
    home, picture = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("pictures") / "curve.png"
    picture.write_bytes(b"png")
    release = home / "releases/aa"
    release.mkdir(parents=True)
    with at_home(home):
        with publish_alongside():
            log_training(
                "tides", "ridge", {"alpha": 1.0, "walk": {"n_cutoffs": 9}}, METRICS, data_hash="d" * 64
            )
            log_run("tides", "gate", {}, {"p": 0.01}, {"tidemill.digest": "aa"}, artifacts=[picture])
            for version, digest in (("1.0.0", "aa"), ("1.1.0", "bb"), ("1.0.0", "aa")):
                log_promotion("tides", digest, version, release, {})
        assert list_pending_entries() == []
        from mlflow.tracking import MlflowClient

        yield MlflowClient(
            tracking_uri=read_settings().tracking_uri, registry_uri=read_settings().tracking_uri
        )


def run_named(client, name):
    experiment = client.get_experiment_by_name("tides").experiment_id
    (run,) = client.search_runs([experiment], filter_string=f"attributes.run_name = '{name}'")
    return run


def test_a_delivered_run_has_its_figures_parameters_and_tags(delivered):
    run = run_named(delivered, "ridge")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"alpha": "1.0", "walk.n_cutoffs": "9"}
    assert run.data.metrics["overall.mae"] == 0.5
    assert run.data.metrics["series.north.mae"] == 0.4
    assert {k: run.data.tags[k] for k in ("tidemill.data", "tidemill.model", "tidemill.dataset")} == {
        "tidemill.data": "d" * 64,
        "tidemill.model": "ridge",
        "tidemill.dataset": "tides",
    }
    assert len(run.data.tags["tidemill.commit"]) == 40


def test_figures_over_time_are_a_stepped_series(delivered):
    history = delivered.get_metric_history(run_named(delivered, "ridge").info.run_id, "by_year.mae")
    assert [(point.step, point.value) for point in history] == [(2020, 0.6), (2021, 0.4)]


def test_runs_are_found_by_digest_with_their_pictures(delivered):
    experiment = delivered.get_experiment_by_name("tides").experiment_id
    (run,) = delivered.search_runs([experiment], filter_string="tags.`tidemill.digest` = 'aa'")
    assert [item.path for item in delivered.list_artifacts(run.info.run_id)] == ["curve.png"]


def test_the_alias_follows_the_champion_and_a_release_is_registered_once(delivered):
    assert delivered.get_model_version_by_alias("tides", "champion").tags["tidemill.version"] == "1.0.0"
    assert sorted(v.tags["tidemill.digest"] for v in delivered.search_model_versions("name = 'tides'")) == [
        "aa",
        "bb",
    ]


def test_an_entry_delivered_twice_is_one_run(delivered):
    """A kill between the run's end and the entry's removal leaves the entry."""
    log_run("tides", "twice", {"a": 1}, {"m": 2.0}, TAGS)
    kept = entry_of(list_pending_entries()[0])
    name = list_pending_entries()[0].name
    assert publish_runs() == 1
    (get_outbox_folder() / name).mkdir()
    (get_outbox_folder() / name / "entry.json").write_text(json.dumps(kept))
    assert publish_runs() == 1
    assert run_named(delivered, "twice").data.metrics == {"m": 2.0}


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


def test_series_of_any_name_reach_a_server_and_hold_up_no_other_dataset(tmp_path, server):
    """An entry of a version without safe names is made safe when it is delivered."""
    from mlflow.tracking import MlflowClient

    by_series = [{"series_id": name, "mae": float(k)} for k, name in enumerate(HARD_NAMES)]
    with at_home(tmp_path, TIDEMILL_MLFLOW_URI=server):
        log_training("hard", "it's", {"a|b": 1}, {"by_series": by_series}, data_hash="d" * 64)
        log_training("other", "ridge", {}, METRICS, data_hash="d" * 64)
        log_promotion("hard/names: #1", "aa", "1.0.0", tmp_path, {})
        assert (publish_runs(), list_pending_entries(), list_refused_entries()) == (3, [], {})
        client = MlflowClient(server, server)
        (run,) = client.search_runs([client.get_experiment_by_name("hard").experiment_id])
        found = {decode_name(name, run.data.tags): value for name, value in run.data.metrics.items()}
        assert found == {f"series.{name}.mae": float(k) for k, name in enumerate(HARD_NAMES)}
        assert {decode_name(name): value for name, value in run.data.params.items()} == {"a|b": "1"}
        assert (
            client.search_runs([client.get_experiment_by_name("other").experiment_id])[0].info.status
            == "FINISHED"
        )
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
        whole = entry_of(first)
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
