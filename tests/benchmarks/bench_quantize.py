"""The default models as one graph and as their own graphs, and a wide net in each form.

On the default data, one thread; nothing is asserted. About a minute on 2 cores.
"""

import time
from dataclasses import replace

import numpy as np
import pytest
from small_checkout import small_checkout
from small_release import build_small_body, small_rows

from tasks.core.folds import WalkForward
from tasks.core.frames import FEATURES
from tasks.core.panel import build_panel
from tasks.core.reports.quantize import NetPrecision, QuantizeDecision, QuantizeLatency, QuantizeLimits
from tasks.edges.artifacts import read_frame
from tasks.edges.dataset import read_features_dataset
from tasks.edges.params import read_about
from tasks.forecasters import build_forecaster
from tasks.package.ensemble_graph import build_ensemble_graph
from tasks.quantize.decide import decide_form
from tasks.quantize.forms import write_forms
from tasks.quantize.measure import CALLS
from tasks.quantize.rows import build_training_rows
from tasks.quantize.stage import TrainingRows, compare_forms
from tasks.release import load_unsealed_release, predict_ensemble
from tasks.release.load import load_graph

pytestmark = pytest.mark.bench

GATE_STEPS, N_ROUNDS = 250, 7
MODELS = {
    "last_value": {},
    "window_mean": {"window_steps": 22},
    "seasonal_naive": {},
    "har": {"windows_steps": [1, 5, 22]},
    "ridge": {},
    "lightgbm": {},
    "mlp": {},
}
WEIGHTED = ("har", "ridge", "lightgbm", "mlp")  # those within a tenth of the best, which an average takes


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    mill = small_checkout(tmp_path_factory.mktemp("default"), whole=True)
    mill.repro("features")
    source = mill.root / "data/features"
    table = read_frame(source / "table.parquet", FEATURES)
    return build_panel(table, read_features_dataset(source, read_about()))


def fit(panel, name, params):
    walk = WalkForward(n_cutoffs=1, stride_steps=1, refit_every_cutoffs=1, min_train_steps=1)
    pairs = panel.get_training_pairs(len(panel.event_time) - 1 - GATE_STEPS, walk)
    return build_forecaster(name, panel.schema, 1, params).fit(*pairs)


def measure(releases, x, n):
    """Median microseconds of a forecast of x by each of *releases*, which take turns of n calls."""
    seconds = [[] for _ in releases]
    for _ in range(N_ROUNDS):
        for of_release, release in zip(seconds, releases, strict=True):
            for _ in range(n):
                started = time.perf_counter()
                predict_ensemble(release, x)
                of_release.append(time.perf_counter() - started)
    return [1e6 * np.median(of_release) for of_release in seconds]


def test_one_graph_beside_the_members_one_by_one(panel, tmp_path):
    graphs = {}
    for name, params in MODELS.items():
        fit(panel, name, params).to_onnx(tmp_path / f"{name}.onnx")
        graphs[name] = (tmp_path / f"{name}.onnx").read_bytes()
    body = load_unsealed_release(build_small_body(tmp_path / "body", small_rows()))
    x, _ = panel.get_inputs(np.arange(len(panel.event_time) - 2100, len(panel.event_time)))
    for names in (("ridge",), WEIGHTED, tuple(MODELS)):
        weights = dict.fromkeys(names, 1 / len(names))
        own = {name: graphs[name] for name in names}
        apart = replace(
            body,
            dataset=panel.dataset,
            ensemble=body.ensemble.model_copy(update={"weights": weights}),
            members={name: load_graph(graph, name) for name, graph in own.items()},
        )
        one = replace(apart, graph=load_graph(build_ensemble_graph(apart, own).content, "one"), members={})
        print(f"\n{', '.join(names)}: one graph against members one by one and numpy")
        for n_rows, (_, n_calls) in CALLS.items():
            rows = x[:n_rows]
            np.testing.assert_allclose(predict_ensemble(one, rows), predict_ensemble(apart, rows), rtol=1e-6)
            before, after = measure((apart, one), rows, n_calls)
            print(f"  {n_rows:>5} rows: {after:.0f} against {before:.0f} µs, {before / after:.1f} times")


def test_a_wide_net_in_each_form(panel, tmp_path):
    net = fit(panel, "mlp", {"hidden_sizes": [512, 512]})
    net.to_onnx(tmp_path / "fp32.onnx")
    rows = TrainingRows(*build_training_rows(panel, GATE_STEPS))
    files = write_forms(net, tmp_path / "fp32.onnx", rows.calibration.x, tmp_path / "forms")
    found = compare_forms(files, rows, None, 0.01)
    form, reason = decide_form(found.figures)
    precision = NetPrecision(decision="INT8", reason=reason, weight=1.0, form=form, forms=found.figures)
    decision = QuantizeDecision(
        decision="INT8",
        reason=reason,
        n_gate_rows=0,
        parity_sd={},
        limits=QuantizeLimits(max_error_frac=0.01, max_latency_ratio=1.2, max_parity_sd=1e-5),
        nets={"wide": precision},
    )
    latency = QuantizeLatency(
        latency_us={"wide": found.latency_us}, memory_bytes={"wide": found.memory_bytes}
    )
    print(f"\n{reason}")
    for line in decision.build_table(latency):
        print("; ".join(f"{key} {value}" for key, value in line.items()))
    torch, static = (found.latency_us[form]["64"] for form in ("torchscript", "int8_static"))
    size = found.figures["int8_static"].n_bytes / found.figures["torchscript"].n_bytes
    print(f"static INT8 against torch: {1 - size:.0%} smaller, {torch / static:.1f} times as fast at 64 rows")
