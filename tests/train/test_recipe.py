"""A retraining's recipe: the shorter window serves where it forecasts better, and only there."""

import numpy as np
import polars as pl
import pytest
from panels import feature_table, small_dataset
from searched import FEW, N_TRIALS

from tasks.edges.recipe import read_recipe, write_recipe
from tasks.train.params import TrainParams
from tasks.train.recipe import SEARCH_FACTOR, fit_by_recipe
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

WALK = TrainParams(n_cutoffs=40, stride_steps=2, refit_every_cutoffs=10, min_train_steps=100)
GATE = 30


def train(recipe, model, table, **own):
    data = TrainingData(table, small_dataset(), GATE)
    return fit_by_recipe(recipe, model, data, WALK, own, log=lambda _: None)


def change_regime(n_steps=400, change_at=180):
    """An autoregression whose sign changes at *change_at*."""
    old, new = feature_table(n_steps, phi=0.9), feature_table(n_steps, seed=1, phi=-0.8)
    is_new = pl.col("event_time") >= old["event_time"].unique().sort()[change_at]
    return pl.concat([old.filter(~is_new), new.filter(is_new)]).sort("series_id", "event_time")


def test_after_a_change_the_shorter_window_serves_and_has_the_lower_loss():
    table = change_regime()
    full, found = (train(recipe, "ridge", table) for recipe in ("full", "window"))
    assert full.plan.walk.window_steps is None
    assert found.plan.walk.window_steps == round(0.5 * (400 - GATE))
    newer = [
        np.sqrt(np.mean([row["rmse"] ** 2 for row in result.metrics.by_cutoff[20:]]))
        for result in (full, found)
    ]
    assert newer[1] < newer[0]


@pytest.mark.parametrize("model", ["last_value", "ridge"])
def test_without_a_change_nothing_is_different(model):
    """Of equal windows (a model without parameters) and without the recipe, the full one serves."""
    table = feature_table()
    recipe = "window" if model == "last_value" else "full"
    found = train(recipe, model, table)
    plain = fit_model(model, TrainingData(table, small_dataset(), GATE), WALK, {}, lambda _: None)
    assert found.plan == plain.plan
    assert found.forecasts.equals(plain.forecasts)


def test_no_row_of_the_gate_chooses_the_window():
    table = change_regime()
    spoilt = table.with_columns(
        pl.when(pl.col("event_time") >= table["event_time"].unique().sort()[-GATE])
        .then(pl.col(name) + 1000.0)
        .otherwise(pl.col(name))
        .alias(name)
        for name in ("y", "z")
    )
    assert train("window", "ridge", spoilt).plan.walk == train("window", "ridge", table).plan.walk


def test_a_search_recipe_tries_more():
    (entry,) = train("search", "ridge", feature_table(), search={**FEW, "n_trials": 3}).search.searches
    assert entry.n_trials == SEARCH_FACTOR * 3 > N_TRIALS


def test_a_recipe_is_of_its_dataset_and_a_full_one_leaves_nothing(tmp_path):
    (tmp_path / "data/recipe").mkdir(parents=True)
    write_recipe("tides", "window", tmp_path)
    assert (read_recipe("tides", tmp_path), read_recipe("other", tmp_path)) == ("window", "full")
    write_recipe("tides", "full", tmp_path)
    assert list((tmp_path / "data/recipe").iterdir()) == []
