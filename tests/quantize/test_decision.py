"""The rule that chooses the form of a net, and the interval of a change."""

import numpy as np
import pytest

from tasks.core.reports.quantize import FormFigures, LossChange, QuantizeDecision, QuantizeLatency
from tasks.quantize.decide import decide_form, find_obstacle
from tasks.quantize.measure import compute_change
from tasks.quantize.parity import MAX_PARITY_SD


def figures(n_bytes=1000, worse=0.0, ratios=(1.0, 1.0, 1.0), batch_sd=0.0, pinball_worse=0.0):
    changes = [LossChange(change=of, low=of - 0.001, high=of) for of in (worse, pinball_worse)]
    return FormFigures(
        n_bytes=n_bytes,
        error=1.0,
        error_change=changes[0],
        pinball_change=changes[1],
        coverage_change=None,
        batch_difference_sd=batch_sd,
        latency_ratio=dict(zip(("1", "64", "4096"), ratios, strict=True)),
        obstacle=None,
    )


@pytest.mark.parametrize(
    ("form", "found", "why"),
    [
        ("int8_weights", figures(400, 0.01), None),
        ("int8_weights", figures(400, 0.011), "worsen the error by up to 1.10%"),
        ("int8_weights", figures(400, pinball_worse=0.02), "worsen the pinball loss"),
        ("int8_weights", figures(400, float("nan")), "worsen"),
        ("int8_weights", figures(1000), "not smaller"),
        ("int8_static", figures(400, ratios=(1.3, 0.4, 0.4)), "1.3 times as long for a batch of 1"),
        ("int8_static", figures(400, ratios=(0.4, 1.3, 0.4)), "1.3 times as long for a batch of 64"),
        ("int8_static", figures(400, ratios=(1.2, 1.2, 9.0)), None),
        ("int8_dynamic", figures(400, batch_sd=1e-3), "depends on its batch"),
        ("torchscript", figures(400), "without torch"),
        ("fp32", figures(ratios=(1.3, 1.0, 1.0)), None),
    ],
)
def test_error_size_and_speed_can_each_rule_a_form_out(form, found, why):
    obstacle = find_obstacle(form, found, figures(), 0.01, MAX_PARITY_SD)
    assert obstacle is None if why is None else why in obstacle


@pytest.mark.parametrize(
    ("weights", "static", "form"),
    [
        (figures(400), figures(500, ratios=(1.0, 0.3, 0.3)), "int8_weights"),
        (figures(400), figures(430, ratios=(1.0, 0.3, 0.3)), "int8_static"),
        (figures(400), figures(430, ratios=(1.0, 0.9, 0.3)), "int8_weights"),
        (figures(400).model_copy(update={"obstacle": "slow"}), figures(900), "int8_static"),
        (figures(400).model_copy(update={"obstacle": "slow"}), None, "fp32"),
    ],
)
def test_the_smallest_form_serves_unless_one_of_that_size_is_faster(weights, static, form):
    forms = {"fp32": figures(), "int8_weights": weights} | ({"int8_static": static} if static else {})
    chosen, reason = decide_form(forms)
    assert chosen == form
    assert ("slow" in reason) if form == "fp32" else ("smaller" in reason)


def test_the_interval_of_a_change_holds_it_as_often_as_it_says():
    """Against the change of the distribution itself, with losses that remember five cutoffs."""
    rng, n_inside = np.random.default_rng(3), 0
    for _ in range(200):
        shared = np.convolve(rng.exponential(size=305), np.ones(5) / 5, "valid")[:, None]
        after = shared * 1.02 + 0.05 * rng.normal(size=(301, 1))
        found = compute_change(shared, after, np.arange(301), is_relative=True)
        n_inside += found.low <= 0.02 <= found.high
    assert 160 <= n_inside <= 196  # 90 % of 200, four standard errors below and above


def test_the_decision_of_an_earlier_version_is_read():
    old = {"decision": "INT8", "reason": "r", "weight": 1.0, "fp32_bytes": 2, "int8_bytes": 1}
    limits = {"max_error_frac": 0.01, "max_latency_ratio": 1.2, "max_parity_sd": 1e-5}
    of_net = old | {"fp32_error": 1.0, "int8_error": 1.0, "worsens_frac": 0.0, "latency_ratio": 1.0}
    content = {"decision": "INT8", "reason": "r", "n_gate_rows": 1, "parity_sd": {}, "limits": limits}
    read = QuantizeDecision.parse(content | {"nets": {"mlp": of_net}, "quantized": "q"}, "decision.json")
    assert read.nets["mlp"].decision == "INT8"
    assert read.build_table(None) == []


def test_the_table_has_a_line_for_each_form_and_marks_the_served_one():
    forms = {"int8_weights": figures(400), "fp32": figures()}
    net = {"decision": "INT8", "reason": "r", "weight": 1.0, "form": "int8_weights", "forms": forms}
    limits = {"max_error_frac": 0.01, "max_latency_ratio": 1.2, "max_parity_sd": 1e-5}
    decision = QuantizeDecision.model_validate(
        {"decision": "INT8", "reason": "r", "n_gate_rows": 1, "parity_sd": {}, "limits": limits}
        | {"nets": {"mlp": net}}
    )
    latency = QuantizeLatency(latency_us={"mlp": {"fp32": {"1": 12.3, "64": 47.0, "4096": 2371.0}}})
    lines = decision.build_table(latency)
    assert [(line["form"], line["served"]) for line in lines] == [("fp32", "no"), ("int8_weights", "yes")]
    assert lines[0]["µs, 4096 rows"] == "2371 (1 x)"
    assert lines[1]["µs, 4096 rows"] == "- (1 x)"
