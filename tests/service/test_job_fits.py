"""Jobs that fit models of the dataset: their forecasts are those of the models, and are ranked."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from homes import at_home
from how_to_blocks import list_blocks, run_block
from refresh_runs import DATASET, build_root
from servers import crown, serving, working
from small_release import START, build_small_release, small_rows
from test_jobs import PATIENCE_S, wait_for_job

from deployments.ops.job_fits import fit_models
from tasks.core.errors import FoldError
from tasks.edges.jobs import open_jobs
from tasks.edges.params import read_document
from tasks.edges.processes import wait_for

ROWS = small_rows(400)
TRAIN = {
    "n_cutoffs": 60,
    "stride_steps": 2,
    "refit_every_cutoffs": 30,
    "min_train_steps": 100,
    "embargo_steps": 0,
}
ENSEMBLE = {"prune_above_frac": 0.1, "shrink_frac": 0.25, "residuals": 250, "adapt_rate": 0.02}
MODELS = {"last_value": {}, "seasonal_naive": {}, "ridge": {}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_root(tmp_path_factory.mktemp("root"), models=MODELS, train=TRAIN, ensemble=ENSEMBLE)


def day(k):
    return START + timedelta(days=k)


def test_models_are_ranked_by_their_loss_and_forecast_from_the_newest_row(root, tmp_path):
    seen = []
    with at_home(tmp_path):
        document = read_document(root).select_dataset(DATASET)
        fitted = fit_models(document, ROWS, list(MODELS), lambda *done: seen.append(done))
    assert seen == [(0, 3, "last_value"), (1, 3, "seasonal_naive"), (2, 3, "ridge"), (3, 3, "")]
    assert fitted[0].name == "ridge"
    assert [fit.loss for fit in fitted] == sorted(fit.loss for fit in fitted)
    # The outcomes of the walk's last three cutoffs are known in part
    assert {fit.scores["n"] for fit in fitted} == {2 * (5 * 60 - 5 - 3 - 1)}
    by_name = {fit.name: fit.forecasts.sort("series_id", "step") for fit in fitted}
    for name, back in [("last_value", [1] * 5), ("seasonal_naive", [7, 6, 5, 4, 3])]:
        forecasts = by_name[name]
        assert forecasts["event_time"].to_list() == [day(400 + k) for k in range(5)] * 2
        for series, part in forecasts.group_by("series_id", maintain_order=True):
            load = ROWS.filter(series_id=series[0])["load"]
            assert part["y_hat"].to_list() == pytest.approx([load[400 - k] for k in back], rel=1e-5)


def test_intervals_hold_their_share_of_outcomes_that_nothing_had_seen(root, tmp_path):
    """Random walks with steps of known spread, whose quantiles follow from theory, too."""
    rng, spread, names = np.random.default_rng(1), 0.05, [f"walk {k:02}" for k in range(40)]
    loads = 100 * np.exp(np.cumsum(rng.normal(0, spread, (305, 40)), axis=0))
    parts = [small_rows(305, [name]).with_columns(load=loads[:, k]) for k, name in enumerate(names)]
    seen = pl.concat([part.head(300) for part in parts])
    with at_home(tmp_path):
        document = read_document(root).select_dataset(DATASET)
        (fit,) = fit_models(document, seen, ["last_value"], lambda *_: None)
    forecasts = fit.forecasts.sort("series_id", "step")
    actual = loads[300:].T.ravel()
    low, point, high = (forecasts[column].to_numpy() for column in ("q_0.1", "y_hat", "q_0.9"))
    assert point == pytest.approx(np.repeat(loads[299], 5), rel=1e-5)
    assert (low <= point).all()
    assert (point <= high).all()
    assert 0.7 < np.mean((low <= actual) & (actual <= high)) < 0.9
    assert fit.scores["coverage_frac"] == pytest.approx(0.8, abs=0.05)
    width = np.log(high / low).reshape(40, 5).mean(axis=0)
    assert width == pytest.approx(2 * 1.2816 * spread * np.sqrt(np.arange(1, 6)), rel=0.1)


def test_too_few_rows_say_what_is_missing(root, tmp_path):
    with at_home(tmp_path), pytest.raises(FoldError, match="steps"):
        fit_models(
            read_document(root).select_dataset(DATASET), ROWS.head(60), ["last_value"], lambda *_: None
        )


def test_over_http_a_model_is_fitted_on_an_own_history(root, tmp_path):
    build_small_release(tmp_path / "release", rows=ROWS, gate_steps=120, dataset=DATASET)
    history = [
        {"event_time": when.isoformat(), "load": load}
        for when, load in ROWS.filter(series_id="south").select("event_time", "load").rows()
    ]
    with at_home(tmp_path / "home") as home:
        crown(home, tmp_path / "release")
        environment = {"TIDEMILL_CHECKOUT": str(root)}
        with working(home, **environment), serving(home, **environment) as server, open_jobs() as store:
            ask = server.client.post
            unknown = ask("/api/v1/forecast/rigde", json={})
            assert (unknown.status_code, unknown.json()["thing"]) == (404, "model")
            assert ask("/api/v1/ml/automl", json={"models": ["rigde"]}).status_code == 404
            assert ask("/api/v1/forecast/ridge", json={"model": "ridge"}).status_code == 422
            assert ask("/api/v1/forecast/ridge", json={"history": [{"load": 1.0}]}).status_code == 422
            assert wait_for(store.is_loop_alive, PATIENCE_S)
            body = {"history": history}
            own = ask("/api/v1/forecast/last_value", json=body, headers={"idempotency-key": "1"}).json()
            assert (
                ask("/api/v1/forecast/ridge", json=body, headers={"idempotency-key": "1"}).status_code == 422
            )
            job = wait_for_job(server, own["job_id"])
            assert job["state"] == "done", job
            result = server.client.get(job["result"]).json()
            assert (job["kind"], result["best"], result["models"][0]["n"]) == ("forecast", "last_value", 291)
            rows = [(row["series_id"], row["event_time"]) for row in result["rows"]]
            assert rows == [("mine", f"{day(400 + k):%FT%TZ}") for k in range(5)]
            assert 0.5 < result["models"][0]["coverage_frac"] < 1
            assert all(row["q_0.1"] < row["y_hat"] < row["q_0.9"] for row in result["rows"])
            assert result["rows"][0]["y_hat"] == pytest.approx(history[-1]["load"], rel=1e-5)
            (prediction_id,) = {row["prediction_id"] for row in result["rows"]}
            recorded = server.client.get(f"/api/v1/predictions/{prediction_id}").json()
            asked, recomputed = recorded["request"], recorded["recomputed"]
            assert (asked["fitted"], asked["series_id"], asked["job_id"]) == (
                "last_value",
                ["mine"],
                own["job_id"],
            )
            assert recorded["series"][0]["steps"][0]["y_hat"] == result["rows"][0]["y_hat"]
            assert (recomputed["state"], own["job_id"] in recomputed["reason"]) == ("gone", True)
            (example,) = (text for _, text in list_blocks("jobs-and-webhooks") if '"forecast"' in text)
            example = example.replace("localhost:3000", f"127.0.0.1:{server.client.base_url.port}")
            assert run_block("python", example, "none").stdout.startswith("ridge 8")
            ranked = ask("/api/v1/ml/automl", json={"models": ["last_value", "ridge"]})
            assert (ranked.status_code, ranked.json()["kind"]) == (202, "automl")
