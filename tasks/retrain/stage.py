"""Compare the monitor's figures with their limits, and hold back what would come too often."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import polars as pl

from tasks.core.reports.monitor import ChampionFigures, MonitorReport
from tasks.core.reports.retrain import RetrainDecision, RetrainFacts
from tasks.retrain.journal import Retraining
from tasks.retrain.params import RetrainParams
from tasks.retrain.recipe import decide_recipe


class Trigger(NamedTuple):
    """What makes a retraining due (see `RetrainDecision`), and a sentence about it."""

    name: str
    reason: str


def decide_retraining(
    report: MonitorReport,
    params: RetrainParams,
    step_length: timedelta,
    retrainings: Sequence[Retraining] = (),
    changed_columns: Sequence[str] = (),
    *,
    is_last_running: bool = False,
    has_search: bool = False,
) -> RetrainDecision:
    """Decide whether retraining is due, and how it trains.

    Each limit that is passed is a reason. A figure that is None is none, and neither is one that
    the last retraining left as it was. While the champion stays, each of the triggers error,
    coverage and drift starts at most 1 + log(worst / first figure) / log(1 + worse_frac)
    retrainings, schema one for each change. All together start at most `max_per_week` in any seven
    days of data, and one more for each that was interrupted.
    step_length: of the clock; a calendar with days off has fewer steps in a week.
    retrainings: the earlier ones, oldest first.
    changed_columns: as in `RetrainFacts`.
    is_last_running: whether the process of the last retraining still runs.
    has_search: whether a model of the dataset has a section `search`.
    """
    champion = report.champion
    if champion is None:
        reason = "there is no champion yet, so there is nothing to retrain"
        return RetrainDecision(
            due=False, reasons=(), reason=reason, facts=RetrainFacts(), as_of=report.as_of,
            dataset=report.dataset,
        )  # fmt: skip
    facts = _build_facts(report, champion, changed_columns)
    passed = _list_triggers(report, facts, params)
    triggers = [t for t in passed if not _is_as_before(t, facts, params, retrainings)]
    held = _find_hold(report, params, step_length, retrainings, is_last_running=is_last_running)
    current = _describe_figures(report, champion, params)
    if (interrupted := _find_interrupted(retrainings)) and not is_last_running:
        triggers, held = [interrupted], None
    elif passed and not triggers:
        current += (
            f"; {'; '.join(t.reason for t in passed)}, as at the last retraining, which brought no better"
            " release"
        )
    elif triggers and held:
        current, triggers = f"{held}: {'; '.join(t.reason for t in triggers)}", []
    reasons = tuple(trigger.reason for trigger in triggers)
    names = tuple(trigger.name for trigger in triggers)
    recipe = decide_recipe(names, retrainings, champion.digest, params.search_after, has_search=has_search)
    return RetrainDecision(
        due=bool(triggers),
        triggers=names,
        reasons=reasons,
        reason="; ".join(reasons) or current,
        held=held,
        recipe=recipe.recipe,
        recipe_reason=recipe.reason,
        facts=facts,
        as_of=report.as_of,
        dataset=report.dataset,
    )


def list_changed_columns(trained: Mapping[str, pl.DataType], now: Mapping[str, pl.DataType]) -> list[str]:
    """How the columns of the rows have changed since a training, by name, as in `RetrainFacts`.

    Numbers of another width are of the same kind, and a column without any value is of every kind.
    """
    before, after = ({name: _get_kind(dtype) for name, dtype in s.items()} for s in (trained, now))
    return [
        f"+{name}"
        if name not in before
        else f"-{name}"
        if name not in after
        else f"{name}: {before[name]} -> {after[name]}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name) and "nothing" not in {before.get(name), after.get(name)}
    ]


def _get_kind(dtype: pl.DataType) -> str:
    return "nothing" if dtype == pl.Null else "number" if dtype.is_numeric() else str(dtype)


def _build_facts(
    report: MonitorReport, champion: ChampionFigures, changed_columns: Sequence[str]
) -> RetrainFacts:
    ours = {name: getattr(champion, name) for name in RetrainFacts.model_fields if hasattr(champion, name)}
    return RetrainFacts(**ours, n_blocks=report.n_blocks, changed_columns=tuple(changed_columns))


def _list_triggers(report: MonitorReport, facts: RetrainFacts, params: RetrainParams) -> list[Trigger]:
    age, ratio, n_blocks = facts.age_steps or 0, facts.error_ratio, facts.n_blocks or 0
    triggers = []
    if age > params.max_age_steps:
        reason = (
            f"{age} steps of data since the last training that was judged, more than {params.max_age_steps}"
        )
        triggers.append(Trigger("age", reason))
    reasons = params.list_breaches(ratio, facts.coverage_frac, n_blocks)
    for level in report.service_levels:
        if level.is_degraded:
            name = "coverage" if level.figure == "coverage" else "error"
            alarm = f"the alarm of the {level.name} is open since {level.alarm_at:%F %H:%M}"
            reasons[name] = f"{reasons[name]}; {alarm}" if name in reasons else alarm
    triggers += [Trigger(name, reason) for name, reason in reasons.items()]
    is_worse = ratio is not None and ratio > params.max_drift_error_ratio and n_blocks >= params.min_blocks
    if "error" not in reasons and is_worse and report.drift and report.drift.is_drifting:
        reason = (
            f"{report.drift.n_alarmed} of {report.drift.n_streams} inputs drift, and the loss since the"
            f" promotion is {ratio:.2f} times the gate's, more than {params.max_drift_error_ratio:g}"
        )
        triggers.append(Trigger("drift", reason))
    if facts.changed_columns:
        changes = ", ".join(facts.changed_columns)
        triggers.append(Trigger("schema", f"the columns have changed since the training: {changes}"))
    return triggers


def _is_as_before(
    trigger: Trigger, facts: RetrainFacts, params: RetrainParams, retrainings: Sequence[Retraining]
) -> bool:
    """Whether the last retraining by *trigger* was in vain, and the figure is hardly worse now."""
    started = [r for r in retrainings if trigger.name in r.triggers and r.digest == facts.digest]
    if not started or started[-1].new_digest is None:
        return False
    before = started[-1].facts
    if trigger.name == "schema":
        return facts.changed_columns == before.changed_columns
    badness, badness_before = (_get_badness(trigger.name, figures) for figures in (facts, before))
    if badness is None or badness_before is None:
        return False
    return badness <= badness_before * (1 + params.worse_frac)


def _get_badness(trigger: str, figures: RetrainFacts) -> float | None:
    """The figure of *trigger*, the larger the worse; None for one that passes with time."""
    if trigger in {"error", "drift"}:
        return figures.error_ratio
    if trigger == "coverage" and figures.coverage_frac is not None:
        return 1 - figures.coverage_frac
    return None


def _find_interrupted(retrainings: Sequence[Retraining]) -> Trigger | None:
    """The last retraining, when it began, has no end, and was the first try."""
    if not retrainings or retrainings[-1].ended_at is not None or retrainings[-1].is_second_try:
        return None
    started = retrainings[-1]
    reason = f"the retraining of {started.started_at:%F %T}Z was interrupted and is tried once more"
    return Trigger("interrupted", f"{reason}: {started.reason}")


def _find_hold(
    report: MonitorReport,
    params: RetrainParams,
    step_length: timedelta,
    retrainings: Sequence[Retraining],
    *,
    is_last_running: bool,
) -> str | None:
    """Why no retraining may start now; None when one may."""
    if not retrainings:
        return None
    if is_last_running:
        return f"held back, the retraining of {retrainings[-1].started_at:%F %T}Z still runs"
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


def _describe_figures(report: MonitorReport, champion: ChampionFigures, params: RetrainParams) -> str:
    ratio, covered, drift = champion.error_ratio, champion.coverage_frac, report.drift
    figures = [
        *([f"loss {ratio:.2f} times the gate's"] if ratio else []),
        *([f"{covered:.0%} within the interval"] if covered is not None else []),
    ]
    described = ", ".join(figures) or f"too few have an outcome ({champion.n_known} steps)"
    if figures and report.n_blocks < params.min_blocks:
        described += (
            f", over {report.n_blocks} independent blocks, fewer than `retrain.min_blocks` ="
            f" {params.min_blocks}"
        )
    current = (
        f"the last training is {champion.age_steps} steps old (of {params.max_age_steps}); since the"
        f" promotion: {described}"
    )
    if drift is not None and drift.is_drifting:
        current += f"; {drift.n_alarmed} of {drift.n_streams} inputs drift, which alone is no reason"
    return current
