"""The one graph of a release against its forecasters, and against its members' own graphs."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper
from sign_kind import SignKind
from small_release import SMALL_FEATURES, build_small_body, small_about, small_features, small_rows

from tasks.core.calendar import build_calendar
from tasks.core.dataset import Dataset
from tasks.core.errors import ReleaseError
from tasks.core.folds import WalkForward
from tasks.core.kinds import KINDS
from tasks.core.panel import build_panel
from tasks.core.schema import encode_series_id
from tasks.features import build_feature_schema, build_features
from tasks.forecasters import build_forecaster
from tasks.package.assemble import build_release
from tasks.package.ensemble_graph import build_ensemble_graph, check_ensemble_graph
from tasks.quantize.parity import MAX_PARITY_SD
from tasks.release import load_release, load_unsealed_release, predict_cutoffs
from tasks.release.combine import Ranks, Recency, Regime, Weights
from tasks.release.load import load_graph
from tasks.release.outputs import run_outputs

N_ROWS = 10_000
SHORT = {"epochs": 1, "batch_rows": 512}
FORECASTERS = {
    "last_value": {},
    "seasonal_naive": {},
    "ridge": {},
    "lightgbm": {"min_data_in_leaf": 20},
    "xgboost": {},
    "catboost": {},
    "mlp": SHORT,
    "gru": SHORT,
    "lstm": SHORT,
    "patch_transformer": SHORT | {"patch_steps": 2, "size": 16, "inside_size": 16},
}
MEMBERS = ("last_value", "ridge", "window_mean")
FEATURES = small_features(list=[*SMALL_FEATURES["list"], {"kind": "series"}])


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_graph") / "body"
    return load_unsealed_release(
        build_small_body(folder, small_rows(), weights=dict.fromkeys(MEMBERS, 1 / 3), features=FEATURES)
    )


@pytest.fixture(scope="module")
def panel(body):
    rows, about = small_rows(), small_about()
    calendar = build_calendar(about, reach=(rows["event_time"].min(), rows["event_time"].max()))
    dataset = Dataset(about, calendar, build_feature_schema(about, FEATURES))
    return build_panel(build_features(rows, about, FEATURES, calendar), dataset)


def build_rows(x, schema, thresholds, rng):
    """10,000 rows: of the data, at the thresholds of trees and next to them, with unknown features,
    and at levels of 1e8 and 1e-8."""
    rows = x[rng.integers(0, len(x), N_ROWS)] * rng.choice([0.5, 1, 2], (N_ROWS, 1)).astype(np.float32)
    for row, (column, value) in zip(rows, thresholds, strict=False):
        away = np.float32(rng.choice([-np.inf, value, np.inf]))
        row[column] = np.nextafter(np.float32(value), away)
    rows[5000:7000] *= np.float32(1e8)
    rows[7000:9000] *= np.float32(1e-8)
    rows[rng.random(rows.shape) < 0.05] = np.nan
    last = schema.index(schema.last)
    rows[:, last] = np.where(np.isnan(rows[:, last]), 1.0, rows[:, last])
    return rows


def find_thresholds(graph):
    """(column, value) of each split of the trees of *graph*, again and again."""
    splits = []
    for node in onnx.load_from_string(graph).graph.node:
        if node.op_type == "TreeEnsembleRegressor":
            of = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            modes = [mode.decode() for mode in of["nodes_modes"]]
            found = zip(modes, of["nodes_featureids"], of["nodes_values"], strict=True)
            splits += [(column, value) for mode, column, value in found if mode != "LEAF"]
    return splits * (5000 // len(splits)) if splits else []


@pytest.mark.parametrize("level", [1.0, 1e8, 1e-8])
def test_the_one_graph_gives_what_the_forecasters_give_on_ten_thousand_rows(level, body, panel, tmp_path):
    walk = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=1)
    x, z = (np.float32(level) * of for of in panel.get_training_pairs(len(panel.event_time) - 1, walk))
    fits, graphs = {}, {}
    for name, params in FORECASTERS.items():
        fits[name] = build_forecaster(name, panel.schema, 1, params).fit(x, z)
        fits[name].to_onnx(tmp_path / "model.onnx")
        graphs[name] = (tmp_path / "model.onnx").read_bytes()
    rng = np.random.default_rng(5)
    rows = build_rows(x, panel.schema, find_thresholds(graphs["lightgbm"]), rng)
    shares = rng.dirichlet(np.ones(len(fits)))
    weights = dict(zip(sorted(fits), shares.tolist(), strict=True))
    release = replace(body, ensemble=body.ensemble.model_copy(update={"weights": weights}), members={})
    built = build_ensemble_graph(release, graphs)
    assert built.left_out == ()
    release = replace(release, graph=load_graph(built.content, "ensemble.onnx"))
    outputs = ["z_hat", *(f"z_hat_{name}" for name in weights)]
    native = np.stack([fits[name].predict(rows) for name in weights]).astype(np.float64)
    expected = [np.average(native, axis=0, weights=shares), *native]
    unit = np.maximum(np.nanstd(z), np.abs(native).max(axis=0))
    for output, actual, of_native in zip(outputs, run_outputs(release, rows, outputs), expected, strict=True):
        assert np.isfinite(actual).all(), output
        assert (np.abs(actual - of_native) / unit).max() <= MAX_PARITY_SD, output
    trees = [i for i, name in enumerate(weights) if name in {"lightgbm", "xgboost", "catboost"}]
    for i in trees:
        np.testing.assert_array_equal(run_outputs(release, rows, outputs[i + 1 : i + 2])[0], native[i])


CALM, WILD = (((0.1,) * 5, (0.6,) * 5, (0.3,) * 5), ((0.8,) * 5, (0.1,) * 5, (0.1,) * 5))
COMBINED = {
    "by_step": Weights(
        members=MEMBERS, table=(((0.1, 0.2, 0.3, 0.4, 0.5), (0.9, 0.8, 0.7, 0.6, 0.5), (0,) * 5),)
    ),
    "median": Ranks(members=MEMBERS, table=((0, 0, 0), (1, 0, 0), (0.5, 0.5, 0), (0, 1, 0))),
    "regime": Weights(
        members=MEMBERS, table=(CALM, WILD), regime=Regime(column="z_last", above=(0.0,)), whole=True
    ),
    "series": Weights(
        members=MEMBERS,
        table=(CALM, WILD, CALM[::-1]),
        series=tuple(sorted(map(encode_series_id, ("north", "south")))),
    ),
    "signs": Weights(members=MEMBERS, table=(((1.4,), (-0.7,), (0.3,)),), whole=True),
}


def read_graphs(release):
    return {name: (release.folder / f"members/{name}.onnx").read_bytes() for name in release.members}


def with_graph(release, **changes):
    release = replace(release, **changes)
    graphs = read_graphs(release)
    built = build_ensemble_graph(release, graphs)
    check_ensemble_graph(release, graphs, built.content)
    return replace(release, graph=load_graph(built.content, "ensemble.onnx"), members={})


class Given:
    """A session whose output is given: what members that know nothing return."""

    def __init__(self, z_hat):
        self.z_hat = z_hat

    def run(self, outputs, inputs):
        return [self.z_hat]


@pytest.mark.parametrize(("kind", "combination"), COMBINED.items(), ids=list(COMBINED))
@given(
    z_hats=arrays(np.float32, (6, 3, 5), elements=st.floats(-5, 5, width=32) | st.just(np.nan)),
    seed=st.integers(0, 100),
)
@settings(max_examples=15, deadline=None)
def test_members_are_combined_in_the_graph_as_outside_of_it(kind, combination, z_hats, seed, body):
    """Members that copy features: the combination sees any value, unknown ones too."""
    spec = body.ensemble.model_copy(update={"combination": combination})
    release = replace(body, ensemble=spec)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, len(body.schema.columns))).astype(np.float32)
    names = body.schema.names
    for half, name in enumerate(("series_key_high", "series_key_low")):
        keys = [encode_series_id(series)[half] for series in ("north", "south", "west")]
        x[:, names.index(name)] = np.array(keys)[rng.integers(0, 3, 6)] if seed % 3 else np.nan
    outside = apply_by_hand(release, z_hats, x)
    np.testing.assert_allclose(run_copied(release, z_hats, x), outside, rtol=1e-12, atol=1e-12)


def apply_by_hand(release, z_hats, x):
    sessions = {name: Given(z_hats[:, i]) for i, name in enumerate(MEMBERS)}
    return run_outputs(replace(release, members=sessions), x, ["z_hat"])[0]


def run_copied(release, z_hats, x):
    """By a graph whose members are constants of these values: `z_hats` stand in its bytes."""
    graphs = {}
    for i, name in enumerate(MEMBERS):
        node = onnx.helper.make_node("Identity", ["value"], ["z_hat"])
        info = [
            onnx.helper.make_tensor_value_info(label, onnx.TensorProto.FLOAT, ["n", width])
            for label, width in (("x", x.shape[1]), ("z_hat", 5))
        ]
        value = numpy_helper.from_array(np.ascontiguousarray(z_hats[:, i]), "value")
        graph = onnx.helper.make_graph([node], name, info[:1], info[1:], [value])
        opsets = [onnx.helper.make_opsetid("", 18)]
        graphs[name] = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    content = build_ensemble_graph(release, graphs).content
    return run_outputs(replace(release, graph=load_graph(content, "g"), members={}), x, ["z_hat"])[0]


def test_own_quantiles_are_an_output_and_moving_weights_stay_outside(tmp_path):
    rows = small_rows()
    named = {"0.1": ["low", "lower"], "0.9": ["high"]}
    for kind, changes in {"cqr": {"quantile_members": named}, "recent": {"combination": recent()}}.items():
        folder = tmp_path / kind
        release = load_unsealed_release(
            build_small_body(folder, rows, weights=dict.fromkeys(MEMBERS, 1 / 3), **changes)
        )
        one = with_graph(release)
        assert one.graph_outputs >= {f"z_hat_{name}" for name in release.members}
        assert ("z_hat" in one.graph_outputs, "bases" in one.graph_outputs) == (
            kind != "recent",
            kind == "cqr",
        )
        cutoffs = rows["known_at"].unique().sort()[-30::10].to_list()
        expected, actual = (predict_cutoffs(r, rows, cutoffs) for r in (release, one))
        assert actual.height == expected.height > 0
        for column in release.kind.list_columns(release.about):
            np.testing.assert_allclose(actual[column], expected[column], rtol=1e-12, err_msg=column)


def recent():
    return Weights(members=MEMBERS, table=(CALM,), recent=Recency(half_life_cutoffs=20)).model_dump()


def test_a_member_of_another_opset_keeps_a_graph_of_its_own_and_a_kind_with_a_link_its_combination(
    tmp_path, body, monkeypatch
):
    graphs = read_graphs(body)
    other = onnx.load_from_string(graphs["ridge"])
    other.opset_import[0].version = 17
    unsealed = tmp_path / "unsealed"
    build_small_body(unsealed, small_rows(), weights=dict.fromkeys(MEMBERS, 1 / 3), features=FEATURES)
    (unsealed / "members/ridge.onnx").write_bytes(other.SerializeToString())
    manifest = build_release(unsealed, tmp_path, small_rows(), 400, tmp_path / "release")
    assert {"ensemble.onnx", "members/ridge.onnx"} <= manifest.files.keys()
    assert "members/last_value.onnx" not in manifest.files
    served, cutoffs = (
        load_release(tmp_path / "release"),
        small_rows()["known_at"].unique().sort()[-3:].to_list(),
    )
    assert served.graph_outputs == {"z_hat_last_value", "z_hat_window_mean"}
    expected = predict_cutoffs(load_unsealed_release(unsealed), small_rows(), cutoffs)
    assert predict_cutoffs(served, small_rows(), cutoffs).equals(expected)
    (tmp_path / "release/members/ridge.onnx").unlink()
    with pytest.raises(ReleaseError, match=r"ridge\.onnx is missing"):
        load_release(tmp_path / "release")
    monkeypatch.setattr(type(body.kind), "link", SignKind().link)
    assert with_graph(body).graph_outputs == {f"z_hat_{name}" for name in MEMBERS}
    assert "sign" not in KINDS


def test_the_same_members_give_the_same_bytes_and_share_what_is_equal(body):
    graphs = read_graphs(body)
    first, again = (build_ensemble_graph(body, graphs).content for _ in range(2))
    assert first == again
    twice = build_ensemble_graph(body, {**graphs, "copy": graphs["ridge"]}).content
    assert len(twice) - len(first) < 200


def test_a_graph_that_gives_other_numbers_is_refused_with_its_output(body):
    graphs = read_graphs(body)
    swapped = {**graphs, "ridge": graphs["last_value"]}
    content = build_ensemble_graph(body, swapped).content
    with pytest.raises(ReleaseError, match=r"'z_hat' with a difference of .*; at most 1e-06"):
        check_ensemble_graph(body, graphs, content)
