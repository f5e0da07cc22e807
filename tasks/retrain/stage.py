"""The stage in one screen: the monitor's figures against three limits."""

from typing import Any

from tasks.retrain.params import RetrainParams

FACTS = ("digest", "version", "trained_as_of", "age_steps", "n_known", "error_ratio", "coverage_frac")


def decide_retraining(report: dict[str, Any], params: RetrainParams) -> dict[str, Any]:
    """decision.json from report.json of monitor: `due`, `reasons`, and both in one sentence.

    A figure that is None is no reason.
    """
    champion = report["champion"]
    if champion is None:
        return _build_decision(report, {}, [], "there is no champion yet, so there is nothing to retrain")
    age, ratio, covered = champion["age_steps"], champion["error_ratio"], champion["coverage_frac"]
    reasons = [
        *(
            [f"{age} steps of data since the last training that was judged, more than {params.max_age_steps}"]
            if age > params.max_age_steps
            else []
        ),
        *(
            [
                (
                    f"the loss since the promotion is {ratio:.2f} times the gate's, more than"
                    f" {params.max_error_ratio:g}"
                )
            ]
            if ratio and ratio > params.max_error_ratio
            else []
        ),
        *(
            [f"{covered:.0%} of outcomes lie within the interval, less than {params.min_coverage_frac:.0%}"]
            if covered is not None and covered < params.min_coverage_frac
            else []
        ),
    ]
    well = (
        f"the last training is {age} steps old (of {params.max_age_steps}); since the promotion:"
        f" {_format_figures(ratio, covered, champion['n_known'])}"
    )
    return _build_decision(report, {k: champion[k] for k in FACTS}, reasons, well)


def _format_figures(ratio: float | None, covered: float | None, n_known: int) -> str:
    said = [
        *([f"loss {ratio:.2f} times the gate's"] if ratio else []),
        *([f"{covered:.0%} within the interval"] if covered is not None else []),
    ]
    return ", ".join(said) or f"too few have come true ({n_known} steps)"


def _build_decision(
    report: dict[str, Any], facts: dict[str, Any], reasons: list[str], well: str
) -> dict[str, Any]:
    return {
        "due": bool(reasons),
        "reasons": reasons,
        "reason": "; ".join(reasons) or well,
        "facts": facts,
        "as_of": report["as_of"],
        "dataset": report["dataset"],
    }
