"""MLflow as a log: entries are cheap and durable, and no fault of MLflow stops a stage."""

import json
import subprocess
import sys

import pytest
from homes import at_home

from tasks.edges.mlflow_delivery import publish_alongside, publish_runs
from tasks.edges.settings import ROOT, build_child_environment, read_settings
from tasks.edges.tracking import (
    MAX_POINTS,
    TrainedModel,
    get_outbox_folder,
    has_news,
    list_pending_entries,
    log_promotion,
    log_run,
    log_training,
)

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
            trained = TrainedModel("tides", "ridge", "d" * 64)
            log_training(trained, {"alpha": 1.0, "walk": {"n_cutoffs": 9}}, METRICS)
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
