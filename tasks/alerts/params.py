"""Parameters of alerts; where they are sent is in TIDEMILL_ALERTS, since addresses are secrets."""

import difflib
from collections.abc import Mapping
from typing import Annotated, get_args

from pydantic import AwareDatetime, BaseModel, Field, field_validator, model_validator

from tasks.alerts.catalog import ALARMS, EVENT_SEVERITIES
from tasks.core.objectives import Severity
from tasks.core.reports.base import Report
from tasks.core.reports.monitor import MonitorReport
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.retrain import RetrainDecision
from tasks.core.strict import Strict

SECTION = "alerts"
RULE_REPORTS: Mapping[str, type[Report]] = {
    "monitor": MonitorReport,
    "promote": GateDecision,
    "retrain": RetrainDecision,
}


class AlertRule(Strict):
    """An alarm while a figure of a report is beyond a limit.

    name: of the rule; it is the subject of its alarm `custom_rule`.
    figure: `monitor.`, `promote.` or `retrain.`, and the key in that report; entries of a list go
      by what names them (docs/reference/artifacts.md).
    above, below: one of them, the limit.
    severity: `info`, `warning` or `critical`.
    runbook: what to do, a path or an address; null: docs/runbooks/custom-rule.md.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
    figure: str
    above: float | None = None
    below: float | None = None
    severity: Severity = "warning"
    runbook: str | None = None

    @field_validator("figure")
    @classmethod
    def _check_figure(cls, figure: str) -> str:
        report, *keys = figure.split(".")
        if report not in RULE_REPORTS or not keys:
            raise ValueError(f"{figure!r} begins with no report: there are {', '.join(RULE_REPORTS)}")
        kind: type[BaseModel] | None = RULE_REPORTS[report]
        for i, key in enumerate(keys):
            if kind is None:  # within a list or a mapping: names of the data
                break
            if key not in kind.model_fields:
                near = difflib.get_close_matches(key, kind.model_fields, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(kind.model_fields)}"
                raise ValueError(f"{'.'.join([report, *keys[:i]])} has no {key!r}; {hint}")
            kind = _find_model(kind.model_fields[key].annotation)
        return figure

    @model_validator(mode="after")
    def _check_limit(self) -> "AlertRule":
        if (self.above is None) == (self.below is None):
            raise ValueError(f"rule {self.name!r} needs one limit: `above` or `below`")
        return self

    def is_broken_by(self, value: float) -> bool:
        """Whether *value* is beyond the limit."""
        return value > self.above if self.above is not None else value < (self.below or 0.0)

    def describe_limit(self) -> str:
        """The limit in words."""
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"


class AlertSilence(Strict):
    """No message about an alarm.

    alarm: its name, or that of a rule.
    ends_at: with its time zone; null: never.
    """

    alarm: str
    ends_at: AwareDatetime | None = None


class AlertParams(Strict):
    """What is sent, and how often.

    cooldown_s: an alarm that opens again within it is sent after it, if it is still open then.
    rules: alarms of your own.
    silences: alarms of which nothing is sent.
    """

    cooldown_s: Annotated[float, Field(ge=0)] = 3_600.0
    rules: tuple[AlertRule, ...] = ()
    silences: tuple[AlertSilence, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> "AlertParams":
        names = [rule.name for rule in self.rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rules have one name each, and {twice[0]!r} is there twice")
        known = {*ALARMS, *EVENT_SEVERITIES, *names}
        for silence in self.silences:
            if silence.alarm not in known:
                near = difflib.get_close_matches(silence.alarm, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"silences: there is no alarm {silence.alarm!r}{hint}")
        return self


def _find_model(annotation: object) -> type[BaseModel] | None:
    """The model that a value of *annotation* is, if it is one or null."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind if kind is annotation or type(None) in get_args(annotation) else None
    return None
