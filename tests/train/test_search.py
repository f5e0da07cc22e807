"""What a search promises: it sees nothing of what is scored, a kill costs nothing, and it says
what its gain was worth."""

import json

import numpy as np
import polars as pl
import pytest
from homes import at_home
from panels import feature_table
from searched import FEW, N_TRIALS, PENALTY, train_small

from deployments.console.charts.search import draw_front, draw_search
from tasks.core.errors import FoldError, ForecasterError, ParamsError
from tasks.core.reports.train import SearchEntry
from tasks.core.scores import pinball
from tasks.edges.mlflow_delivery import publish_runs
from tasks.edges.settings import read_settings
from tasks.edges.tracking import TrainedModel, list_pending_entries
from tasks.train.search import trial as trial_module
from tasks.train.search.params import merge_params
from tasks.train.search.report import build_mlflow_logger
from tasks.train.search.trial import SearchTrial, find_pareto_front


def test_a_finished_search_tries_nothing_more_and_one_with_more_trials_goes_on(monkeypatch):
    first = train_small(search=FEW).search[0]
    ran, run = [], trial_module.run_trial
    monkeypatch.setattr(trial_module, "run_trial", lambda inner, job: ran.append(job) or run(inner, job))
    assert train_small(search=FEW).search[0] == first
    assert ran == []
    more = train_small(search={**FEW, "n_trials": N_TRIALS + 2}).search[0]
    assert len(ran) == 2
    assert more["trials"][:N_TRIALS] == first["trials"]
    assert train_small(search=FEW).search[0] == first  # those that came later do not count


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
    assert trained.search[0]["chosen"] == {"trial": None, "params": {}, "model_params": {"penalty": 0.01}}
    assert trained.forecasts.equals(train_small(penalty=0.01).forecasts)


def test_a_search_anew_as_of_every_second_fold_serves_the_folds_after_it():
    trained = train_small(search={**FEW, "every_folds": 2}, penalty=1e3)
    starts = [trained.plan["folds"][i]["fit_at"] for i in (0, 2, 4)]
    assert [s["as_of"] for s in trained.search] == starts
    assert trained.facts["params"] == trained.search[-1]["chosen"]["model_params"]
    for found, after in zip(trained.search, [*starts[1:], "9999-01-01T00:00:00+00:00"], strict=True):
        served = pl.col("cutoff").is_between(
            *(pl.lit(t).str.to_datetime(time_zone="UTC") for t in (found["as_of"], after)), closed="left"
        )
        assert trained.forecasts.filter(served).equals(
            train_small(**found["chosen"]["model_params"]).forecasts.filter(served)
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
    assert b"<polyline" in draw_search(SearchEntry.model_validate(found)).content
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
    tell = build_mlflow_logger(TrainedModel("small", "ridge", "d" * 64))
    found = train_small(search={**FEW, "n_trials": 3}, tell=tell).search[0]
    assert len(list_pending_entries()) == 4
    publish_runs()

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=read_settings().tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    (training,) = (r for r in runs if "mlflow.parentRunId" not in r.data.tags)
    (search,) = (r for r in runs if r.data.tags.get("mlflow.parentRunId") == training.info.run_id)
    nested = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == search.info.run_id]
    assert sorted(r.data.metrics["error"] for r in nested) == sorted(t["error"] for t in found["trials"])
    assert {float(r.data.params["penalty"]) for r in nested} == {
        t["params"]["penalty"] for t in found["trials"]
    }


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
