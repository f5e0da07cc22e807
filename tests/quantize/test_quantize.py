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
from tasks.core.reports.quantize import QuantizeDecision, QuantizeLatency
from tasks.core.scores import pinball, squared_error
from tasks.core.transform import inverse_transform_target
from tasks.edges.artifacts import read_report
from tasks.edges.params import STAGES
from tasks.features import build_feature_schema, build_features
from tasks.forecasters import build_forecaster, load_forecaster
from tasks.package.assemble import build_release
from tasks.quantize.__main__ import main
from tasks.quantize.decide import decide_form
from tasks.quantize.forms import open_form, write_forms
from tasks.quantize.int8 import write_int8
from tasks.quantize.measure import compute_batch_difference
from tasks.quantize.parity import MAX_PARITY_SD, open_graph, run_graph
from tasks.quantize.rows import build_training_rows
from tasks.quantize.stage import TrainingRows, compare_forms
from tasks.release import load_release, predict_cutoffs

GATE_STEPS = 60
SHORT = {"epochs": 4, "batch_rows": 64}
NETS = {
    "mlp": SHORT | {"hidden_sizes": [64, 64]},
    "nlinear": SHORT,
    "gru": SHORT,
    "lstm": SHORT | {"layers": 2},
    "patch_transformer": SHORT | {"patch_steps": 2, "size": 32, "inside_size": 64},
}
FORMS = {"fp32", "int8_weights", "int8_static", "int8_dynamic", "torchscript"}
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
    x, z = panel.get_training_pairs(len(panel.event_time) - 1 - GATE_STEPS, walk)
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
    net = said["nets"]["mlp"]
    of_shipped = net["forms"][net["form"]]
    assert net["form"] in {"int8_weights", "int8_static"}
    assert (
        of_shipped["n_bytes"]
        == shipped.stat().st_size
        < net["forms"]["fp32"]["n_bytes"]
        == (fits / "mlp/model.onnx").stat().st_size
    )
    assert of_shipped["error_change"]["high"] <= 0.01
    assert set(said["parity_sd"]) == {"ridge", "mlp"}
    assert max(said["parity_sd"].values()) <= MAX_PARITY_SD
    latency = read_report(root / QuantizeLatency.PATH, QuantizeLatency)
    assert set(latency.memory_bytes["mlp"]) == set(net["forms"]) == FORMS
    table = read_report(root / QuantizeDecision.PATH, QuantizeDecision).build_table(latency)
    assert [line["form"] for line in table if line["served"] == "yes"] == [net["form"]]
    assert all(float(line["µs, 64 rows"].split()[0]) > 0 for line in table)


def test_the_forms_are_judged_on_rows_that_no_gate_and_no_range_of_int8_sees(checkout, panel):
    root = checkout({"mlp": 1.0})
    said = decision_of(root)
    judged, calibration = build_training_rows(panel, GATE_STEPS)
    seen, steps = len(panel.event_time) - 1 - GATE_STEPS, panel.schema.horizon_steps
    assert judged.where[:, 0].max() + steps == seen
    assert calibration.where[:, 0].max() + steps < judged.where[:, 0].min() + 1
    graph, losses = root / "models/fits/mlp/model.onnx", []
    for origin in range(seen - steps + 1 - GATE_STEPS, seen - steps + 1):
        z_hat = run_graph(open_graph(graph), panel.x[origin])
        for s in range(1, steps + 1):
            y_hat = inverse_transform_target(small_about().target, z_hat[:, s - 1])
            losses += list(squared_error(panel.y[origin + s], y_hat))
    assert said["nets"]["mlp"]["forms"]["fp32"]["error"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert said["n_judged_rows"] == len(judged.x)


def test_the_same_inputs_give_the_same_graph_and_decision(checkout):
    root = checkout({"ridge": 0.5, "mlp": 0.5})
    first = decision_of(root)
    graph = (root / "models/quantized/mlp.onnx").read_bytes()
    again = decision_of(root)
    assert (root / "models/quantized/mlp.onnx").read_bytes() == graph
    for said in (first, again):
        said["nets"]["mlp"]["forms"].pop("torchscript")  # torch counts its classes on in a process
        for figures in said["nets"]["mlp"]["forms"].values():
            figures.pop("latency_ratio")
            figures.pop("obstacle")  # may be the time
    assert first == again


def test_no_form_is_free_where_the_net_was_right_to_the_last_digit(panel, fits, tmp_path):
    """Eight bits can then only be worse."""
    net, fp32 = load_forecaster(fits / "mlp"), fits / "mlp/model.onnx"
    judged, calibration = build_training_rows(panel, GATE_STEPS)
    y = inverse_transform_target(small_about().target, run_graph(open_graph(fp32), judged.x))
    files = write_forms(net, fp32, calibration.x, tmp_path)
    found = compare_forms(files, TrainingRows(replace(judged, y=y), calibration), None, 0.5).figures
    assert all("worsen" in found[form].obstacle for form in ("int8_weights", "int8_static"))
    assert decide_form(found)[0] == "fp32"


def test_a_net_without_weight_is_examined_and_stays_fp32(checkout):
    root = checkout({"ridge": 1.0})
    said = decision_of(root)
    assert said["decision"] == "FP32"
    assert "no weight" in said["reason"]
    assert said["nets"]["mlp"]["forms"]["int8_weights"]["n_bytes"] > 0
    assert set(said["parity_sd"]) == {"ridge", "mlp"}
    assert not (root / "models/quantized/mlp.onnx").exists()


def test_a_net_of_a_quantile_is_judged_by_its_pinball_loss_and_shipped_though_it_has_no_weight(
    checkout, panel, fits
):
    root = checkout({"ridge": 1.0}, models=("ridge", "low"), quantile_members={"0.1": ["low"]})
    found = decision_of(root)["nets"]["low"]
    assert (found["decision"], found["weight"]) == ("INT8", 0.0)
    assert (root / "models/quantized/low.onnx").exists()
    rows, _ = build_training_rows(panel, GATE_STEPS)
    loss = pinball(
        rows.y,
        inverse_transform_target(
            small_about().target, run_graph(open_graph(fits / "low/model.onnx"), rows.x)
        ),
        0.1,
    )
    assert found["forms"]["fp32"]["error"] == pytest.approx(np.nanmean(loss), rel=1e-6)


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
def test_each_form_of_a_net_forecasts_nearly_alike_and_dynamic_int8_alone_by_its_batch(
    net, panel, fits, tmp_path
):
    judged, calibration = build_training_rows(panel, GATE_STEPS)
    fp32 = fits / net / "model.onnx"
    files = write_forms(load_forecaster(fits / net), fp32, calibration.x, tmp_path)
    again = write_forms(load_forecaster(fits / net), fp32, calibration.x, tmp_path / "again")
    expected = run_graph(open_graph(fp32), judged.x)
    for form, file in files.items():
        run = open_form(file)
        np.testing.assert_allclose(
            run(judged.x), expected, atol=1e-5 if form == "torchscript" else 0.1, err_msg=form
        )
        difference_sd = compute_batch_difference(run, judged)
        assert (difference_sd > MAX_PARITY_SD) == (form == "int8_dynamic"), (form, difference_sd)
        assert form == "torchscript" or file.read_bytes() == again[form].read_bytes()


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
