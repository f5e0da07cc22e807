"""How the policies' forecasts turned out, on the cutoffs that all of them forecast."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.reports.simulate import PairedGain, PolicyResult, SimulatedYear
from tasks.core.seasonal import Seasonal, build_seasonal_from_rows
from tasks.monitor.outcome import build_outcomes, compute_figures
from tasks.promote.gate import compare_forecasts, select_known_truth
from tasks.promote.params import PromoteParams
from tasks.simulate.history import ReplayedHistory
from tasks.simulate.run import PolicyRun

_FORECAST_KEY = ["series_id", "cutoff", "step"]


class PolicyOutcomes(NamedTuple):
    """The policies' results.

    losses: policy, cutoff, loss, coverage_frac: means over series and steps.
    """

    results: tuple[PolicyResult, ...]
    losses: pl.DataFrame


class _Pairing(NamedTuple):
    """What all policies are compared on."""

    about: About
    params: PromoteParams
    seasonal: Seasonal | None


def compare_policies(
    history: ReplayedHistory, runs: Sequence[PolicyRun], seconds: Sequence[float]
) -> PolicyOutcomes:
    """Figures of each policy and its gain against each other.

    seconds: processor seconds of the trainings of each run.
    """
    params = history.document.parse_stage("promote", PromoteParams)
    params = params.model_copy(update={"min_gain_frac": 0.0})
    truth = select_known_truth(history.rows, history.about)
    pairing = _Pairing(
        history.about, params, build_seasonal_from_rows(truth, history.about, history.calendar)
    )
    outcomes = [
        build_outcomes(frame, history.rows, history.about, history.calendar, {})
        for frame in _select_shared([run.forecasts for run in runs])
    ]
    results = []
    for i, run in enumerate(runs):
        gains = tuple(
            _compare_outcomes(outcomes[i], outcomes[j], other.policy.name, pairing)
            for j, other in enumerate(runs)
            if j != i
        )
        results.append(_build_result(run, outcomes[i], gains, seconds[i]))
    tables = [
        pl.DataFrame(compute_figures(outcome, ["cutoff"]), infer_schema_length=None)
        .filter(pl.col("n_known") > 0)
        .select(pl.lit(run.policy.name).alias("policy"), "cutoff", "loss", "coverage_frac")
        for run, outcome in zip(runs, outcomes, strict=True)
    ]
    return PolicyOutcomes(tuple(results), pl.concat(tables))


def _select_shared(forecasts: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """Of each frame the rows that every other has, too."""
    keys = forecasts[0].select(_FORECAST_KEY)
    for frame in forecasts[1:]:
        keys = keys.join(frame.select(_FORECAST_KEY), on=_FORECAST_KEY, how="semi")
    return [frame.join(keys, on=_FORECAST_KEY, how="semi") for frame in forecasts]


def _compare_outcomes(
    ours: pl.DataFrame, theirs: pl.DataFrame, opponent: str, pairing: _Pairing
) -> PairedGain:
    """By the gate's own comparison; two runs with the same forecasts have no gain, and p is 1."""
    gate = compare_forecasts(ours, theirs, pairing.about, pairing.params, pairing.seasonal)
    return PairedGain(opponent=opponent, gain_frac=gate.gain_frac, p=gate.p)


def _build_result(
    run: PolicyRun, outcomes: pl.DataFrame, gains: tuple[PairedGain, ...], seconds: float
) -> PolicyResult:
    overall = compute_figures(outcomes, [])[0]
    by_year = compute_figures(outcomes.with_columns(year=pl.col("cutoff").dt.year()), ["year"])
    drifting = [tick.is_drifting for tick in run.ticks]
    later = run.ticks[1:]
    return PolicyResult.model_validate(
        {name: overall[name] for name in ("n_known", "loss", "mae", "coverage_frac")}
        | {
            "policy": run.policy.name,
            "n_drift_alarms": sum(now and not before for before, now in pairwise(drifting)),
            "n_due": sum(tick.due for tick in later),
            "n_retrainings": len(run.trainings),
            "n_promotions": sum(tick.verdict == "promote" for tick in later),
            "compute_s": seconds,
            "gains": gains,
            "by_year": [
                {name: row[name] for name in SimulatedYear.model_fields} for row in by_year if row["n_known"]
            ],
            "ticks": run.ticks,
        }
    )
