"""Compare the monitor's figures with three limits."""

from tasks.core.reports.monitor import ChampionFigures, MonitorReport
from tasks.core.reports.retrain import RetrainDecision, RetrainFacts
from tasks.retrain.params import RetrainParams


def decide_retraining(report: MonitorReport, params: RetrainParams) -> RetrainDecision:
    """Decide whether retraining is due: each limit that is exceeded is a reason.

    A figure that is None is no reason.
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
    return _build_decision(report, facts, _list_reasons(champion, params), current)


def _list_reasons(champion: ChampionFigures, params: RetrainParams) -> list[str]:
    age, reasons = champion.age_steps, []
    if age > params.max_age_steps:
        reasons.append(
            f"{age} steps of data since the last training that was judged, more than {params.max_age_steps}"
        )
    return reasons + params.list_breaches(champion.error_ratio, champion.coverage_frac)


def _format_figures(champion: ChampionFigures) -> str:
    ratio, covered = champion.error_ratio, champion.coverage_frac
    figures = [
        *([f"loss {ratio:.2f} times the gate's"] if ratio else []),
        *([f"{covered:.0%} within the interval"] if covered is not None else []),
    ]
    return ", ".join(figures) or f"too few have an outcome ({champion.n_known} steps)"


def _build_decision(
    report: MonitorReport, facts: RetrainFacts, reasons: list[str], current: str
) -> RetrainDecision:
    return RetrainDecision(
        due=bool(reasons),
        reasons=tuple(reasons),
        reason="; ".join(reasons) or current,
        facts=facts,
        as_of=report.as_of,
        dataset=report.dataset,
    )
