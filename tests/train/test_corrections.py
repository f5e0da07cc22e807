"""A late correction changes later folds only; what is scored is the newest truth."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from panels import CALENDAR, feature_table, small_about

from tasks.core.dataset import Dataset
from tasks.core.folds import Fold
from tasks.core.frames import SERIES
from tasks.core.panel import build_panel
from tasks.features import FeatureParams
from tasks.features.stage import build_feature_set
from tasks.train.overlap import find_overlap
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import fit_model

WALK = TrainParams(n_cutoffs=30, stride_steps=2, refit_every_cutoffs=3, min_train_steps=60)
FEATURES = FeatureParams.model_validate(
    {
        "list": [
            {"kind": "lag", "column": "z", "steps": [1]},
            {"kind": "mean", "column": "z", "window_steps": [5]},
        ]
    }
)
CORRECTED, KNOWN = 100, 150  # the value of step 100 is corrected when step 150 is known
KEY = ["series_id", "cutoff", "step"]


def _rows():
    return SERIES.conform(feature_table(n_steps=200).select("series_id", "event_time", "known_at", "y"))


def _corrected(rows, by=40.0):
    times = rows["event_time"].unique().sort()
    late = rows.filter(
        (pl.col("series_id") == "s0") & (pl.col("event_time") == times[CORRECTED])
    ).with_columns(
        known_at=pl.lit(CALENDAR.get_cutoff(times[KNOWN])).cast(rows["known_at"].dtype), y=pl.col("y") + by
    )
    return SERIES.conform(pl.concat([rows, late]))


def _data(features):
    dataset = Dataset(small_about(), CALENDAR, features.schema)
    return TrainingData(features.table, dataset, 20, features.vintages)


def _forecasts(rows, model):
    features = build_feature_set(rows, small_about(), FEATURES)
    return fit_model(model, _data(features), WALK, {}, lambda _: None).forecasts


@pytest.mark.parametrize("model", ["ridge", "lightgbm"])
def test_a_late_correction_changes_later_folds_only(model):
    rows = _rows()
    without, corrected = _forecasts(rows, model), _forecasts(_corrected(rows), model)
    known_from = CALENDAR.get_cutoff(rows["event_time"].unique().sort()[KNOWN])
    before, after = (
        pl.col("cutoff") < known_from,
        pl.col("cutoff") >= known_from + timedelta(days=WALK.stride_steps * WALK.refit_every_cutoffs),
    )
    assert without.filter(before).height > 50
    assert without.filter(before).select(*KEY, "y_hat").equals(corrected.filter(before).select(*KEY, "y_hat"))
    both = without.filter(after).join(corrected.filter(after), on=KEY)
    assert (both["y_hat"] != both["y_hat_right"]).all()


def test_a_fold_before_the_correction_learns_the_value_that_was_known():
    """Not nothing: without the row at all its forecasts are others."""
    rows = _rows()
    step = rows["event_time"].unique().sort()[CORRECTED]
    hidden = rows.filter((pl.col("series_id") != "s0") | (pl.col("event_time") != step))
    before = pl.col("cutoff") < CALENDAR.get_cutoff(rows["event_time"].unique().sort()[KNOWN])
    corrected, without = (
        _forecasts(r, "ridge").filter(before & (pl.col("series_id") == "s1"))["y_hat"]
        for r in (_corrected(rows), hidden)
    )
    assert (corrected != without).all()


def test_the_look_for_overlap_takes_the_vintage_that_was_known_and_no_other():
    features = build_feature_set(_corrected(_rows()), small_about(), FEATURES)
    panel = build_panel(features.table, _data(features).dataset, features.vintages)
    folds = [Fold(120, np.array([120]))]
    assert find_overlap(features.table, panel, folds, WALK, features.vintages) is None
    # The correction, before it was known
    early = replace(panel, superseded=panel.superseded._replace(z=panel.z[CORRECTED, :1]))
    assert find_overlap(features.table, early, folds, WALK, features.vintages).rule == "overlap"


def test_what_came_true_is_the_newest_vintage():
    rows = _rows()
    times = rows["event_time"].unique().sort()
    forecasts = _forecasts(_corrected(rows), "last_value").filter(
        (pl.col("series_id") == "s0") & (pl.col("event_time") >= times[CORRECTED - 2])
    )
    first = forecasts.filter(pl.col("event_time") > times[CORRECTED]).join(
        rows, on=["series_id", "event_time"], suffix="_received"
    )
    assert (first["y"] == first["y_received"]).all()
    early = WALK.model_copy(update={"n_cutoffs": 45})
    features = build_feature_set(_corrected(rows), small_about(), FEATURES)
    walked = fit_model("last_value", _data(features), early, {}, lambda _: None).forecasts
    truth = (
        walked.filter((pl.col("series_id") == "s0") & (pl.col("event_time") == times[CORRECTED]))["y"]
        .unique()
        .to_list()
    )
    assert truth == [
        rows.filter((pl.col("series_id") == "s0") & (pl.col("event_time") == times[CORRECTED]))["y"].item()
        + 40.0
    ]
