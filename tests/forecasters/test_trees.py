"""Boosted trees: their graph against the library that grew them, losses, weights, early
stopping, categories, warm start, recursion."""

import json

import numpy as np
import onnxruntime as ort
import pytest

from tasks.core.errors import ForecasterError
from tasks.core.schema import SERIES_KEY, FeatureColumn, FeatureSchema, encode_series_id
from tasks.forecasters import build_forecaster, load_forecaster
from tasks.forecasters.graph.subgraph import run_subgraph
from tasks.forecasters.graph.tree_graph import build_tree_graph
from tasks.forecasters.parts.recursive_inputs import RecursiveInputs
from tasks.forecasters.parts.residuals import ResidualPairs
from tasks.forecasters.parts.trees import count_rows_in_reach

LIBRARIES = ("lightgbm", "xgboost", "catboost")
SMALL = {"lightgbm": {"min_data_in_leaf": 20}, "xgboost": {"min_child_weight": 20}, "catboost": {"depth": 4}}
LOSSES = {"squared": {}, "absolute": {"loss": "absolute"}, "quantile": {"loss": "quantile", "quantile": 0.8}}


def schema_of(*free, lags=(1, 2, 3), steps=3, season=1, seasonal=()):
    levels = ["z_last", *(f"z_lag_{k}" for k in lags)]
    columns = [
        FeatureColumn(name=name, role="free" if name in free else "level", lookback_steps=4)
        for name in (*levels, *free)
    ]
    return FeatureSchema(
        columns=tuple(columns), last="z_last", seasonal=seasonal, horizon_steps=steps, season_steps=season
    )


def walk_of(n, steps=3, seed=0, phi=0.8):
    """x (last value and three lags) and z (n, steps) of one autoregression; the newest rows know
    the fewer steps."""
    rng = np.random.default_rng(seed)
    z = np.zeros(n + 10)
    for t in range(1, len(z)):
        z[t] = phi * z[t - 1] + rng.standard_normal()
    at = np.arange(5, 5 + n)
    x = np.column_stack([z[at - k] for k in range(4)]).astype(np.float32)
    ahead = np.column_stack(
        [np.where(at + s <= at[-1] + 1, z[at + s], np.nan) for s in range(1, steps + 1)]
    ).astype(np.float32)
    return x, ahead


def unfitted(name, schema=None, seed=1, **params):
    return build_forecaster(name, schema or schema_of(), seed, {**SMALL[name], "base": "last", **params})


def native_predict(name, native, pairs, tmp_path):
    """What the library itself says, from the file it is saved in."""
    path = tmp_path / "native"
    path.write_bytes(native)
    if name == "lightgbm":
        import lightgbm

        return lightgbm.Booster(model_file=str(path)).predict(pairs.columns)
    if name == "xgboost":
        import xgboost

        kinds = ["c" if k in pairs.categorical.values() else "q" for k in range(pairs.columns.shape[1])]
        return xgboost.Booster(model_file=bytearray(native)).predict(
            xgboost.DMatrix(pairs.columns, feature_types=kinds, enable_categorical=True)
        )
    from catboost import CatBoostRegressor

    return CatBoostRegressor().load_model(str(path), format="json").predict(pairs.columns)


def tree_pairs(n=4000, seed=0, categories=12):
    """Columns on a coarse grid, so that rows lie on thresholds; the last one names; every third
    category adds 2."""
    rng = np.random.default_rng(seed)
    columns = np.column_stack(
        [np.round(rng.standard_normal((n, 3)), 1), rng.integers(0, categories, n)]
    ).astype(np.float32)
    target = (
        columns[:, 0] + np.abs(columns[:, 1]) + 2 * (columns[:, 3] % 3 == 0) + 0.3 * rng.standard_normal(n)
    )
    return ResidualPairs(
        columns, target.astype(np.float32), np.linspace(0.5, 1.5, n, dtype=np.float32), {"named": 3}, 0
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_graph_says_what_the_library_says(name, loss, tmp_path):
    """Also at the thresholds and one float32 beside them, and for categories that the fit has
    never met."""
    pairs = tree_pairs() if name != "catboost" else tree_pairs()._replace(categorical={})
    trees = unfitted(name, **LOSSES[loss])
    native = trees.fit_trees(pairs, 30).native
    nodes, constant = trees.parse_trees(native)
    graph = build_tree_graph(nodes, constant, 4)
    edges = np.array(
        [
            node.value
            for tree in nodes
            for node in tree
            if node.mode in {"BRANCH_LEQ", "BRANCH_LT"} and node.column < 3
        ],
        dtype=np.float32,
    )
    edges = np.concatenate(
        [edges, np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))]
    )
    asked = np.column_stack([edges, np.roll(edges, 1), np.roll(edges, 2), np.arange(len(edges)) % 15]).astype(
        np.float32
    )
    for columns in (pairs.columns, asked):
        expected = native_predict(name, native, pairs._replace(columns=columns), tmp_path)
        np.testing.assert_allclose(run_subgraph(graph, columns)[:, 0], expected, atol=2e-5)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_quantile_loss_learns_the_quantile(name):
    x, z = walk_of(4000)
    fit = unfitted(name, loss="quantile", quantile=0.8, n_trees=100).fit(x[:3000], z[:3000])
    below = np.nanmean((z <= fit.predict(x))[3000:3990])
    assert 0.75 < below < 0.85


@pytest.mark.parametrize("name", LIBRARIES)
def test_rows_that_weigh_nothing_teach_nothing(name):
    schema = schema_of("close_value")
    x, z = walk_of(1500)
    x = np.column_stack([x, np.arange(1500) % 2]).astype(np.float32)
    spoiled = np.where(x[:, -1:] == 0, z + 5, z)
    fit = unfitted(name, schema, weight={"constant": 0, "column": "close_value"}).fit(x, spoiled)
    bias = np.nanmean(fit.predict(x)[x[:, -1] == 1] - z[x[:, -1] == 1])
    assert abs(bias) < 0.3


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_newest_rows_decide_how_many_trees(name):
    """Noise wants few trees, a signal many; both are then fitted on all rows with the number
    that was chosen."""
    x, z = walk_of(2500)
    noise = np.where(
        np.isfinite(z), x[:, :1] + np.random.default_rng(1).standard_normal(z.shape), np.nan
    ).astype(np.float32)
    counts = {}
    for kind, target in {"signal": z, "noise": noise}.items():
        fit = unfitted(name, held_frac=0.2, n_trees=200, patience_trees=10).fit(x, target)
        counts[kind] = len(fit.parse_trees(fit.native)[0])
    assert counts["noise"] < 10 < counts["signal"] < 200


def test_no_pair_of_the_held_part_overlaps_the_fitted_part():
    """40 series, 5 steps: the purge is 5 origins of all of them."""
    n_origins, n_series, steps = 30, 40, 5
    known_until = n_origins  # position of the last value that is known
    origin = np.repeat(np.arange(n_origins), n_series)
    z = np.where(origin[:, None] + np.arange(1, steps + 1) <= known_until, 1.0, np.nan)
    assert count_rows_in_reach(z) == steps * n_series
    with pytest.raises(ForecasterError, match="held_frac"):
        unfitted("lightgbm", held_frac=0.5).fit(*walk_of(4, steps=3))


def keyed(n_rows, series):
    keys = np.array([encode_series_id(s) for s in series], dtype=np.float32)
    return np.repeat(keys[None], n_rows, axis=0).reshape(-1, 2)


@pytest.mark.parametrize("name", LIBRARIES)
def test_categories_are_learned_and_a_stranger_is_answered(name, tmp_path):
    """Half of the series rise by 1 a step: a table of series helps where levels and lags say
    nothing."""
    schema = schema_of("close_value", *SERIES_KEY)
    series, n = [f"s{i}" for i in range(20)], 100
    rng = np.random.default_rng(0)
    x = np.column_stack(
        [rng.standard_normal((20 * n, 4)), rng.integers(0, 3, 20 * n), keyed(n, series)]
    ).astype(np.float32)
    rises = np.tile(np.arange(20) % 2, n)[:, None]
    z = (x[:, :1] + rises * np.arange(1, 4) + 0.1 * rng.standard_normal((20 * n, 3))).astype(np.float32)
    plain, named = (
        unfitted(name, schema, categorical=c, n_trees=100).fit(x, z) for c in ((), ("series", "close_value"))
    )
    errors = [np.mean(np.square(fit.predict(x) - z)) for fit in (plain, named)]
    assert errors[1] < 0.1 * errors[0]
    strange = np.concatenate([x[:20], x[:20]])
    strange[:20, 5:] = encode_series_id("never met")
    strange[10:30, 4] = np.nan
    strange[30:, 4] = 99
    named.save(tmp_path)
    np.testing.assert_array_equal(load_forecaster(tmp_path).predict(strange), named.predict(strange))
    named.to_onnx(tmp_path / "model.onnx")
    served = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]).run(
        ["z_hat"], {"x": strange}
    )[0]
    np.testing.assert_allclose(served, named.predict(strange), atol=1e-5)
    with pytest.raises(ForecasterError, match=r"categorical.*z_lag_1.*no columns of role `free`"):
        unfitted(name, schema, categorical=["z_lag_1"])


def test_a_category_is_coded_by_what_was_known_before():
    """A later target moves no earlier row's code."""
    pairs = tree_pairs(500)._replace(in_reach=7)
    codes = []
    for spoiled in (pairs.target, np.where(np.arange(500) < 300, pairs.target, 99)):
        cat = unfitted("catboost", schema_of("close_value"), categorical=["close_value"])
        cat.learned["categories.close_value"] = np.arange(12, dtype=np.float32)
        codes.append(
            cat.encode_pairs(pairs._replace(target=spoiled, categorical={"close_value": 3})).columns[:, 3]
        )
    np.testing.assert_array_equal(codes[0][:307], codes[1][:307])
    assert (codes[0][320:] != codes[1][320:]).mean() > 0.9


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_warm_start_adds_its_trees_and_keeps_the_earlier_ones(name, tmp_path):
    x, z = walk_of(3000)
    first = unfitted(name, n_trees=10).fit(x[:1500], z[:1500])
    on = unfitted(name, more_trees=15, max_trees=40).fit(x, z, start=first)
    assert [len(f.parse_trees(f.native)[0]) for f in (first, on)] == [10, 25]
    columns = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    kept, there = (
        run_subgraph(build_tree_graph(f.parse_trees(f.native)[0][:10], 0.0, 6), columns) for f in (on, first)
    )
    np.testing.assert_array_equal(kept, there)
    errors = [np.nanmean(np.square(f.predict(x) - z)) for f in (first, on)]
    assert errors[1] < errors[0]
    on.save(tmp_path)
    again = unfitted(name, more_trees=15, max_trees=40).fit(x, z, start=load_forecaster(tmp_path))
    assert len(again.parse_trees(again.native)[0]) == 40
    with pytest.raises(ForecasterError, match=r"40 trees, and 15 more.*exceed `max_trees: 40`"):
        unfitted(name, more_trees=15, max_trees=40).fit(x, z, start=again)
    with pytest.raises(ForecasterError, match=r"feature schema.* must be the same"):
        unfitted(name, schema_of(steps=2)).fit(x, z[:, :2], start=first)
    with pytest.raises(ForecasterError, match=r"`loss`.* must be the same"):
        unfitted(name, loss="absolute").fit(x, z, start=first)


def test_rows_move_on_exactly_where_they_can():
    """Moving a row by what comes true gives the row that many steps later, in every column that
    is called movable."""
    schema = schema_of(
        "calendar_weekday",
        lags=(1, 2, 3, 9),
        steps=4,
        season=2,
        seasonal=("z_lag_1", "z_last", "z_lag_1", "z_last"),
    )
    z = np.random.default_rng(0).standard_normal(60).astype(np.float32)
    at = np.arange(10, 50)
    # One line of a test
    rows = lambda now: np.column_stack([*(z[now - k] for k in (0, 1, 2, 3, 9)), now % 7]).astype(np.float32)  # noqa: E731
    moving = RecursiveInputs(schema)
    assert moving.columns == ("z_last", "z_lag_1", "z_lag_2", "z_lag_3")
    for steps in range(4):
        ahead = [z[at + s][:, None] for s in range(1, steps + 1)]
        moved = moving.build_next_inputs(rows(at), ahead)
        np.testing.assert_array_equal(moved[:, :4], rows(at + steps)[:, :4])
        np.testing.assert_array_equal(moving.season(rows(at), ahead, moved[:, :1])[:, 0], z[at + steps - 1])


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_recursive_forecast_is_the_one_step_forecast_repeated(name):
    x, z = walk_of(1500)
    fit = unfitted(name, strategy="recursive").fit(x, z)
    one = unfitted(name, schema_of(steps=1)).fit(x, z[:, :1])
    rows, ahead = x[:50], []
    for _ in range(3):
        ahead.append(one.predict(rows)[:, 0])
        rows = np.column_stack([ahead[-1], rows[:, :3]])
    np.testing.assert_array_equal(fit.predict(x[:50]), np.column_stack(ahead))
    with pytest.raises(ForecasterError, match=r"repeats its base too.*'ridge'"):
        unfitted(name, strategy="recursive", base="ridge")
    with pytest.raises(ForecasterError, match=r"cannot advance.*calendar_weekday"):
        unfitted(name, schema_of("calendar_weekday"), strategy="recursive", categorical=["calendar_weekday"])


def test_catboost_writes_no_time_and_no_random_id():
    x, z = walk_of(800)
    assert json.loads(unfitted("catboost").fit(x, z).native)["model_info"] == {}


def test_a_step_sees_the_value_so_many_steps_before_its_own_time():
    """A series that repeats what was five steps before: with that value beside each step the
    trees are right, without it they guess."""
    y = np.random.default_rng(5).normal(size=5).repeat(1)[np.arange(900) % 5] * (
        1 + 0.5 * (np.arange(900) // 5 % 2)
    )
    at = np.arange(12, 880)
    names = ["z_last", *(f"z_lag_{k}" for k in range(1, 10))]
    schema = FeatureSchema(
        columns=tuple(FeatureColumn(name=n, role="level", lookback_steps=9) for n in names),
        last="z_last",
        horizon_steps=7,
        season_steps=1,
    )
    x = np.column_stack([y[at - k] for k in range(10)]).astype(np.float32)
    z = np.column_stack([y[at + s] for s in range(1, 8)]).astype(np.float32)
    own = {"base": "last", "min_data_in_leaf": 5, "columns": ["z_lag_1"], "n_trees": 100}
    errors = [
        np.abs(
            build_forecaster("lightgbm", schema, 1, own | more).fit(x[:600], z[:600]).predict(x[600:])
            - z[600:]
        ).mean()
        for more in ({}, {"aligned_steps": [10]})
    ]
    assert errors[1] < 0.2 * errors[0]
    with pytest.raises(
        ForecasterError,
        match=(
            r"`aligned_steps` of LightGbm has 12, which needs z_lag_10 to z_lag_11 \(2 columns are missing\)"
        ),
    ):
        build_forecaster("lightgbm", schema, 1, {"aligned_steps": [12]})
