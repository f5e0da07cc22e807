import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper
from small_release import (
    SMALL_ABOUT,
    SMALL_FEATURES,
    build_small_body,
    small_about,
    small_features,
    small_rows,
)

from tasks.core.calendar import build_calendar
from tasks.core.dataset import Dataset
from tasks.core.errors import ReleaseError
from tasks.core.folds import WalkForward
from tasks.core.panel import build_panel
from tasks.core.scores import pinball, squared_error
from tasks.core.transform import inverse_transform_target
from tasks.edges.params import STAGES
from tasks.features import build_feature_schema, build_features
from tasks.forecasters import build_forecaster
from tasks.package.assemble import build_release
from tasks.quantize.__main__ import main
from tasks.quantize.int8 import GraphComparison, decide_precision, open_graph, write_int8
from tasks.quantize.params import QuantizeParams
from tasks.quantize.parity import MAX_PARITY_SD, build_gate_rows, run_graph
from tasks.quantize.stage import quantize_nets
from tasks.release import load_release, load_unsealed_release, predict_cutoffs

GATE_STEPS = 60
SHORT = {"epochs": 4, "batch_rows": 64}
NETS = {
    "mlp": SHORT | {"hidden_sizes": [64, 64]},
    "nlinear": SHORT,
    "gru": SHORT,
    "lstm": SHORT | {"layers": 2},
    "patch_transformer": SHORT | {"patch_steps": 2, "size": 32, "inside_size": 64},
}
PARAMS = NETS | {
    "low": SHORT | {"forecaster": "gru", "loss": "quantile", "quantile": 0.1},
    "tiny": {"forecaster": "mlp", "hidden_sizes": [1], "epochs": 1},
    "lightgbm": {"min_data_in_leaf": 20},
}


@pytest.fixture(scope="module")
def panel():
    about, rows = small_about(), small_rows()
    calendar = build_calendar(about, reach=(rows["event_time"].min(), rows["event_time"].max()))
    features = small_features()
    dataset = Dataset(about, calendar, build_feature_schema(about, features))
    return build_panel(build_features(rows, about, features, calendar), dataset)


@pytest.fixture(scope="module")
def fits(panel, tmp_path_factory):
    """models/fits of every kind of net, trees and ridge, as of the step before the gate's rows."""
    folder = tmp_path_factory.mktemp("fits")
    walk = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=1)
    x, z = panel.training(len(panel.event_time) - 1 - GATE_STEPS, walk)
    for name in ("ridge", *PARAMS):
        (folder / name).mkdir()
        params = dict(PARAMS.get(name, {}))
        fit = build_forecaster(params.pop("forecaster", name), panel.schema, 1, params).fit(x, z)
        fit.save(folder / name)
        fit.to_onnx(folder / name / "model.onnx")
    return folder


@pytest.fixture
def checkout(tmp_path, panel, fits):
    """A function that lays out a checkout whose challenger has the weights given."""

    def lay(
        weights, models=("ridge", "lightgbm", "mlp"), max_error_frac=0.01, fitted=(), quantile_members=()
    ):
        """fitted: model -> whose fit it has, where its name is not that of its kind."""
        root, rows = tmp_path / "root", small_rows()
        body = build_small_body(root / "models/challenger/challenger", rows, GATE_STEPS)
        shutil.rmtree(body / "members")
        (body / "members").mkdir()
        for name in [*weights, *(name for names in dict(quantile_members).values() for name in names)]:
            shutil.copyfile(
                fits / dict(fitted).get(name, name) / "model.onnx", body / "members" / f"{name}.onnx"
            )
        blend = json.loads((body / "ensemble.json").read_text())
        (body / "ensemble.json").write_text(
            json.dumps(blend | {"weights": weights, "quantile_members": dict(quantile_members)})
        )
        shutil.copytree(fits, root / "models/fits")
        for name, kind in dict(fitted).items():
            shutil.copytree(fits / kind, root / "models/fits" / name)
        (root / "data/features").mkdir(parents=True)
        build_table(rows).write_parquet(root / "data/features/table.parquet")
        entry = {
            "about": SMALL_ABOUT,
            "models": {name: {} for name in models},
            **{stage: {} for stage in STAGES},
            "features": SMALL_FEATURES,
        }
        document = {
            "dataset": "small",
            "models": list(models),
            "quantize": {"max_error_frac": max_error_frac},
            "promote": {"gate_steps": GATE_STEPS},
            "datasets": {"small": entry},
        }
        (root / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        return root

    return lay


def build_table(rows):
    about = small_about()
    calendar = build_calendar(about, reach=(rows["event_time"].min(), rows["event_time"].max()))
    return build_features(rows, about, small_features(), calendar)


def decision_of(root):
    main(root)
    return json.loads((root / "models/quantized/decision.json").read_text())


def test_a_net_with_weight_is_shipped_in_int8_where_the_error_holds_and_the_file_is_smaller(
    checkout, panel, fits
):
    root = checkout({"ridge": 0.5, "mlp": 0.5})
    said = decision_of(root)
    assert said["decision"] == "INT8", said
    shipped = root / "models/quantized/mlp.onnx"
    assert (
        said["nets"]["mlp"]["int8_bytes"]
        == shipped.stat().st_size
        < said["nets"]["mlp"]["fp32_bytes"]
        == (fits / "mlp/model.onnx").stat().st_size
    )
    assert said["nets"]["mlp"]["worsens_frac"] <= 0.01
    assert set(said["parity_sd"]) == {"ridge", "mlp"}
    assert max(said["parity_sd"].values()) <= MAX_PARITY_SD
    assert (
        len(
            json.loads((root / "models/quantized/latency.json").read_text())["int8_over_fp32_by_round"]["mlp"]
        )
        == 7
    )


def test_the_errors_are_those_of_an_independent_computation(checkout, panel):
    root = checkout({"mlp": 1.0})
    said = decision_of(root)
    n, steps = len(panel.event_time), panel.schema.horizon_steps
    for key, graph in (
        ("fp32_error", root / "models/fits/mlp/model.onnx"),
        ("int8_error", root / "models/quantized/mlp.onnx"),
    ):
        session, losses = open_graph(graph), []
        for origin in range(n - 1 - GATE_STEPS, n):
            z_hat = run_graph(session, panel.x[origin])
            for s in range(1, min(steps, n - 1 - origin) + 1):
                losses += list(
                    squared_error(
                        panel.y[origin + s], inverse_transform_target(small_about().target, z_hat[:, s - 1])
                    )
                )
        assert said["nets"]["mlp"][key] == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_same_inputs_give_the_same_graph_and_decision(checkout):
    root = checkout({"ridge": 0.5, "mlp": 0.5})
    first = decision_of(root)
    graph = (root / "models/quantized/mlp.onnx").read_bytes()
    again = decision_of(root)
    assert (root / "models/quantized/mlp.onnx").read_bytes() == graph
    for said in (first, again):
        said["nets"]["mlp"].pop("latency_ratio")
    assert first == again


def test_int8_stays_out_where_the_error_gate_does_not_hold(checkout, panel, tmp_path):
    """Had the net been right to the last digit, eight bits could only be worse."""
    root = checkout({"mlp": 1.0})
    release, rows = (
        load_unsealed_release(root / "models/challenger/challenger"),
        build_gate_rows(panel, GATE_STEPS),
    )
    rows = replace(
        rows, y=inverse_transform_target(release.about.target, run_graph(release.members["mlp"], rows.x))
    )
    made = quantize_nets(
        release, rows, root / "models/fits", ("mlp",), QuantizeParams(max_error_frac=0.5), tmp_path
    )
    assert made.decision.decision == "FP32"
    assert "worsen" in made.decision.reason
    assert not (tmp_path / "mlp.onnx").exists()


def test_a_net_without_weight_is_examined_and_stays_fp32(checkout):
    root = checkout({"ridge": 1.0})
    said = decision_of(root)
    assert said["decision"] == "FP32"
    assert "no weight" in said["reason"]
    assert said["nets"]["mlp"]["int8_bytes"] > 0
    assert set(said["parity_sd"]) == {"ridge", "mlp"}
    assert not (root / "models/quantized/mlp.onnx").exists()


def test_a_net_of_a_quantile_is_judged_by_its_pinball_loss_and_shipped_though_it_has_no_weight(
    checkout, panel, fits
):
    root = checkout({"ridge": 1.0}, models=("ridge", "low"), quantile_members={"0.1": ["low"]})
    found = decision_of(root)["nets"]["low"]
    assert (found["decision"], found["weight"]) == ("INT8", 0.0)
    assert (root / "models/quantized/low.onnx").exists()
    rows = build_gate_rows(panel, GATE_STEPS)
    loss = pinball(
        rows.y,
        inverse_transform_target(
            small_about().target, run_graph(open_graph(fits / "low/model.onnx"), rows.x)
        ),
        0.1,
    )
    assert found["fp32_error"] == pytest.approx(np.nanmean(loss), rel=1e-6)


def test_each_net_gets_a_decision_of_its_own(checkout):
    root = checkout(
        {"gru": 0.4, "tiny": 0.3, "patch_transformer": 0.3},
        models=("ridge", "mlp", "gru", "tiny", "patch_transformer", "lightgbm"),
    )
    said = decision_of(root)
    decisions = {name: net["decision"] for name, net in said["nets"].items()}
    assert decisions == {"mlp": "FP32", "gru": "INT8", "tiny": "FP32", "patch_transformer": "INT8"}, said[
        "reason"
    ]
    assert said["decision"] == "INT8"
    assert "not smaller" in said["nets"]["tiny"]["reason"]
    assert "no weight" in said["nets"]["mlp"]["reason"]
    assert sorted(path.name for path in (root / "models/quantized").glob("*.onnx")) == [
        "gru.onnx",
        "patch_transformer.onnx",
    ]


def test_a_net_is_known_by_what_it_is_and_not_by_its_name(checkout, fits):
    root = checkout({"deep": 1.0}, models=("deep",), fitted={"deep": "gru"})
    assert decision_of(root)["nets"]["deep"]["decision"] == "INT8"
    assert (root / "models/quantized/deep.onnx").exists()


def test_without_a_net_among_the_models_a_left_over_fit_changes_nothing(checkout):
    root = checkout({"ridge": 0.5, "lightgbm": 0.5}, models=("ridge", "lightgbm"))
    said = decision_of(root)
    assert (root / "models/fits/mlp").exists()
    assert said["decision"] == "FP32"
    assert "no net among the models" in said["reason"]
    assert said["nets"] == {}
    assert set(said["parity_sd"]) == {"ridge", "lightgbm"}


def test_a_graph_that_says_something_else_is_refused_with_its_worst_row(checkout, panel):
    root = checkout({"ridge": 1.0})
    path = root / "models/challenger/challenger/members/ridge.onnx"
    graph = onnx.load(path)
    last = next(c for c in graph.graph.initializer if c.name == graph.graph.node[-3].input[1])
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) + np.float32(0.01), last.name))
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(
        ReleaseError,
        match=(
            r"The graph of 'ridge' returns .* series '(north|south)', cutoff 20\d\d-.*, step \d.*dvc repro -f"
            r" train@ridge"
        ),
    ):
        main(root)
    assert not (root / "models/quantized").exists()


def test_a_missing_fit_names_the_command_that_makes_it(checkout):
    root = checkout({"ridge": 1.0})
    shutil.rmtree(root / "models/fits/ridge")
    with pytest.raises(ReleaseError, match="dvc repro train@ridge"):
        main(root)


@pytest.mark.parametrize("net", NETS)
def test_a_quantized_row_is_forecast_alike_in_any_company(net, panel, fits, tmp_path):
    write_int8(fits / net / "model.onnx", tmp_path / "int8.onnx")
    session, x = open_graph(tmp_path / "int8.onnx"), build_gate_rows(panel, GATE_STEPS).x
    one_by_one = np.concatenate([run_graph(session, x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(run_graph(session, x), one_by_one, atol=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_every_quantized_weight_is_within_half_a_step_of_the_net(net, fits, tmp_path):
    """All matrices of the fit are among them, whatever order ONNX has for the gates of a unit;
    no scale spans two outputs."""
    write_int8(fits / net / "model.onnx", tmp_path / "int8.onnx")
    constants = {
        c.name: numpy_helper.to_array(c) for c in onnx.load(tmp_path / "int8.onnx").graph.initializer
    }
    learned = dict(np.load(fits / net / "learned.npz"))
    matrices = sorted(
        name for name, a in learned.items() if name.startswith("net.") and a.ndim == 2 and name != "net.place"
    )
    quantized = {
        k: (constants[k], constants[k.replace("_int8", "_scale")]) for k in constants if k.endswith("_int8")
    }
    assert len(quantized) == len(matrices)
    unmatched = [learned[name] for name in matrices]
    for integers, scale in quantized.values():
        assert integers.dtype == np.int8
        assert scale.size == (integers.shape[-1] if integers.ndim == 2 else integers.shape[-2])
        floats, step = np.sort((integers * scale).ravel()), float(scale.max())
        near = [
            i
            for i, a in enumerate(unmatched)
            if a.size == floats.size
            and (np.abs(floats - np.sort(a.ravel())) <= 0.5 * step * (1 + 1e-5)).all()
        ]
        assert near
        unmatched.pop(near[0])
    assert not unmatched


def test_a_packaged_int8_net_serves_the_numbers_of_its_graph(checkout, tmp_path):
    root = checkout({"mlp": 1.0})
    assert decision_of(root)["decision"] == "INT8"
    rows = small_rows()
    (tmp_path / "release").mkdir()
    build_release(
        root / "models/challenger/challenger", root / "models/quantized", rows, 400, tmp_path / "release"
    )
    release = load_release(tmp_path / "release")
    cutoff = rows["known_at"].max()
    both = predict_cutoffs(release, rows, [cutoff]).filter(series_id="north")["y_hat"]
    alone = predict_cutoffs(release, rows.filter(series_id="north"), [cutoff]).filter(series_id="north")[
        "y_hat"
    ]
    np.testing.assert_allclose(both.to_numpy(), alone.to_numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("found", "decision", "why"),
    [
        (GraphComparison(1000, 400, 1.0, 1.009, [1.0] * 7), "INT8", "60% smaller"),
        (GraphComparison(1000, 400, 1.0, 1.011, [1.0] * 7), "FP32", "worsen"),
        (GraphComparison(1000, 400, 1.0, float("nan"), [1.0] * 7), "FP32", "worsen"),
        (GraphComparison(1000, 1000, 1.0, 1.0, [1.0] * 7), "FP32", "not smaller"),
        (GraphComparison(1000, 400, 1.0, 0.9, [1.0, 1.0, 1.0, 1.3, 1.3, 1.3, 1.3]), "FP32", "as long"),
        (GraphComparison(1000, 400, 1.0, 0.9, [1.1, 1.1, 1.1, 1.1, 9.0, 9.0, 9.0]), "INT8", "smaller"),
        (GraphComparison(1000, 400, 0.0, 0.0, [1.0] * 7), "INT8", "smaller"),
        (GraphComparison(1000, 400, 0.0, 0.1, [1.0] * 7), "FP32", "worsen"),
    ],
)
def test_the_error_decides_then_the_size_and_speed_only_forbids(found, decision, why):
    said, reason = decide_precision(found, 0.01)
    assert said == decision
    assert why in reason
