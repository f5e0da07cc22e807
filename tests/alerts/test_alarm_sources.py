"""Which files raise which alarms."""

import json
import os
from datetime import datetime, timedelta

import pytest
import yaml
from alert_servers import START
from refresh_runs import write_meters
from reports import DRIFT, NO_OUTCOMES, monitor_report, retrain_decision
from small_release import small_rows

from tasks.alerts.catalog import ALARMS, EVENT_SEVERITIES
from tasks.alerts.params import SECTION, AlertParams
from tasks.alerts.sources import SOURCES, AlarmContext, collect_alarms
from tasks.core.errors import ContractError
from tasks.core.objectives import EventCount
from tasks.core.reports.monitor import MonitorReport, ServiceLevel
from tasks.edges.artifacts import write_report
from tasks.edges.objectives import add_counts
from tasks.edges.params import read_document
from tasks.edges.settings import read_settings
from tasks.feed.events import EVENTS, report_event
from tasks.refresh.stage import refresh_rows
from tasks.retrain.journal import write_end, write_start

LEVEL = {
    "figure": "coverage",
    "level": 0.8,
    "normal": 0.8,
    "n_blocks": 9,
    "block_steps": 5,
    "window_steps": 25,
    "band_low": 0.7,
    "band_high": 0.9,
    "direction": "low",
    "since": START,
    "alarm_at": START,
    "points": ({"event_time": START, "value": 0.4},),
}


def collect(root, now=START):
    document = read_document(root)
    params = document.parse_stage(SECTION, AlertParams)
    return collect_alarms(AlarmContext(document, params, root, now), SOURCES)


def names(root, now=START):
    return [f"{alarm.name} {alarm.subject}".strip() for alarm in collect(root, now).alarms]


def write_monitor(root, **changes):
    write_report(root / MonitorReport.PATH, monitor_report(**changes))
    os.utime(root / MonitorReport.PATH, (START.timestamp(), START.timestamp()))


def write_params(root, **sections):
    path = root / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections))


def test_each_alarm_and_event_has_one_severity_and_no_name_is_both():
    assert set(EVENT_SEVERITIES) == set(EVENTS)
    assert not set(EVENT_SEVERITIES) & set(ALARMS)


def test_without_reports_nothing_is_claimed_of_them(root):
    collected = collect(root)
    assert collected.alarms == []
    assert collected.faults == {}
    assert {"monitor", "monitor_run"} & collected.sources == set()
    assert {"refresh", "disk", "feed"} <= collected.sources


def test_the_monitors_alarms_are_those_of_its_report(root):
    write_monitor(
        root,
        champion={"error_ratio": 1.4},
        drift={**DRIFT, "n_unwatched": 1, "unwatched": ({"stream": "a:x", "reason": "stuck"},)},
        service_levels=(ServiceLevel(**LEVEL), ServiceLevel(**{**LEVEL, "direction": "high"})),
    )
    collected = collect(root)
    assert [(a.name, a.subject, a.severity) for a in collected.alarms] == [
        ("coverage_low", "0.8", "warning"),
        ("loss_high", "limit", "warning"),
        ("inputs_drift", "", "warning"),
        ("streams_unwatched", "", "info"),
    ]
    assert "coverage of the 80% interval is low since 2026-01-01" in collected.alarms[0].summary
    assert "30 of 40 streams alarm" in collected.alarms[2].summary


def test_a_report_that_cannot_be_read_is_a_fault_and_no_all_clear(root):
    (root / MonitorReport.PATH).parent.mkdir(parents=True)
    (root / MonitorReport.PATH).write_text('{"dataset": "small", "schema": 99}')
    collected = collect(root)
    assert "schema" in collected.faults["monitor"]
    assert "monitor" not in collected.sources
    (root / MonitorReport.PATH).write_text('{"data')
    assert "monitor" in collect(root).faults


def test_a_monitor_that_has_not_run_for_hours_is_late(root):
    write_monitor(root)
    assert names(root, START + timedelta(hours=2.9)) == []
    assert names(root, START + timedelta(hours=3.1)) == ["monitor_late"]


def test_a_refresh_that_fails_is_an_alarm_until_one_succeeds(root):
    write_meters(root, small_rows(60).with_columns(load=-1.0))
    with pytest.raises(ContractError):
        refresh_rows(root, report=print)
    (alarm,) = collect(root).alarms
    assert (alarm.name, alarm.source) == ("refresh_failed", "refresh")
    assert "load" in alarm.summary
    write_meters(root, small_rows(60))
    refresh_rows(root, report=print)
    assert names(root) == []


@pytest.mark.parametrize(
    ("digest", "hours", "expected"),
    [("new", 9, []), ("old", 0, ["retraining_no_better"]), (None, 5, []), (None, 7, ["retraining_failed"])],
)
def test_a_retraining_without_end_has_failed_and_one_without_gain_is_told(root, digest, hours, expected):
    started = write_start(retrain_decision(), None, "old")
    if digest:
        write_end("small", started, digest, "promote")
    found = names(root, started.started_at + timedelta(hours=hours))
    assert [name.split()[0] for name in found] == expected


def test_events_of_the_feed_within_a_cool_down_are_one_alarm(root):
    folder = read_settings().home / "feed" / "small"
    folder.mkdir(parents=True)
    report_event(folder, "field_removed", field="load")
    report_event(folder, "field_removed", field="load")
    report_event(folder, "field_removed", field="other")
    (first, *_), path = (folder / "events.jsonl").read_text().splitlines(), folder / "events.jsonl"
    later = json.loads(first)
    raised = later["at"]
    later["at"] = raised.replace(raised[:4], str(int(raised[:4]) + 1), 1)
    path.write_text(path.read_text() + json.dumps(later) + "\n")
    now = datetime.fromisoformat(raised) + timedelta(minutes=1)
    alarms = [alarm for alarm in collect(root, now).alarms if alarm.summary.endswith("field load")]
    assert [alarm.has_end for alarm in alarms] == [False, False]
    assert alarms[0].severity == "critical"
    assert len({alarm.key for alarm in alarms}) == 2


def test_an_error_budget_that_burns_is_an_alarm_of_its_level(root):
    now = START.timestamp()
    for minute in range(61):
        add_counts(
            "small",
            {"errors": EventCount(100 * minute, 5 * minute), "latency_p95": EventCount(100 * minute, minute)},
            now - 3600 + 60 * minute,
        )
    assert names(root) == ["errors_high errors"]
    write_params(root, service_levels={"error_frac": 0.5})
    assert names(root) == []


def test_a_rule_compares_a_figure_and_says_when_it_cannot(root):
    rules = [
        {"name": "ratio", "figure": "monitor.champion.error_ratio", "above": 1.1, "severity": "critical"},
        {"name": "fine", "figure": "monitor.champion.error_ratio", "below": 1.1},
        {"name": "absent", "figure": "monitor.by_series.north.mae", "above": 1, "runbook": "ask Ann"},
        {"name": "text", "figure": "monitor.verdict", "above": 1},
    ]
    write_params(root, alerts={"rules": rules})
    assert collect(root).alarms == []
    assert "rules" not in collect(root).sources
    write_monitor(root)  # without a champion and outcomes nothing can be compared, and nothing is wrong
    assert names(root) == ["custom_rule text"]
    write_monitor(root, champion={"error_ratio": 1.2}, by_series=[{**NO_OUTCOMES, "series_id": "south"}])
    alarms = {alarm.subject: alarm for alarm in collect(root).alarms}
    assert set(alarms) == {"ratio", "absent", "text"}
    assert alarms["ratio"].summary == "monitor.champion.error_ratio is 1.2, above 1.1"
    assert alarms["ratio"].severity == "critical"
    assert alarms["absent"].runbook == "ask Ann"
    assert "no number" in alarms["text"].summary


def test_a_full_disk_is_an_alarm(root, monkeypatch):
    monkeypatch.setattr("tasks.alerts.sources.LEAST_FREE_BYTES", 10**18)
    assert names(root) == ["disk_full"]
