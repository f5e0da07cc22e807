"""What raises alarms, from the files that the stages and loops leave.

Each source lists its alarms of now, or returns None when it cannot know: then its open alarms stay.
"""

import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from tasks.alerts.catalog import ALARMS, EVENT_SEVERITIES, get_runbook
from tasks.alerts.params import RULE_REPORTS, AlertParams, AlertRule
from tasks.core.errors import TidemillError
from tasks.core.objectives import Severity
from tasks.core.reports.alerts import Alarm
from tasks.core.reports.feed import FeedEvent
from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.retrain import RetrainLimits
from tasks.edges.current import find_report
from tasks.edges.objectives import read_objectives, read_targets
from tasks.edges.params import ParamsDocument
from tasks.edges.refreshed import read_refresh_fault
from tasks.edges.rollouts import JUDGE, read_rollout
from tasks.edges.settings import read_settings
from tasks.retrain.journal import read_retrainings
from tasks.retrain.params import RetrainParams

LEAST_FREE_BYTES = 2_000_000_000  # a run leaves some 100 MB; with less, a few fill the disk
MONITOR_LATE_S = 3 * 3_600.0  # it runs hourly
RETRAINING_LATE_S = 6 * 3_600.0  # without an end since then, it has failed
EVENT_SHOWN_S = 86_400.0
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
_OF_LEVEL = {
    "latency_p95": "latency_high",
    "latency_p99": "latency_high",
    "errors": "errors_high",
    "freshness": "rows_stale",
    "model_age": "model_old",
}


class AlarmContext(NamedTuple):
    """What a source may use. root: the checkout. now: of the clock."""

    document: ParamsDocument
    params: AlertParams
    root: Path
    now: datetime


AlarmSource = Callable[[AlarmContext], list[Alarm] | None]


class CollectedAlarms(NamedTuple):
    """alarms: open now. sources: those that could tell. faults: why others could not, by source."""

    alarms: list[Alarm]
    sources: set[str]
    faults: dict[str, str]


def build_alarm(
    name: str,
    source: str,
    summary: str,
    dataset: str = "",
    subject: str = "",
    severity: Severity | None = None,
) -> Alarm:
    """An alarm of the catalog. severity: its own by default."""
    return Alarm(
        name=name,
        source=source,
        summary=summary,
        dataset=dataset,
        subject=subject,
        severity=severity or ALARMS[name].severity,
        runbook=get_runbook(name),
    )


def collect_alarms(context: AlarmContext, sources: Mapping[str, AlarmSource]) -> CollectedAlarms:
    """The alarms of every source that can tell now."""
    collected = CollectedAlarms([], set(), {})
    for name, list_alarms in sources.items():
        try:
            alarms = list_alarms(context)
        except (TidemillError, OSError, ValueError) as error:  # a file of another version, or half-read
            collected.faults[name] = f"{type(error).__name__}: {error}"
            continue
        if alarms is not None:
            collected.sources.add(name)
            collected.alarms.extend(alarms)
    return collected


def _list_monitor_alarms(context: AlarmContext) -> list[Alarm] | None:
    from tasks.monitor.service_level import describe_alarm

    dataset = context.document.dataset
    report = find_report(MonitorReport, dataset, context.root)
    if report is None:
        return None
    alarms = [
        build_alarm(
            "coverage_low" if level.figure == "coverage" else "loss_high",
            "monitor",
            describe_alarm(level),
            dataset,
            level.figure if level.figure == "concept" else "" if level.level is None else f"{level.level:g}",
        )
        for level in report.service_levels
        if level.is_degraded
    ]
    params = context.document.parse_stage("retrain", RetrainParams)
    limits = RetrainLimits(**{name: getattr(params, name) for name in RetrainLimits.model_fields})
    if (champion := report.champion) is not None:
        breaches = limits.list_breaches(champion.error_ratio, champion.coverage_frac, report.n_blocks)
        for name, summary in breaches.items():
            alarm = "loss_high" if name == "error" else "coverage_low"
            alarms.append(build_alarm(alarm, "monitor", summary, dataset, "limit"))
    if (drift := report.drift) is not None and drift.is_drifting:
        summary = f"{drift.n_alarmed} of {drift.n_streams} streams alarm, {drift.n_by_luck} would by chance"
        alarms.append(build_alarm("inputs_drift", "monitor", summary, dataset))
    if drift is not None and drift.n_unwatched:
        first = drift.unwatched[0]
        summary = (
            f"{drift.n_unwatched} of {drift.n_streams + drift.n_unwatched} streams ({first.stream}:"
            f" {first.reason})"
        )
        alarms.append(build_alarm("streams_unwatched", "monitor", summary, dataset))
    return alarms


def _list_late_monitor(context: AlarmContext) -> list[Alarm] | None:
    dataset, path = context.document.dataset, context.root / MonitorReport.PATH
    if find_report(MonitorReport, dataset, context.root) is None:
        return None
    age_s = context.now.timestamp() - path.stat().st_mtime
    if age_s < MONITOR_LATE_S:
        return []
    return [build_alarm("monitor_late", "monitor_run", f"last run {age_s / 3600:.0f} h ago", dataset)]


def _list_refresh_alarms(context: AlarmContext) -> list[Alarm]:
    dataset = context.document.dataset
    fault = read_refresh_fault(dataset)
    return [] if fault is None else [build_alarm("refresh_failed", "refresh", fault, dataset)]


def _list_retraining_alarms(context: AlarmContext) -> list[Alarm]:
    dataset = context.document.dataset
    if not (retrainings := read_retrainings(dataset)):
        return []
    last, name = retrainings[-1], None
    began = f"began {last.started_at:%F %T}Z ({last.reason})"
    if last.ended_at is None:
        late = (context.now - last.started_at).total_seconds() > RETRAINING_LATE_S
        name, summary = ("retraining_failed" if late else None), f"{began}, and has no end"
    elif last.error is not None or last.new_digest is None:
        name, summary = "retraining_failed", f"{began}: {last.error or 'it left no champion'}"
    elif last.new_digest == last.digest:
        name, summary = "retraining_no_better", f"{began}: the champion stays"
    if name is None:
        return []
    subject = f"{last.started_at:%FT%TZ}"
    alarm = build_alarm(name, "retraining", summary, dataset, subject)
    return [alarm.model_copy(update={"has_end": False})]


def _list_rollout_alarms(context: AlarmContext) -> list[Alarm]:
    """A challenger that went back within the last day; an operator who took it back knows."""
    dataset = context.document.dataset
    last = read_rollout(dataset)
    if last is None or last.state != "back" or last.by != JUDGE:
        return []
    if last.moved_at < context.now - timedelta(seconds=EVENT_SHOWN_S):
        return []
    summary = f"{last.model} {last.challenger[:12]} went back: {last.reason}"
    alarm = build_alarm("rollout_back", "rollout", summary, dataset, f"{last.moved_at:%FT%TZ}")
    return [alarm.model_copy(update={"has_end": False})]


def _list_feed_alarms(context: AlarmContext) -> list[Alarm]:
    """Events of the last day; those of one kind within a cool-down are one alarm."""
    dataset = context.document.dataset
    if not (read_settings().home / "feed").is_dir():
        return []
    from tasks.feed.events import read_events  # with Delta
    from tasks.feed.service import get_feed_folder

    begins: dict[tuple[str, str], FeedEvent] = {}
    alarms: dict[tuple[str, str, datetime], Alarm] = {}
    for event in read_events(get_feed_folder(dataset)):
        kind = (event.event, str(event.facts.get("field", "")))
        first = begins.get(kind)
        if first is None or (event.at - first.at).total_seconds() > context.params.cooldown_s:
            begins[kind] = first = event
        if event.event not in EVENT_SEVERITIES or first.at < context.now - timedelta(seconds=EVENT_SHOWN_S):
            continue
        facts = ", ".join(f"{key} {value}" for key, value in first.facts.items())
        alarms[*kind, first.at] = Alarm(
            name=event.event,
            source="feed",
            severity=EVENT_SEVERITIES[event.event],
            summary=f"{first.about}; {facts}" if facts else first.about,
            dataset=dataset,
            subject=f"{kind[1]} {first.at:%FT%TZ}".strip(),
            runbook=get_runbook(event.event),
            has_end=False,
        )
    return list(alarms.values())


def _list_objective_alarms(context: AlarmContext) -> list[Alarm]:
    dataset = context.document.dataset
    objectives = read_objectives(dataset, read_targets(context.document), context.now.timestamp())
    alarms = []
    for objective in objectives:
        if objective.severity is not None:
            rates = ", ".join(f"{w} {rate:g}" for w, rate in objective.burn_rates.items() if rate is not None)
            summary = (
                f"{objective.level} is beyond its target of {objective.target:g}: the error budget burns"
                f" faster than allowed (burn rates {rates})"
            )
            name = _OF_LEVEL[objective.level]
            severity = min(objective.severity, ALARMS[name].severity, key=SEVERITIES.index)
            alarms.append(build_alarm(name, "objectives", summary, dataset, objective.level, severity))
    return alarms


def _list_disk_alarms(_: AlarmContext) -> list[Alarm]:
    home = read_settings().home
    free = shutil.disk_usage(home).free
    if free >= LEAST_FREE_BYTES:
        return []
    return [build_alarm("disk_full", "disk", f"{free / 1e9:.2f} GB are free on the disk of {home}")]


def _list_rule_alarms(context: AlarmContext) -> list[Alarm] | None:
    """Rules on reports that are there; a figure that its report does not have is an alarm, too."""
    alarms = []
    for rule in context.params.rules:
        name, _, key = rule.figure.partition(".")
        report = find_report(RULE_REPORTS[name], context.document.dataset, context.root)
        if report is None:
            return None
        summary = _find_breach(rule, report.list_figures(), key)
        if summary is not None:
            alarm = build_alarm(
                "custom_rule", "rules", summary, context.document.dataset, rule.name, rule.severity
            )
            alarms.append(alarm.model_copy(update={"runbook": rule.runbook or alarm.runbook}))
    return alarms


def _find_breach(rule: AlertRule, figures: Mapping[str, object], key: str) -> str | None:
    """Why the rule is broken; None when it is not, or its figure is null now."""
    if key not in figures:
        parents = {".".join(key.split(".")[:i]) for i in range(1, key.count(".") + 1)}
        if any(figures.get(parent, 0) in (None, []) for parent in parents):
            return None  # `champion` without a champion
        return f"{rule.figure} is not in the report, so nothing is compared; correct the rule"
    value = figures[key]
    if value is None:
        return None
    if not isinstance(value, int | float):
        return f"{rule.figure} is {value!r:.60}, no number, so nothing is compared; correct the rule"
    return f"{rule.figure} is {value:g}, {rule.describe_limit()}" if rule.is_broken_by(value) else None


SOURCES: Mapping[str, AlarmSource] = {
    "monitor": _list_monitor_alarms,
    "monitor_run": _list_late_monitor,
    "refresh": _list_refresh_alarms,
    "retraining": _list_retraining_alarms,
    "rollout": _list_rollout_alarms,
    "feed": _list_feed_alarms,
    "objectives": _list_objective_alarms,
    "disk": _list_disk_alarms,
    "rules": _list_rule_alarms,
}
