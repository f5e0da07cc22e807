"""Which parameters a search depended on, held against functions whose variance is known by hand."""

from xml.etree import ElementTree as ET

import numpy as np
import optuna
import pytest
from searched import FEW, N_TRIALS, train_small

from deployments.console.charts.search import draw_importances
from tasks.train.search.importance import MIN_TRIALS, compute_importances


def tried(n, value, space, seed=0):
    """*n* trials drawn evenly from the unit cube of *space*, with what *value* makes of them; a
    name may be left out of a trial by its condition."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study(directions=["minimize", "minimize"])
    for _ in range(n):
        params = {}
        for name, applies in space.items():
            drawn = float(rng.random())
            if applies(params):
                params[name] = drawn
        axes = {name: optuna.distributions.FloatDistribution(0, 1) for name in params}
        study.add_trial(optuna.create_trial(params=params, distributions=axes, values=value(params)))
    return study.get_trials()


def always(_):
    return True


def shares_of(trials, names, seed=1):
    return {one.param: one for one in compute_importances(trials, names, {"error": 0, "size": 1}, seed)}


def test_shares_are_those_of_an_additive_function_whose_variance_is_known():
    """Of 3 a + b the parts vary as 9 : 1, since both are drawn evenly; the size depends on c
    alone."""
    trials = tried(100, lambda p: [3 * p["a"] + p["b"], p["c"]], dict.fromkeys("cba", always))
    found = compute_importances(trials, ["c", "b", "a"], {"error": 0, "size": 1}, 1)
    assert [one.param for one in found] == ["a", "b", "c"]
    assert [one.shares["error"] for one in found] == pytest.approx([0.9, 0.1, 0.0], abs=0.06)
    assert [one.shares["size"] for one in found] == pytest.approx([0.0, 0.0, 1.0], abs=0.06)


def test_a_conditional_parameter_is_weighed_among_the_trials_that_drew_it():
    trials = tried(
        200,
        lambda p: [p.get("when a", 0.5) + 0.1 * p["b"], 0.0],
        {"a": always, "when a": lambda p: p["a"] > 0.5, "never": lambda _: False, "b": always},
    )
    found = shares_of(trials, ["a", "when a", "never", "b"])
    assert found["when a"].shares["error"] > 0.9
    assert found["when a"].n_trials == sum(t.params["a"] > 0.5 for t in trials)
    assert found["never"].build_row() == {
        "param": "never",
        "n_trials": 0,
        "why": f"0 complete trials drew it, {MIN_TRIALS} are needed",
    }


def test_an_objective_that_never_changes_depends_on_nothing():
    found = shares_of(tried(MIN_TRIALS, lambda _: [1.0, 2.0], {"a": always}), ["a"])
    assert found["a"].shares == {"error": 0.0, "size": 0.0}


def test_the_same_trials_give_the_same_shares():
    trials = tried(30, lambda p: [p["a"] * p["b"], p["b"]], dict.fromkeys("ab", always))
    assert shares_of(trials, "ab") == shares_of(trials, "ab")


def test_a_search_of_few_trials_says_that_they_are_too_few():
    said = []
    trained = train_small(search=FEW, say=said.append)
    assert trained.search[0]["importances"] == [
        {
            "param": "penalty",
            "n_trials": N_TRIALS,
            "why": f"{N_TRIALS} complete trials drew it, {MIN_TRIALS} are needed",
        }
    ]
    assert any("too few to find what the error depends on" in line for line in said)
    assert b"too few" in draw_importances(trained.search[0]["importances"]).content


def test_a_search_says_what_its_error_depends_on():
    """The penalty decides; the rows that are drawn hardly do."""
    space = {"max_rows": {"int": [400, 500]}, "penalty": {"float": [1e-4, 1e4], "log": True}}
    found = train_small(search={**FEW, "space": space, "n_trials": MIN_TRIALS}).search[0]["importances"]
    assert [row["param"] for row in found] == ["penalty", "max_rows"]
    assert found[0]["error"] > 0.5


def test_the_size_is_weighed_by_itself_whatever_varies_beside_it():
    space = {"n_trees": {"int": [1, 30]}, "lambda_l2": {"float": [0.1, 1.0]}}
    search = {
        **FEW,
        "space": space,
        "n_trials": MIN_TRIALS,
        "inner_refits": 1,
        "objectives": ["error", "latency", "size"],
    }
    found = train_small("lightgbm", search=search, min_data_in_leaf=5).search[0]["importances"]
    assert {tuple(row) for row in found} == {("param", "n_trials", "error", "size")}
    assert {row["param"]: row["size"] for row in found}["n_trees"] > 0.9


def test_the_chart_has_a_bar_for_each_share_and_a_word_where_there_is_none():
    rows = [
        {"param": "params.a<b", "n_trials": 30, "error": 0.5, "size": 0.25},
        {"param": "rare", "n_trials": 3, "why": "3 complete trials drew it, 20 must"},
    ]
    page = ET.fromstring(draw_importances(rows).content)
    bars = [float(r.get("width")) for r in page.findall(".//{*}rect") if r.get("height") == "12"]
    words = [t.text for t in page.findall(".//{*}text")]
    assert bars[0] == 2 * bars[1]
    assert "params.a<b" in words
    assert "too few: 3 complete trials drew it, 20 must" in words
