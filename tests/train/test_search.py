"""What a search promises: it sees nothing of what is scored, a kill costs nothing, and it says
what its gain was worth."""

import fcntl
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from homes import at_home
from panels import feature_table
from searched import FEW, N_TRIALS, PENALTY, WALK, judged_and_cut_off, kill_in_fit, train_small

from deployments.console.charts.search import draw_front, draw_search
from tasks.core.errors import FoldError, ForecasterError, ParamsError, SettingsError
from tasks.core.scores import pinball
from tasks.edges.mlflow_delivery import publish_runs
from tasks.edges.settings import read_settings
from tasks.edges.tracking import list_pending_entries
from tasks.train.search import search as search_module
from tasks.train.search.params import SearchParams, merge_params
from tasks.train.search.search import SearchTrial, build_mlflow_logger, find_pareto_front
from tasks.train.search.study import (
    delete_old_studies,
    get_study_folder,
    list_finished,
    open_locked_study,
    open_study,
    register_drawn,
    start_trial,
)


def test_a_search_killed_twice_loses_no_trial_repeats_none_and_answers_as_if_nothing_had_been(tmp_path):
    """3 fits judge the parameters before the search, 3 each trial: the first kill hits the
    fourth trial, the second one the seventh."""
    with at_home(tmp_path / "calm"):
        calm = train_small(search=FEW)
    with at_home(tmp_path / "killed") as home:
        for fit in (3 + 3 * 3 + 2, 3 * 3 + 2):
            kill_in_fit(home, fit)
        told = []
        after = train_small(search=FEW, tell=lambda _key, _began, trial: told.append(trial))
        judged, cut_off = judged_and_cut_off()
    assert after.search == calm.search
    assert after.forecasts.equals(calm.forecasts)
    assert len(judged) == len(set(judged)) == N_TRIALS
    assert len(cut_off) == 2
    assert {t.params["penalty"] for t in cut_off} <= set(judged)
    # Also those that were told before, since a kill may come before the telling
    assert [t.number for t in told[1:]] == list(range(1, N_TRIALS + 1))


def test_several_workers_share_a_study_and_a_kill_costs_them_nothing_either(tmp_path):
    with at_home(tmp_path, TIDEMILL_WORKERS="2") as home:
        kill_in_fit(home, 3 + 4 * 3 + 1, workers=2)
        found = train_small(search={**FEW, "workers": 2}).search[0]
        judged, cut_off = judged_and_cut_off()
    assert found["n_trials"] == len(judged) == len(set(judged)) == N_TRIALS
    assert cut_off
    assert {t.params["penalty"] for t in cut_off if "whole" in t.user_attrs} <= set(judged)


def test_a_finished_search_tries_nothing_more_and_one_with_more_trials_goes_on(monkeypatch):
    first = train_small(search=FEW).search[0]
    ran, run = [], search_module.run_trial
    monkeypatch.setattr(search_module, "run_trial", lambda inner, job: ran.append(job) or run(inner, job))
    assert train_small(search=FEW).search[0] == first
    assert ran == []
    more = train_small(search={**FEW, "n_trials": N_TRIALS + 2}).search[0]
    assert len(ran) == 2
    assert more["trials"][:N_TRIALS] == first["trials"]
    assert train_small(search=FEW).search[0] == first  # those that came later do not count


def test_half_a_line_and_a_lock_of_a_killed_search_do_no_harm(home):
    first = train_small(search=FEW).search
    (folder,) = (home / "search").iterdir()
    with (folder / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code":5,"worker')
    (folder / "journal.log.lock").symlink_to("journal.log")
    search_module.open_study.__globals__["_open_storage"].cache_clear()
    began = time.monotonic()
    more = train_small(search={**FEW, "n_trials": N_TRIALS + 1}).search
    assert time.monotonic() - began < 20  # the lock would be waited for 30 s
    assert more[0]["trials"][:N_TRIALS] == first[0]["trials"]


def _weigh(key, used):
    """Make the folder of the study *key* one of 700 kB, used at second *used*."""
    folder = get_study_folder(key)
    (folder / "front.json").write_bytes(b" " * 700_000)
    os.utime(folder / "lock", (used, used))
    return folder


def test_studies_stay_within_their_bound_the_newest_used_stay_and_none_in_use_goes(tmp_path):
    search = SearchParams.model_validate(FEW)
    with at_home(tmp_path, TIDEMILL_KEEP_SEARCHES_MB="2"):
        for key in "abcd":
            with open_locked_study(key, search):
                pass
        folders = {key: _weigh(key, used) for used, key in enumerate("abcd")}
        with open_locked_study("a", search):
            os.utime(folders["a"] / "lock", (0, 0))
            delete_old_studies()
            assert [key for key, folder in folders.items() if folder.exists()] == ["a", "c", "d"]
        os.utime(folders["a"] / "lock", (0, 0))
        delete_old_studies()
        assert [key for key, folder in folders.items() if folder.exists()] == ["c", "d"]


def test_a_study_that_was_trimmed_begins_anew_also_in_a_process_that_remembers_it(tmp_path):
    with at_home(tmp_path, TIDEMILL_KEEP_SEARCHES_MB="0"):
        first = train_small(search=FEW).search
        assert list((tmp_path / "search").iterdir()) == []
        assert train_small(search=FEW).search == first


def test_who_waits_for_a_study_that_is_trimmed_meanwhile_holds_a_lock_that_others_see(home):
    search = SearchParams.model_validate(FEW)
    found, folder = [], get_study_folder("a")

    def wait():
        with open_locked_study("a", search):
            found.append((folder / "lock").exists())

    with (folder / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not any(
            str((folder / "lock").stat().st_ino) in line and "->" in line
            for line in Path("/proc/locks").read_text().splitlines()
        ):
            time.sleep(0.01)
        shutil.rmtree(folder)
    waiting.join()
    assert found == [True]


@pytest.mark.parametrize("model", ["ridge", "lightgbm"])
def test_what_comes_after_the_first_cutoff_changes_no_choice(model, tmp_path):
    table = feature_table()
    space = (
        PENALTY
        if model == "ridge"
        else {"num_leaves": {"int": [2, 9]}, "min_data_in_leaf": {"int": [5, 50], "log": True}}
    )
    own = {"search": {**FEW, "space": space, "n_trials": 4}, "select": {}}
    honest = train_small(model, table, **own)
    cutoff = pl.lit(honest.search[0]["as_of"]).str.to_datetime(time_zone="UTC")
    later = pl.col("known_at") > cutoff
    spoilt = table.with_columns(
        pl.when(later).then(pl.col(c) * -9).otherwise(pl.col(c)).alias(c)
        for c in ["y", "z", "z_last", "z_lag_1", "z_mean_5"]
    )
    with at_home(tmp_path / "other"):
        changed = train_small(model, spoilt, **own)
    assert changed.search[0]["trials"] == honest.search[0]["trials"]
    assert changed.search[0]["chosen"] == honest.search[0]["chosen"]
    assert changed.selection["folds"][0] == honest.selection["folds"][0]
    assert changed.metrics != honest.metrics


def test_the_inner_walk_scores_only_what_its_cutoff_knew():
    """An oracle by hand: a last-value model's inner error is the mean over the newest cutoffs
    whose horizon was over."""
    table = feature_table()
    found = train_small(
        "sklearn",
        table,
        search={
            "space": {"params.alpha": {"choice": [1e12]}},
            "n_trials": 1,
            "inner_cutoffs": 4,
            "inner_refits": 2,
        },
        estimator="linear_model.Ridge",
        base="last",
        params={"alpha": 1.0},
    ).search[0]
    known = table.filter(pl.col("known_at") <= pl.lit(found["as_of"]).str.to_datetime(time_zone="UTC"))
    z = np.array([known.filter(pl.col("series_id") == s)["z"].to_numpy() for s in ("s0", "s1")])
    errors = [(z[:, -1 - 3 * k + s - 3] - z[:, -1 - 3 * k - 3]) ** 2 for k in range(4) for s in (1, 2, 3)]
    # The intercept stays: a mean of hundreds of steps, near 0
    assert found["trials"][0]["error"] == pytest.approx(np.mean(errors), rel=0.02)


def test_the_chosen_parameters_serve_the_walk_and_the_gain_is_held_against_cutoffs_that_no_trial_saw():
    bad = {"penalty": 1e3}
    trained = train_small(search=FEW, **bad)
    (found,) = trained.search
    best = min((t for t in found["trials"] if "error" in t), key=lambda t: t["error"])
    assert found["chosen"]["params"] == best["params"] == trained.facts["params"]
    plain = train_small(**best["params"])
    assert plain.forecasts.equals(trained.forecasts)
    first = [
        f.forecasts.filter(
            pl.col("cutoff") < pl.lit(f.plan["folds"][1]["fit_at"]).str.to_datetime(time_zone="UTC")
        )
        for f in (trained, train_small(**bad))
    ]
    errors = [((f["y"] - f["y_hat"]) ** 2).mean() for f in first]
    assert [found["outer"]["error"], found["outer"]["error_before"]] == pytest.approx(errors)
    assert found["overfit"] == pytest.approx(
        (1 - best["error"] / found["inner"]["error_before"]) - (1 - errors[0] / errors[1])
    )


def test_what_is_worse_than_the_parameters_before_is_not_chosen():
    trained = train_small(search={**FEW, "space": {"penalty": {"float": [1e3, 1e4]}}}, penalty=0.01)
    assert trained.search[0]["chosen"] == {"trial": None, "params": {}, "own": {"penalty": 0.01}}
    assert trained.forecasts.equals(train_small(penalty=0.01).forecasts)


def test_a_search_anew_as_of_every_second_fold_serves_the_folds_after_it():
    trained = train_small(search={**FEW, "every_folds": 2}, penalty=1e3)
    starts = [trained.plan["folds"][i]["fit_at"] for i in (0, 2, 4)]
    assert [s["as_of"] for s in trained.search] == starts
    assert trained.facts["params"] == trained.search[-1]["chosen"]["own"]
    for found, after in zip(trained.search, [*starts[1:], "9999-01-01T00:00:00+00:00"], strict=True):
        served = pl.col("cutoff").is_between(
            *(pl.lit(t).str.to_datetime(time_zone="UTC") for t in (found["as_of"], after)), closed="left"
        )
        assert trained.forecasts.filter(served).equals(
            train_small(**found["chosen"]["own"]).forecasts.filter(served)
        )


def test_parameters_are_drawn_only_where_their_condition_holds():
    space = {
        "base": {"choice": ["last", "ridge"]},
        "loss": {"choice": ["squared", "quantile"]},
        "quantile": {"float": [0.4, 0.6], "when": {"loss": "quantile"}},
        "learning_rate": {"float": [0.01, 0.3], "when": {"strategy": ["direct"], "base": "last"}},
        "more_trees": {"int": [5, 9], "when": {"strategy": "recursive"}},
    }
    found = train_small(
        "lightgbm", search={**FEW, "space": space, "n_trials": 12}, min_data_in_leaf=5, n_trees=5
    ).search[0]
    seen = [t["params"] for t in found["trials"]]
    assert len({(p["base"], p["loss"]) for p in seen}) == 4
    for params in seen:
        assert ("quantile" in params) == (params["loss"] == "quantile")
        assert ("learning_rate" in params) == (params["base"] == "last")
        assert "more_trees" not in params


def test_the_architecture_of_a_net_is_a_search_like_any_other():
    space = {
        "hidden_sizes": {"choice": [[4], [8, 4]]},
        "learning_rate": {"float": [0.001, 0.02], "log": True},
    }
    trained = train_small("mlp", search={**FEW, "space": space, "n_trials": 3, "inner_refits": 1}, epochs=1)
    assert {tuple(t["params"]["hidden_sizes"]) for t in trained.search[0]["trials"]} <= {(4,), (8, 4)}


def test_a_budget_ends_a_search_after_a_whole_trial_and_its_answer_stays(monkeypatch):
    said = []
    budget = {**FEW, "budget_s": 1e-9}
    first = train_small(search=budget, say=said.append).search[0]
    assert first["n_trials"] == 1
    assert any("THE BUDGET" in line for line in said)
    assert train_small(search=budget).search[0] == first
    assert train_small(search=FEW).search[0]["n_trials"] == N_TRIALS
    assert train_small(search=budget).search[0] == first


def test_a_trial_that_the_model_refuses_is_said_and_the_search_goes_on():
    # Recursive refuses the base ridge
    space = {"n_trees": {"int": [1, 3]}, "strategy": {"choice": ["direct", "recursive"]}}
    found = train_small("lightgbm", search={**FEW, "space": space}).search[0]
    refused = [t for t in found["trials"] if t["state"] == "refused"]
    assert refused
    assert all("base" in t["why"] and t["params"]["strategy"] == "recursive" for t in refused)
    with pytest.raises(ForecasterError, match="None of 9 trials"):
        train_small("lightgbm", search={**FEW, "space": {"strategy": {"choice": ["recursive"]}}})


def test_error_and_size_have_a_front_and_the_smaller_graph_is_taken_where_it_costs_little(home):
    space = {"n_trees": {"int": [1, 40]}, "num_leaves": {"int": [2, 8]}}
    own = {"min_data_in_leaf": 5}
    search = {
        **FEW,
        "space": space,
        "objectives": ["error", "size", "latency"],
        "prefer": "size",
        "within_frac": 0.5,
    }
    trained = train_small("lightgbm", search=search, **own)
    found = trained.search[0]
    by_number = {t["trial"]: t for t in found["trials"]}
    best = [by_number[n] for n in found["front"]]
    for t in found["trials"]:
        assert "latency" not in t  # it differs from run to run
        assert any(b["error"] <= t["error"] and b["size"] <= t["size"] for b in best)
    near = [t for t in found["trials"] if t["error"] <= 1.5 * min(t["error"] for t in found["trials"])]
    assert found["chosen"]["trial"] == min(near, key=lambda t: t["size"])["trial"]
    assert b"<polyline" in draw_search(found).content
    folder = home / "search" / found["study"]
    assert all(row["latency"] > 0 for row in json.loads((folder / "front.json").read_text()))
    study = json.loads((folder / "trials.json").read_text())
    assert b"ms, " in draw_front(study["trials"], study["objectives"][2], found["chosen"]["trial"]).content


def test_the_front_is_what_none_beats():
    trials = [
        SearchTrial(i, "complete", {}, {"error": e, "size": s}, None, i, 0)
        for i, (e, s) in enumerate([(1, 9), (2, 5), (2, 6), (3, 5), (4, 1)])
    ]
    assert [t.number for t in find_pareto_front(trials, ("error", "size"))] == [0, 1, 4]


def test_pruned_trials_end_early_and_are_never_chosen():
    found = train_small(search={**FEW, "prune": True, "n_trials": 20}, penalty=1e3).search[0]
    assert found["states"]["pruned"] > 0
    chosen = found["trials"][found["chosen"]["trial"] - 1]
    assert chosen["state"] == "complete"


def test_every_trial_is_a_run_nested_in_the_search():
    tell = build_mlflow_logger("small", "ridge", "d" * 64)
    found = train_small(search={**FEW, "n_trials": 3}, tell=tell).search[0]
    assert len(list_pending_entries()) == 4
    publish_runs()

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=read_settings().tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    (parent,) = (r for r in runs if "mlflow.parentRunId" not in r.data.tags)
    nested = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(r.data.metrics["error"] for r in nested) == sorted(t["error"] for t in found["trials"])
    assert {float(r.data.params["penalty"]) for r in nested} == {
        t["params"]["penalty"] for t in found["trials"]
    }


def test_a_database_by_url_keeps_the_trials_and_takes_up_what_was_killed(tmp_path):
    """SQLite, whose search is the journal's to the byte; PostgreSQL, with workers and machines,
    has a file of its own."""
    with at_home(tmp_path / "journal"):
        expected = train_small(search=FEW).search
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    search = SearchParams.model_validate(FEW)
    with at_home(tmp_path / "home", TIDEMILL_SEARCH_STORAGE=url) as home:
        train_small(search={**FEW, "n_trials": 3})
        (folder,) = (home / "search").iterdir()
        assert not (folder / "journal.log").exists()
        study = open_study(folder.name, search)
        trial = start_trial(study, search, WALK.seed)  # drawn and never told, as a kill leaves it
        search.space["penalty"].draw(trial, "penalty")
        register_drawn(trial)
        assert train_small(search=FEW).search == expected
        with open_locked_study(folder.name, search) as study:
            assert len(list_finished(study)) == N_TRIALS
            assert len(study.get_trials()) == N_TRIALS + 1


def test_a_trial_that_waits_to_be_done_again_outlives_a_kill_before_it_is_drawn(home):
    expected = train_small(search={**FEW, "n_trials": 4}).search[0]["trials"][3]["params"]["penalty"]
    (folder,) = (home / "search").iterdir()
    search, wanted = SearchParams.model_validate(FEW), 0.123
    with open_locked_study(folder.name, search) as study:
        study.enqueue_trial({"penalty": wanted})
        start_trial(study, search, WALK.seed)  # taken from the queue, and killed
    judged = [t["params"]["penalty"] for t in train_small(search={**FEW, "n_trials": 6}).search[0]["trials"]]
    assert judged.count(wanted) == 1
    assert judged[3] == expected
    assert len(judged) == 6


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////no/such/folder/trials.db",
        "postgresql+psycopg://nobody@/none?host=/no/such/folder",
        "postgresql://driver@not/locked",
        "mysql://driver@not/locked",
    ],
)
def test_a_database_that_is_not_there_is_said(url, tmp_path):
    with (
        at_home(tmp_path, TIDEMILL_SEARCH_STORAGE=url),
        pytest.raises(SettingsError, match="TIDEMILL_SEARCH_STORAGE"),
    ):
        train_small(search=FEW)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"space": {"penalty": {"float": [2, 1]}}}, "must rise"),
        ({"space": {"penalty": {"float": [0, 1], "log": True}}}, "above 0"),
        ({"space": {"penalty": {}}}, "give one of"),
        ({"space": {"penalty": {"choice": [1], "log": True}}}, "no order"),
        ({"space": {"a": {"int": [1, 2], "when": {"b": 1}}, "b": {"int": [1, 2]}}}, "put it above"),
        ({"objectives": ["size"]}, "comes first"),
        ({"prefer": "size"}, "add it there"),
        ({"trials": 3}, "Extra inputs"),
    ],
)
def test_a_space_that_cannot_be_is_refused_with_the_key(change, says):
    with pytest.raises(ParamsError, match=says):
        train_small(search={**FEW, **change})


def test_a_fit_that_goes_on_must_stay_the_same_model():
    for own in ({"search": {**FEW, "every_folds": 2}}, {"select": {}}):
        with pytest.raises(ParamsError, match="another model"):
            train_small(refit="warm", **own)


def test_an_inner_walk_that_does_not_fit_says_how_many_would():
    with pytest.raises(FoldError, match="at most"):
        train_small(search={**FEW, "inner_cutoffs": 500})


def test_an_inner_window_leaves_older_steps_out_of_the_inner_fits():
    """What lies before it may be anything; the walk itself still learns from all."""
    table = feature_table()
    first = table["event_time"].unique().sort()
    search = {**FEW, "inner_window_steps": 60, "n_trials": 2}
    honest = train_small(table=table, search=search)
    spoil = pl.col("event_time") < first[150]
    spoilt = table.with_columns(
        pl.when(spoil).then(pl.col(c) * 7).otherwise(pl.col(c)).alias(c)
        for c in ["y", "z", "z_last", "z_lag_1", "z_mean_5"]
    )
    changed = train_small(table=spoilt, search=search)
    assert changed.search[0]["trials"] == honest.search[0]["trials"]
    assert changed.metrics != honest.metrics


def test_a_dotted_name_reaches_inside():
    assert merge_params({"params": {"alpha": 1, "tol": 2}}, {"params.alpha": 3, "base": "last"}) == {
        "params": {"alpha": 3, "tol": 2},
        "base": "last",
    }


def test_the_same_search_gives_the_same_outputs_to_the_byte(tmp_path):
    seen = []
    for name in ("one", "two"):
        with at_home(tmp_path / name):
            trained = train_small(search=FEW, select={})
            seen.append(json.dumps([trained.search, trained.selection, trained.facts, trained.plan]))
    assert seen[0] == seen[1]


def test_a_model_of_a_quantile_is_judged_by_its_pinball_loss(tmp_path):
    own = {"loss": "quantile", "quantile": 0.1, "n_trees": 5, "min_data_in_leaf": 5}
    with at_home(tmp_path):
        made = train_small(
            "lightgbm", search={**FEW, "space": {"num_leaves": {"int": [3, 7]}}, "n_trials": 2}, **own
        )
    (found,) = made.search
    assert found["score"] == "pinball of the quantile 0.1"
    first = made.forecasts["cutoff"].unique().sort().head(found["outer"]["n_cutoffs"])
    of_outer = made.forecasts.filter(pl.col("cutoff").is_in(first.implode()))
    assert found["outer"]["error"] == pytest.approx(
        pinball(of_outer["y"].to_numpy(), of_outer["y_hat"].to_numpy(), 0.1).mean(), rel=1e-5
    )
