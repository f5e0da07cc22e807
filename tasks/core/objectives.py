"""Service level objectives: targets, error budgets and burn rates.

A level counts events and the bad ones among them: answers that were slow or failed, or seconds in
which the rows or the release were older than the target. Its budget is the share that may be bad.
The burn rate of a window is its share of bad events over the budget: at 1 the budget is used up
exactly. An alarm needs a long and a short window above the same rate (Google's SRE Workbook,
chapter 5), so that it begins soon and ends soon after the cause.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from tasks.core.strict import Strict

Severity = Literal["info", "warning", "critical"]
LevelName = Literal["latency_p95", "latency_p99", "errors", "freshness", "model_age"]
WINDOWS_S: Mapping[str, int] = {"5m": 300, "30m": 1_800, "1h": 3_600, "6h": 21_600, "3d": 259_200}


LEAST_S = 300.0  # of time-based levels, so that rows which catch up after a start raise no alarm


class BurnRule(NamedTuple):
    """An alarm of *severity* while the burn rate of both windows is above *rate*."""

    long: str
    short: str
    rate: float
    severity: Severity


# 2 % of a month's budget in an hour, 5 % in six hours, 10 % in three days
BURN_RULES = (
    BurnRule("1h", "5m", 14.4, "critical"),
    BurnRule("6h", "30m", 6.0, "critical"),
    BurnRule("3d", "6h", 1.0, "warning"),
)


class EventCount(NamedTuple):
    """Events, and the bad ones among them; seconds where time is what counts."""

    events: float
    bad: float


class LevelTarget(NamedTuple):
    """target: in seconds, or a share. budget_frac: share of events that may be beyond it."""

    target: float
    budget_frac: float


class ServiceTargets(Strict):
    """What the service promises; null: not promised.

    latency_p95_s, latency_p99_s: 95 and 99 of 100 answers take no longer.
    error_frac: share of answers that may be a fault of the service (status 5xx).
    freshness_s: the newest row is known since then at most, by the clock.
    model_age_s: the newest row is at most so much later than what the release was fitted on.
    max_old_frac: share of the time in which the last two may be older.
    min_requests: fewer answers in the long window of an alarm raise none.
    """

    latency_p95_s: Annotated[float, Field(gt=0)] | None = 0.25
    latency_p99_s: Annotated[float, Field(gt=0)] | None = 1.0
    error_frac: Annotated[float, Field(gt=0, lt=1)] | None = 0.001
    freshness_s: Annotated[float, Field(gt=0)] | None = None
    model_age_s: Annotated[float, Field(gt=0)] | None = None
    max_old_frac: Annotated[float, Field(gt=0, lt=1)] = 0.01
    min_requests: Annotated[int, Field(ge=1)] = 20

    def list_targets(self) -> dict[LevelName, LevelTarget]:
        """Those that are promised."""
        targets: dict[LevelName, tuple[float | None, float]] = {
            "latency_p95": (self.latency_p95_s, 0.05),
            "latency_p99": (self.latency_p99_s, 0.01),
            "errors": (self.error_frac, self.error_frac or 1.0),
            "freshness": (self.freshness_s, self.max_old_frac),
            "model_age": (self.model_age_s, self.max_old_frac),
        }
        return {
            name: LevelTarget(target, budget)
            for name, (target, budget) in targets.items()
            if target is not None
        }


class ServiceObjective(Strict):
    """One level of the service, by the clock.

    level: its name.
    target: seconds, or a share for `errors`.
    budget_frac: share of answers (of time for `freshness` and `model_age`) that may be beyond it.
    n_events: answers, or seconds, in the longest window.
    burn_rates: by window, the share beyond the target over the budget; null without an event.
    state: `ok`, `burning` (two windows of a rule are above its rate) or `no_data`.
    severity: of the alarm; null unless it burns.
    """

    level: LevelName
    target: float
    budget_frac: float
    n_events: float
    burn_rates: dict[str, float | None]
    state: Literal["ok", "burning", "no_data"]
    severity: Severity | None = None


def compute_objectives(
    targets: ServiceTargets, counts: Mapping[str, Mapping[str, EventCount]]
) -> tuple[ServiceObjective, ...]:
    """The state of each level. counts: by level, by window of WINDOWS_S."""
    objectives = []
    for level, (target, budget) in targets.list_targets().items():
        of_level = {window: counts.get(level, {}).get(window, EventCount(0, 0)) for window in WINDOWS_S}
        rates = {
            window: round(count.bad / count.events / budget, 3) if count.events else None
            for window, count in of_level.items()
        }
        n_events = of_level["3d"].events
        least = LEAST_S if level in {"freshness", "model_age"} else targets.min_requests
        severities = [
            rule.severity
            for rule in BURN_RULES
            if of_level[rule.long].events >= least
            and min(rates[rule.long] or 0.0, rates[rule.short] or 0.0) > rule.rate
        ]
        objectives.append(
            ServiceObjective(
                level=level,
                target=target,
                budget_frac=budget,
                n_events=round(n_events, 1),
                burn_rates=rates,
                state="burning" if severities else "ok" if n_events else "no_data",
                severity=severities[0] if severities else None,
            )
        )
    return tuple(objectives)
