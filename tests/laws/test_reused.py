"""What fits on the same rows leave for each other changes what a fit costs, and no byte of it."""

import pickle
from pathlib import Path

import pytest

from tasks.forecasters import build_forecaster
from tasks.forecasters.models.linear.ridge import Ridge
from tasks.laws.forecaster_data import build_pairs, build_schema

OF_ALL = [
    {},
    {"base": "last"},
    {"max_rows": 150},
    {"columns": ["z_lag_1"]},
    {"aligned_steps": [2]},
    {"weight": {"column": "z_lag_1", "constant": 2, "in_z": True}},
]
OF_TREES = [
    {"n_trees": 5},
    {"learning_rate": 0.2},
    {"held_frac": 0.2},
    {"held_frac": 0.3},
    {"categorical": ["calendar_weekday", "series"]},
    {"strategy": "recursive", "base": "last"},
]
KINDS = {
    "lightgbm": ({"min_data_in_leaf": 20, "n_trees": 10}, [*OF_TREES, {"num_leaves": 4}]),
    "xgboost": ({"min_child_weight": 20, "n_trees": 10}, OF_TREES),
    "catboost": ({"depth": 3, "n_trees": 10}, OF_TREES),
    "sklearn": ({"estimator": "linear_model.Ridge"}, [{"params": {"alpha": 9.0}}, {"steps": "outputs"}]),
}


def _files(fit, folder):
    folder.mkdir()
    fit.save(folder)
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_takes_what_others_left_is_the_fit_that_learned_it_all(kind, tmp_path):
    (always, alternatives), (x, z) = KINDS[kind], build_pairs()
    left = {}
    for i, changed in enumerate([*OF_ALL, *alternatives]):
        alone, sharing = (build_forecaster(kind, build_schema(), 1, always | changed) for _ in range(2))
        sharing.reused = left
        assert _files(sharing.fit(x, z), tmp_path / f"sharing{i}") == _files(
            alone.fit(x, z), tmp_path / f"alone{i}"
        ), changed
        left = pickle.loads(pickle.dumps(left))  # as it goes to a worker
    assert len(left) <= 8


def test_the_base_is_fitted_once_for_all_that_differ_in_their_trees_alone(monkeypatch):
    fitted, fit = [], Ridge.fit
    monkeypatch.setattr(Ridge, "fit", lambda self, *rows: fitted.append(1) or fit(self, *rows))
    left = {}
    for n_trees in range(1, 6):
        forecaster = build_forecaster(
            "lightgbm", build_schema(), 1, {"n_trees": n_trees, "min_data_in_leaf": 20}
        )
        forecaster.reused = left
        forecaster.fit(*build_pairs())
    assert len(fitted) == 1


def test_what_ignores_a_column_takes_nothing_from_what_sees_it(tmp_path):
    left, (x, z) = {}, build_pairs()
    for i, ignored in enumerate([(), ("z_std_8",), ()]):
        seen = []
        for reused in (left, None):
            forecaster = build_forecaster(
                "lightgbm", build_schema(), 1, {"min_data_in_leaf": 20, "held_frac": 0.2}
            )
            forecaster.reused = reused
            forecaster.ignore(ignored)
            seen.append(_files(forecaster.fit(x, z), tmp_path / f"{i}{reused is None}"))
        assert seen[0] == seen[1]
