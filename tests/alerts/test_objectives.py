"""Burn rates of the service's own counters, against a sum over all answers."""

import pytest
from alert_servers import START
from homes import at_home
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.objectives import WINDOWS_S, EventCount, ServiceTargets, compute_objectives
from tasks.edges.objectives import add_counts, read_objectives

NOW = START.timestamp()
TARGETS = ServiceTargets(latency_p95_s=None, latency_p99_s=None, error_frac=0.01)


def counts(**shares):
    """1,000 events in each window, of which the named share is bad."""
    shares = {f"{key[1:]}": value for key, value in shares.items()}
    return {"errors": {window: EventCount(1000, 1000 * shares.get(window, 0.0)) for window in WINDOWS_S}}


@pytest.mark.parametrize(
    ("shares", "severity"),
    [
        ({}, None),
        ({"_1h": 0.2}, None),  # over: the last five minutes are fine
        ({"_5m": 0.9}, None),  # short: the hour is fine
        ({"_1h": 0.15, "_5m": 0.15}, "critical"),
        ({"_1h": 0.14, "_5m": 0.15}, None),
        ({"_6h": 0.061, "_30m": 0.061}, "critical"),
        ({"_3d": 0.011, "_6h": 0.011}, "warning"),
        ({"_3d": 0.01, "_6h": 0.011}, None),
    ],
)
def test_an_alarm_needs_both_windows_of_a_rule_above_its_rate(shares, severity):
    (objective,) = compute_objectives(TARGETS, counts(**shares))
    assert objective.severity == severity
    assert objective.state == ("burning" if severity else "ok")


def test_few_answers_raise_no_alarm_and_none_is_no_data():
    few = {"errors": dict.fromkeys(WINDOWS_S, EventCount(19, 19))}
    assert compute_objectives(TARGETS, few)[0].state == "ok"
    assert compute_objectives(TARGETS, {})[0].state == "no_data"


def test_rows_that_catch_up_within_minutes_of_a_start_raise_no_alarm():
    targets = ServiceTargets(freshness_s=60, latency_p95_s=None, latency_p99_s=None, error_frac=None)
    for seconds, severity in [(299, None), (301, "critical")]:
        old = {"freshness": dict.fromkeys(WINDOWS_S, EventCount(seconds, seconds))}
        assert compute_objectives(targets, old)[0].severity == severity


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 7200), st.integers(0, 50), st.integers(0, 50), st.booleans()), max_size=20
    )
)
def test_for_any_restarts_of_the_service_the_windows_have_what_it_counted(tmp_path_factory, history):
    """Each step: seconds that pass, answers, errors among them, whether it starts again first."""
    now, events, bad, log = NOW, 0, 0, []
    with at_home(tmp_path_factory.mktemp("home")):
        add_counts("small", {"errors": EventCount(0, 0)}, now)
        for passed_s, n, n_bad, restarts in history:
            now += passed_s
            # A restart is seen by a smaller count
            if restarts and n < events:
                events = bad = 0
            events, bad = events + n, bad + min(n, n_bad)
            add_counts("small", {"errors": EventCount(events, bad)}, now)
            log.append((now, n, min(n, n_bad)))
        (found,) = read_objectives("small", TARGETS, now)
    for window, length_s in WINDOWS_S.items():
        n = sum(n for then, n, _ in log if then > now - length_s)
        n_bad = sum(b for then, _, b in log if then > now - length_s)
        assert found.burn_rates[window] == (pytest.approx(n_bad / n / 0.01, abs=1e-3) if n else None)


def test_counters_of_before_the_first_look_are_in_no_window(root):
    add_counts("small", {"errors": EventCount(500, 500)}, NOW)
    (found,) = read_objectives("small", TARGETS, NOW)
    assert (found.state, found.n_events) == ("no_data", 0)
    assert read_objectives("other", TARGETS, NOW) == ()


def test_a_level_without_a_target_is_not_promised():
    assert set(ServiceTargets().list_targets()) == {"latency_p95", "latency_p99", "errors"}
    assert set(ServiceTargets(freshness_s=60, model_age_s=60).list_targets()) >= {"freshness", "model_age"}
