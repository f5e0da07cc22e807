"""The other methods on functions whose answer is known."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from support.small_release import build_small_body, small_rows

from tasks.explain.background import build_table, run_members
from tasks.explain.importance import select_outcomes, select_spread
from tasks.explain.methods import (
    compute_curves,
    compute_lime,
    compute_permutation_importance,
    compute_rank_agreement,
)
from tasks.explain.params import ExplainParams
from tasks.explain.stage import explain_release
from tasks.release import load_unsealed_release

COEFFICIENTS = np.array([[3.0, 1.0], [0.0, -2.0], [0.5, 0.0], [0.0, 0.0]])  # of 4 columns for 2 steps


def linear(x):
    return x.astype(np.float64) @ COEFFICIENTS


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    return load_unsealed_release(build_small_body(tmp_path_factory.mktemp("methods") / "body", small_rows()))


@pytest.fixture(scope="module")
def found(body):
    return explain_release(body, small_rows(), ExplainParams(n_sample=30, n_background=8))


def test_a_column_costs_what_its_exchange_does_to_a_perfect_forecast():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 4))
    truth = linear(x)
    truth[::7, 1] = np.nan
    cost = compute_permutation_importance(linear, x, truth, [0, 1, 2, 3], rng)
    # |c| E|a - b| of two standard normals, over the steps that have an outcome
    share = np.isfinite(truth).mean(axis=0) / np.isfinite(truth).mean() / 2
    np.testing.assert_allclose(cost, np.abs(COEFFICIENTS) @ share * 2 / np.sqrt(np.pi), rtol=0.05)


def test_a_column_moves_with_the_one_that_it_is_tied_to():
    x = np.random.default_rng(0).standard_normal((200, 2))
    x[:, 1] = -x[:, 0]
    together = compute_permutation_importance(
        lambda rows: rows.sum(axis=1, keepdims=True),
        x,
        np.zeros((200, 1)),
        [0],
        np.random.default_rng(1),
        {1: 0},
    )
    assert together == pytest.approx([0.0], abs=1e-12)


def test_the_local_model_of_a_linear_function_is_its_distance_from_the_background():
    rng = np.random.default_rng(0)
    row, background = rng.standard_normal(4), rng.standard_normal((1, 4))
    local = compute_lime(linear, row, background, [0, 1, 2, 3], rng)
    np.testing.assert_allclose(local, COEFFICIENTS * (row - background[0])[:, None], rtol=0.02, atol=0.01)


def test_curves_are_the_function_along_one_column():
    x = np.random.default_rng(0).standard_normal((50, 4))
    x[3, 0] = np.nan
    curves = compute_curves(lambda rows: np.nan_to_num(rows[:, :1]) ** 2 + rows[:, 1:2], x, 0)
    np.testing.assert_allclose(curves.rows, curves.values**2 + x[:, 1:2])
    assert (np.diff(curves.values) > 0).all()
    assert compute_curves(linear, np.full((5, 4), np.nan), 0).rows.shape == (5, 0)


def test_rank_agreement_is_one_for_one_order_and_nothing_where_nothing_is_ranked():
    assert compute_rank_agreement(np.array([1.0, 5, 2]), np.array([0.1, 9, 0.2])) == pytest.approx(1)
    assert compute_rank_agreement(np.array([1.0, 5, 2]), np.array([3.0, 1, 2])) == pytest.approx(-1)
    assert compute_rank_agreement(np.array([1.0, 5, 2]), np.zeros(3)) is None


def test_outcomes_are_the_rows_that_came_after(body):
    rows = small_rows()
    table = build_table(body, rows)
    picked = table.filter(pl.col(body.schema.last).is_not_null())[[5, 150, -3, -1]]
    outcomes = select_outcomes(body, table, picked)
    load = {(row["series_id"], row["event_time"]): row["load"] for row in rows.iter_rows(named=True)}
    centre = body.schema.get_centres(picked["series_id"].to_list())
    for i, (series, time) in enumerate(picked.select("series_id", "event_time").iter_rows()):
        for step in range(body.schema.horizon_steps):
            later = load.get((series, time + timedelta(days=step + 1)))
            expected = np.nan if later is None else np.log(later) - centre[i]
            assert outcomes[i, step] == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_few_rows_are_spread_over_all_series_and_times():
    x = np.arange(60)[:, None]
    assert select_spread(x, 4).ravel().tolist() == [0, 19, 39, 59]
    assert select_spread(x, 100).shape == x.shape
    assert select_spread(x[:0], 4).shape == (0, 1)


def test_every_figure_of_a_feature_is_of_the_same_parts(body, found):
    for feature in found.importance.root:
        assert np.mean(feature.by_step) == pytest.approx(feature.mean_abs_part)
        assert set(feature.by_member) == set(body.combination.members)
        assert feature.permutation is not None
        assert feature.lime is not None
    assert set(found.summary.agreement) == {"permutation", "lime"}
    assert min(found.summary.agreement.values()) > 0.5
    read_by_last_value = [f.feature for f in found.importance.root if f.by_member["last_value"] > 0]
    assert read_by_last_value == [body.schema.last]


def test_curves_of_the_strongest_features_pass_through_the_forecasts(body, found):
    strongest = [feature.feature for feature in found.importance.root[:6]]
    assert found.curves["feature"].unique(maintain_order=True).to_list() == strongest
    by_row = found.curves.group_by("feature", "series_id", "cutoff").len()
    assert by_row["len"].max() <= 12
    assert run_members(body, np.zeros((0, len(body.schema.names)), np.float32)).shape[0] == 0
