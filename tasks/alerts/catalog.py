"""Every alarm by its name, which stays; docs/runbooks has a page for each."""

from collections.abc import Mapping
from typing import NamedTuple

from tasks.core.objectives import Severity


class AlarmKind(NamedTuple):
    """severity: `critical` cannot wait until the morning. about: the alarm in a sentence."""

    severity: Severity
    about: str


ALARMS: Mapping[str, AlarmKind] = {
    "service_down": AlarmKind("critical", "the service gives no forecasts"),
    "part_down": AlarmKind("critical", "a process of `tidemill up` does not stay up"),
    "disk_full": AlarmKind("critical", "little space is left for TIDEMILL_HOME"),
    "rows_stale": AlarmKind("critical", "the newest row is older than the target allows"),
    "latency_high": AlarmKind("critical", "too many answers are slower than the target"),
    "errors_high": AlarmKind("critical", "too many answers are errors of the service"),
    "model_old": AlarmKind("warning", "the release was fitted on data that is older than the target allows"),
    "release_fault": AlarmKind("warning", "the newest release or rows cannot be loaded; the old ones serve"),
    "refresh_failed": AlarmKind("warning", "new rows cannot be published; the old ones stay"),
    "monitor_late": AlarmKind("warning", "the monitor has not run for hours"),
    "loss_high": AlarmKind("warning", "the champion's loss is higher than in the gate"),
    "coverage_low": AlarmKind("warning", "fewer outcomes are within the interval than it promises"),
    "inputs_drift": AlarmKind("warning", "more streams alarm than would by chance"),
    "streams_unwatched": AlarmKind("info", "values are not watched for drift"),
    "retraining_failed": AlarmKind("warning", "a retraining did not end well"),
    "retraining_no_better": AlarmKind("info", "a retraining brought no better release"),
    "rollout_back": AlarmKind("warning", "a challenger went back during its rollout"),
    "custom_rule": AlarmKind("warning", "a figure is beyond the limit of a rule in params.yaml"),
}
# Of the feed's events (tasks.feed.events.EVENTS); each is sent as it happens and has no end
EVENT_SEVERITIES: Mapping[str, Severity] = {
    "field_added": "info",
    "field_removed": "critical",
    "field_retyped": "critical",
    "field_renamed": "critical",
    "quarantine_high": "warning",
    "late_high": "warning",
    "commit_refused": "info",
    "offset_lost": "critical",
    "source_down": "critical",
    "member_fenced": "warning",
    "records_lost": "warning",
    "registry_down": "critical",
}


def get_runbook(name: str) -> str:
    """The path of an alarm's runbook, from the checkout's root."""
    return f"docs/runbooks/{name.replace('_', '-')}.md"
