"""The contract's bounds travel with the release, and what it serves keeps to them."""

import numpy as np
import polars as pl
from small_release import build_small_release, cutoff_at, small_about, small_rows

from tasks.edges.params import STAGES, ParamsDocument
from tasks.release import load_release, predict_cutoffs

COLUMNS = ["y_hat", "q_0.1", "q_0.5", "q_0.9"]


def served(folder, **target):
    about = small_about(target={"column": "load", "unit": "sales per day", **target})
    rows = small_rows().with_columns((pl.col("load") / 40 - 2.0).floor().clip(0.0))
    build_small_release(folder, rows, about=about)
    return predict_cutoffs(load_release(folder), rows, [cutoff_at(day) for day in range(350, 390)])


def test_counts_are_served_as_whole_numbers_from_0_on(tmp_path):
    free = served(tmp_path / "free")
    assert (free["q_0.1"] < 0).any()
    assert (free["q_0.9"] != free["q_0.9"].floor()).any()
    kept = served(tmp_path / "kept", integer=True, bounds={"min": 0.0, "max": 4.0})
    for column in COLUMNS:
        assert kept[column].is_between(0, 4).all()
    for column in COLUMNS[1:]:
        assert (kept[column] == kept[column].floor()).all()
    assert ((kept["q_0.1"] <= kept["y_hat"]) & (kept["y_hat"] <= kept["q_0.9"])).all()
    inside = free["y_hat"].is_between(0, 4)
    np.testing.assert_array_equal(kept.filter(inside)["y_hat"], free.filter(inside)["y_hat"])


def document(target, rule):
    entry = {
        "about": {**small_about().model_dump(mode="json"), "target": target},
        "models": {},
        **{stage: {} for stage in STAGES},
        "validate": {"columns": {"load": rule}},
    }
    return ParamsDocument({"dataset": "one", "models": [], "datasets": {"one": entry}})


def test_the_bounds_are_those_of_the_targets_column_in_the_contract():
    target = {"column": "load", "unit": "1"}
    of_rule = document(target, {"min": 0, "strict_min": True, "nullable": True}).bounded_about.target
    assert of_rule.bounds.model_dump() == {"min": 0.0, "max": None, "strict_min": True}
    assert document(target, {"nullable": True}).bounded_about.target.bounds is None
    derived = {"column": "load", "unit": "1", "derive": "garman_klass"}
    assert document(derived, {"min": 0}).bounded_about.target.bounds is None
