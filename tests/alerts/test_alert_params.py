"""Rules and silences of params.yaml, and messages about those that cannot be."""

import pytest
import yaml

from deployments.ops.check_datasets import check_datasets
from tasks.alerts.params import AlertParams
from tasks.core.errors import ParamsError
from tasks.edges.params import parse_params

RULE = {"name": "bias", "figure": "monitor.overall.bias", "above": 0.1}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rules": [{**RULE, "figure": "montor.overall.bias"}]}, "there are monitor, promote, retrain"),
        ({"rules": [{**RULE, "figure": "monitor.overal.bias"}]}, "no 'overal'; did you mean 'overall'"),
        ({"rules": [{**RULE, "figure": "monitor.champion.los"}]}, "champion has no 'los'; did"),
        ({"rules": [{**RULE, "below": 0.0}]}, "rule 'bias' needs one limit: `above` or `below`"),
        ({"rules": [{"name": "bias", "figure": "monitor.overall.bias"}]}, "needs one limit"),
        ({"rules": [{**RULE, "severity": "loud"}]}, "'info', 'warning' or 'critical'"),
        ({"rules": [{**RULE, "name": "A bias"}]}, "rules.0.name"),
        ({"rules": [RULE, RULE]}, "'bias' is there twice"),
        ({"silences": [{"alarm": "inputs_drif"}]}, "no alarm 'inputs_drif'; did you mean 'inputs_drift'"),
        ({"silences": [{"alarm": "inputs_drift", "ends_at": "2026-01-01T00:00"}]}, "timezone"),
        ({"cooldown": 5}, "cooldown"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_named_with_what_is_right(section, message):
    with pytest.raises(ParamsError) as raised:
        parse_params(AlertParams, section, "alerts")
    assert message in str(raised.value)


def test_a_rule_may_name_entries_of_lists_and_a_silence_a_rule():
    section = {
        "rules": [RULE, {"name": "north", "figure": "monitor.by_series.north.mae", "below": 1}],
        "silences": [{"alarm": "north"}],
    }
    assert len(parse_params(AlertParams, section, "alerts").rules) == 2


def test_tidemill_check_checks_both_sections(root):
    path = root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    document["alerts"] = {"rules": [{**RULE, "below": 1}]}
    document["datasets"]["small"]["service_levels"] = {"latency_p95_s": -1}
    path.write_text(yaml.safe_dump(document))
    faults = " ".join(check_datasets(root)[0].faults)
    assert "alerts (with datasets.small.alerts)" in faults
    assert "service_levels (with datasets.small.service_levels): latency_p95_s" in faults
