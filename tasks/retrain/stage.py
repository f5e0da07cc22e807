"""Compare the monitor's figures with their limits, and hold back what would come too often."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from tasks.core.reports.monitor import ChampionFigures, MonitorReport
from tasks.core.reports.retrain import RetrainDecision, RetrainFacts
from tasks.retrain.journal import Retraining
from tasks.retrain.params import RetrainParams


class Trigger(NamedTuple):
    """A limit that was passed: age, error, coverage or drift, and a sentence about it."""

    name: str
    reason: str


def decide_retraining(
    report: MonitorReport,
    params: RetrainParams,
    step_length: timedelta,
    retrainings: Sequence[Retraining] = (),
) -> RetrainDecision:
    """Decide whether retraining is due: each limit that is exceeded is a reason.

    A figure that is None is no reason. Neither is one that the last retraining left as it was.
    step_length: of the clock; a calendar with days off has fewer steps in a week.
    retrainings: the earlier ones, oldest first.
    """
    champion = report.champion
    if champion is None:
        reason = "there is no champion yet, so there is nothing to retrain"
        return _build_decision(report, RetrainFacts(), [], reason)
    facts = RetrainFacts(**{name: getattr(champion, name) for name in RetrainFacts.model_fields})
    current = (
        f"the last training is {champion.age_steps} steps old (of {params.max_age_steps}); since the"
        f" promotion: {_format_figures(champion)}"
    )
    if report.drift is not None and report.drift.is_drifting:
        current += (
            f"; {report.drift.n_alarmed} of {report.drift.n_streams} inputs drift, which alone is no reason"
        )
    passed = _list_triggers(report, champion, params)
    triggers = [t for t in passed if not _is_as_before(t, champion, params, retrainings)]
    if held := _find_hold(report, params, step_length, retrainings) if triggers else None:
        return _build_decision(report, facts, [], f"{held}: {'; '.join(t.reason for t in triggers)}", held)
    if passed and not triggers:
        current += (
            f"; {'; '.join(t.reason for t in passed)}, as at the last retraining, which brought no better"
            " release"
        )
    return _build_decision(report, facts, triggers, current)


def _list_triggers(report: MonitorReport, champion: ChampionFigures, params: RetrainParams) -> list[Trigger]:
    age, ratio = champion.age_steps, champion.error_ratio
    triggers = []
    if age > params.max_age_steps:
        reason = (
            f"{age} steps of data since the last training that was judged, more than {params.max_age_steps}"
        )
        triggers.append(Trigger("age", reason))
    breaches = params.list_breaches(ratio, champion.coverage_frac)
    triggers += [Trigger(name, reason) for name, reason in breaches.items()]
    is_worse = ratio is not None and ratio > params.max_drift_error_ratio
    if "error" not in breaches and is_worse and report.drift and report.drift.is_drifting:
        reason = (
            f"{report.drift.n_alarmed} of {report.drift.n_streams} inputs drift, and the loss since the"
            f" promotion is {ratio:.2f} times the gate's, more than {params.max_drift_error_ratio:g}"
        )
        triggers.append(Trigger("drift", reason))
    return triggers


def _is_as_before(
    trigger: Trigger, champion: ChampionFigures, params: RetrainParams, retrainings: Sequence[Retraining]
) -> bool:
    """Whether the last retraining by *trigger* was in vain, and the figure is hardly worse now."""
    started = [r for r in retrainings if trigger.name in r.triggers and r.digest == champion.digest]
    if not started or started[-1].ended_at is None:
        return False
    badness, before = (_get_badness(trigger.name, figures) for figures in (champion, started[-1].facts))
    return badness is not None and before is not None and badness <= before * (1 + params.worse_frac)


def _get_badness(trigger: str, figures: ChampionFigures | RetrainFacts) -> float | None:
    """The figure of *trigger*, the larger the worse; None for one that passes with time."""
    if trigger in {"error", "drift"}:
        return figures.error_ratio
    if trigger == "coverage" and figures.coverage_frac is not None:
        return 1 - figures.coverage_frac
    return None


def _find_hold(
    report: MonitorReport,
    params: RetrainParams,
    step_length: timedelta,
    retrainings: Sequence[Retraining],
) -> str | None:
    """Why no retraining may start now; None when one may."""
    if not retrainings:
        return None
    passed_steps = (report.as_of - retrainings[-1].as_of) / step_length
    if passed_steps < params.cooldown_steps:
        return (
            f"held back, the last retraining is {passed_steps:.0f} steps of data ago and"
            f" `retrain.cooldown_steps` is {params.cooldown_steps}"
        )
    n_recent = sum(report.as_of - r.as_of < timedelta(days=7) for r in retrainings)
    if n_recent >= params.max_per_week:
        return (
            f"held back, there were {n_recent} retrainings in seven days of data and `retrain.max_per_week`"
            f" is {params.max_per_week}"
        )
    return None


def _format_figures(champion: ChampionFigures) -> str:
    ratio, covered = champion.error_ratio, champion.coverage_frac
    figures = [
        *([f"loss {ratio:.2f} times the gate's"] if ratio else []),
        *([f"{covered:.0%} within the interval"] if covered is not None else []),
    ]
    return ", ".join(figures) or f"too few have an outcome ({champion.n_known} steps)"


def _build_decision(
    report: MonitorReport,
    facts: RetrainFacts,
    triggers: list[Trigger],
    current: str,
    held: str | None = None,
) -> RetrainDecision:
    reasons = tuple(trigger.reason for trigger in triggers)
    return RetrainDecision(
        due=bool(triggers),
        triggers=tuple(trigger.name for trigger in triggers),
        reasons=reasons,
        reason="; ".join(reasons) or current,
        held=held,
        facts=facts,
        as_of=report.as_of,
        dataset=report.dataset,
    )
