"""Explain on a small release: parts of a linear ensemble are known exactly, and those of any
function by brute force."""

import json
import math
from itertools import combinations

import numpy as np
import polars as pl
import pytest
import yaml
from support.small_release import build_small_body, small_about, small_rows

from tasks.core.errors import StageError
from tasks.core.frames import SERIES
from tasks.edges.artifacts import write_frame
from tasks.explain.__main__ import main
from tasks.explain.params import ExplainParams
from tasks.explain.shapley import compute_shapley, decide_budget, find_used_columns
from tasks.explain.stage import explain_release
from tasks.features import build_features
from tasks.release import load_unsealed_release, predict_cutoffs, predict_ensemble


@pytest.fixture(scope="module")
def rows():
    return small_rows()


@pytest.fixture(scope="module")
def body(tmp_path_factory, rows):
    return load_unsealed_release(build_small_body(tmp_path_factory.mktemp("explained") / "body", rows))


@pytest.fixture(scope="module")
def found(body, rows):
    return explain_release(body, rows, ExplainParams(n_sample=12, n_background=8))


def kinked(x):
    """Three columns that interact, one that is not read; NaN counts as 0."""
    a, b, c, _ = np.nan_to_num(x.astype(np.float64)).T
    return np.column_stack([np.maximum(a, b) * c, np.sin(a * b), a])


def brute_force(f, row, background):
    """Shapley's own formula over all coalitions."""
    n = len(row)

    def worth(coalition):
        mixed = background.copy()
        mixed[:, list(coalition)] = row[list(coalition)]
        return f(mixed).mean(axis=0)

    parts = np.zeros((n, len(worth(()))))
    for j in range(n):
        others = [k for k in range(n) if k != j]
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            parts[j] += weight * sum(worth((*s, j)) - worth(s) for s in combinations(others, size))
    return parts


def x_of(body, rows, picked, name):
    table = build_features(rows, body.about, body.features, body.calendar).with_columns(
        cutoff=body.calendar.nominal_known_at()
    )
    return (
        picked.select("series_id", "cutoff")
        .join(table, on=["series_id", "cutoff"], maintain_order="left")[name]
        .to_numpy()
    )


def test_parts_converge_to_shapleys_own_formula():
    rng = np.random.default_rng(0)
    x, background = rng.standard_normal((2, 4)), rng.standard_normal((5, 4))
    explained = compute_shapley(kinked, x, background, np.array([0, 1, 2]), 400, seed=1)
    for row, parts in zip(x, explained.parts, strict=True):
        np.testing.assert_allclose(parts, brute_force(kinked, row, background), atol=0.03)
    assert explained.gap.max() < 1e-12


def test_parts_add_up_however_few_orders_are_tried():
    rng = np.random.default_rng(0)
    explained = compute_shapley(
        kinked, rng.standard_normal((20, 4)), rng.standard_normal((5, 4)), np.array([0, 1, 2]), 1, seed=1
    )
    assert explained.gap.max() < 1e-12
    assert (explained.parts[:, 3] == 0).all()


def test_a_column_that_is_not_read_is_found_and_missing_values_are_bearable():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 4))
    x[::3, 1] = np.nan
    assert find_used_columns(kinked, x, rng.standard_normal((5, 4))).tolist() == [0, 1, 2]


def test_the_budget_buys_orders_first_for_all_rows_then_rows():
    assert decide_budget(10, 9, 5, 2, 10**9) == (10, 10)
    assert decide_budget(10, 9, 5, 2, 4_000) == (10, 2)
    assert decide_budget(10, 9, 5, 2, 500) == (2, 1)
    assert decide_budget(10, 9, 5, 2, 1) == (1, 1)


def test_a_linear_ensembles_parts_are_its_weights_times_the_distance_from_the_background(body, rows):
    """Every member included: the coefficients are read off the whole release, by its own
    differences."""
    found = explain_release(body, rows, ExplainParams(n_sample=5, n_background=6))
    at_zero = np.zeros((1, len(body.schema.names)), dtype=np.float32)
    slope = {
        name: (
            predict_ensemble(body, at_zero + np.eye(len(at_zero[0]), dtype=np.float32)[j])
            - predict_ensemble(body, at_zero)
        )[0]
        for j, name in enumerate(body.schema.names)
    }
    parts = found.attributions.pivot(
        "feature", index=["series_id", "cutoff", "is_last", "step", "base", "z_hat"], values="part"
    )
    one_step = parts.filter(pl.col("step") == 1)
    for name in found.attributions["feature"].unique():
        moved = one_step[name].to_numpy()
        values = x_of(body, rows, one_step, name)
        distance = values[:, None] - values[None, :]
        np.testing.assert_allclose(moved[:, None] - moved[None, :], slope[name][0] * distance, atol=2e-5)


def test_base_and_parts_are_the_forecast_that_the_release_makes(body, rows, found):
    last = (
        found.attributions.filter("is_last")
        .group_by("series_id", "cutoff", "step", "event_time", "base", "z_hat")
        .agg(pl.col("part").sum())
        .sort("series_id", "step")
    )
    np.testing.assert_allclose(last["base"] + last["part"], last["z_hat"], atol=1e-4)
    made = predict_cutoffs(body, rows, [last["cutoff"][0]]).sort("series_id", "step")
    assert made.select("series_id", "cutoff", "event_time").equals(
        last.select("series_id", "cutoff", "event_time")
    )
    # What is left is the level factor
    np.testing.assert_allclose(np.exp(last["z_hat"]) / made["y_hat"], 1, atol=0.1)


def test_the_last_forecast_of_every_series_and_the_sample_are_explained_at_every_step(body, found):
    counts = (
        found.attributions.group_by("is_last")
        .agg(pl.struct("series_id", "cutoff", "step").n_unique())
        .sort("is_last")
    )
    assert counts["series_id"].to_list() == [12 * 5, 2 * 5]
    assert found.summary.series_last == ("north", "south")
    assert set(found.summary.unread) | set(found.attributions["feature"]) == set(body.schema.names)
    sizes = [entry.mean_abs_part for entry in found.importance.root]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0


def test_importance_is_the_mean_size_of_the_samples_parts(found):
    sample = (
        found.attributions.filter(~pl.col("is_last")).group_by("feature").agg(pl.col("part").abs().mean())
    )
    expected = dict(sample.iter_rows())
    assert {e.feature: pytest.approx(expected[e.feature]) for e in found.importance.root} == {
        e.feature: e.mean_abs_part for e in found.importance.root
    }


def test_a_small_budget_explains_fewer_rows_last_forecasts_first(body, rows):
    found = explain_release(body, rows, ExplainParams(n_sample=12, n_background=8, max_evaluations=6_000))
    assert (found.summary.n_last, found.summary.n_orders) == (2, 1)
    assert 0 < found.summary.n_sample < 12


def test_a_series_that_ended_is_left_out_of_the_last_forecasts(body, rows):
    shorter = rows.filter(
        (pl.col("series_id") == "north")
        | (pl.col("event_time") < rows["event_time"].max() - pl.duration(days=20))
    )
    found = explain_release(body, shorter, ExplainParams(n_sample=3, n_background=4))
    assert found.summary.series_last == ("north",)


def test_parts_that_do_not_add_up_stop_the_stage(body, rows):
    class Moody:
        """A member whose result depends on what else is in the batch."""

        def __init__(self, session):
            self.session = session

        def run(self, outputs, inputs):
            return [self.session.run(outputs, inputs)[0] + len(inputs["x"]) / 1000]

    from dataclasses import replace

    moody = replace(body, members={name: Moody(session) for name, session in body.members.items()})
    with pytest.raises(StageError, match=r"miss z_hat by .* for series '(north|south)' at \d{4}-"):
        explain_release(moody, rows, ExplainParams(n_sample=3, n_background=4))


def test_a_column_that_is_read_in_rare_rows_alone_still_gets_its_part(body, rows, monkeypatch):
    """The shortcut for unread columns may miss one; then all columns are followed, and the parts
    add up all the same."""
    monkeypatch.setattr(
        "tasks.explain.stage.find_used_columns", lambda _f, x, _background: np.arange(x.shape[1])[:2]
    )
    found = explain_release(body, rows, ExplainParams(n_sample=3, n_background=4))
    assert found.summary.unread == ()
    assert found.summary.max_abs_gap < 1e-6


def test_rows_without_any_value_are_refused_with_the_reason(body, rows):
    with pytest.raises(StageError, match="no row of 2 series has a value"):
        explain_release(body, rows.with_columns(load=pl.lit(None, pl.Float64)), ExplainParams())


def test_the_stage_writes_its_tables_the_same_twice(tmp_path, rows, capsys):
    build_small_body(tmp_path / "models/challenger/challenger", rows)
    write_frame(tmp_path / "data/clean/rows.parquet", rows, SERIES)
    sections = (
        "ingest",
        "validate",
        "features",
        "train",
        "ensemble",
        "quantize",
        "package",
        "promote",
        "monitor",
        "retrain",
    )
    entry = {
        "about": small_about().model_dump(mode="json"),
        "models": {},
        "explain": {"n_sample": 4},
        **{s: {} for s in sections},
    }
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(
            {"dataset": "d", "models": [], "explain": {"n_background": 5}, "datasets": {"d": entry}}
        )
    )
    main(tmp_path)
    folder = tmp_path / "data/reports/explain"
    assert {f.name for f in folder.iterdir()} == {
        "attributions.parquet",
        "curves.parquet",
        "importance.json",
        "summary.json",
    }
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["max_abs_gap"] < 1e-4
    assert (summary["n_sample"], summary["n_background"]) == (4, 5)
    assert "2 last forecasts and 4 others" in capsys.readouterr().out
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    main(tmp_path)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_halves_of_one_fact_move_together_and_the_leader_gets_the_part():
    """A function that knows only whole keys is never asked about half of one from here and half
    from there."""
    worth = {(1.0, 2.0): 5.0, (3.0, 4.0): -1.0}

    def f(x):
        return np.array([[worth[high, low] + z] for z, high, low in x.tolist()])

    background = np.array([[0.0, 1.0, 2.0], [0.0, 3.0, 4.0]])
    explained = compute_shapley(
        f, np.array([[2.0, 1.0, 2.0]]), background, np.arange(3), 3, seed=1, tied={2: 1}
    )
    assert explained.parts[0, :, 0].tolist() == [2.0, 3.0, 0.0]
    assert explained.gap.max() == 0
