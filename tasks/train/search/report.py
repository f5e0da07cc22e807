"""What a search found, for people: search.json, its trials, a line of text, runs in MLflow."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tasks.core.errors import TidemillError
from tasks.edges.artifacts import write_json
from tasks.edges.event_log import Fields, append_event
from tasks.edges.tracking import TrainedModel, log_run
from tasks.train.fits import FitContext, decode_fit
from tasks.train.plan import FitPlan
from tasks.train.search.importance import MIN_TRIALS, ParamImportance
from tasks.train.search.judge import InnerWalk, score_fit
from tasks.train.search.study import get_study_folder
from tasks.train.search.trial import SearchTrial, find_pareto_front

TrialLogger = Callable[[str, int, SearchTrial | None], None]


class SearchResult(NamedTuple):
    """What a search found.

    model_params: the model's parameters, the chosen ones among them.
    chosen: the best trial; None if none is better than the parameters in params.yaml.
    trials: those that count.
    start_error: inner error of the parameters in params.yaml.
    importances: of what was searched.
    """

    inner: InnerWalk
    model_params: dict[str, Any]
    chosen: SearchTrial | None
    trials: list[SearchTrial]
    start_error: float
    importances: list[ParamImportance]


def build_search_report(
    result: SearchResult, context: FitContext, plan: FitPlan, fits: dict[int, bytes]
) -> dict[str, Any]:
    """search.json: the trials, and the gain inside the search against the gain on unseen cutoffs.

    fits: archives by origin; the one as of the search's cutoff has the chosen parameters.
    """
    inner, search, chosen = result.inner, result.inner.search, result.chosen
    objectives = search.reproducible_objectives
    outer = _score_outer(result, context, plan, fits)
    return {
        "as_of": context.panel.cutoff[inner.origin].isoformat(),
        "study": inner.key,
        "score": inner.primary_loss[0],
        "n_trials": len(result.trials),
        "states": {
            state: sum(t.state == state for t in result.trials) for state in ("complete", "pruned", "refused")
        },
        "chosen": {
            "trial": None if chosen is None else chosen.number,
            "params": {} if chosen is None else chosen.params,
            "model_params": result.model_params,
        },
        "inner": {
            "error": result.start_error if chosen is None else chosen.error,
            "error_before": result.start_error if np.isfinite(result.start_error) else None,
            "n_cutoffs": search.inner_cutoffs,
        },
        "outer": outer,
        "overfit": None if outer is None else _compute_gain(result) - outer["gain"],
        "inner_gain": _compute_gain(result),
        "front": [t.number for t in find_pareto_front(result.trials, objectives)],
        "importances": [importance.build_row() for importance in result.importances],
        "trials": [
            {
                "trial": t.number,
                "state": t.state,
                "params": t.params,
                **{o: t.values[o] for o in objectives if o in t.values},
                **({"why": t.why} if t.why else {}),
            }
            for t in result.trials
        ],
    }


def write_trials(inner: InnerWalk, trials: list[SearchTrial]) -> None:
    """Write all trials with every objective, and the front, into the study's folder.

    They are no output of the stage, since a latency differs from run to run.
    """
    objectives, folder = inner.search.objectives, get_study_folder(inner.key)
    if objectives[1:]:
        rows = [{"trial": t.number, "state": t.state, "params": t.params, **t.values} for t in trials]
        write_json(folder / "trials.json", {"objectives": objectives, "trials": rows})
        front = find_pareto_front(trials, objectives)
        write_json(
            folder / "front.json", [{"trial": t.number, "params": t.params, **t.values} for t in front]
        )


def format_result(result: SearchResult) -> str:
    """One line: how many trials, what the error depends on, what was chosen."""
    shares = [f"{i.param} {100 * i.shares['error']:.0f} %" for i in result.importances if i.shares][:3]
    depends = (
        f"the error depends on {', '.join(shares)}"
        if shares
        else f"too few to find what the error depends on ({MIN_TRIALS} complete ones are needed)"
    )
    n_pruned = sum(t.state == "pruned" for t in result.trials)
    trials = f"{len(result.trials)} trials, {n_pruned} pruned; {depends}"
    start_error, chosen = f"{result.start_error:.4g}", result.chosen
    if chosen is None:
        return f"{trials}; none is better than the parameters in params.yaml, inner error {start_error}"
    return f"{trials}; {chosen.params}, inner error {chosen.error:.4g}, before {start_error}"


def build_mlflow_logger(trained: TrainedModel) -> TrialLogger:
    """Logs each search of a training as a run, and each of its trials as a run nested in it.

    The logger takes the study's key, its start (ns since 1970) and a trial, or None for the search.
    A trial that is logged twice is one run.
    """
    parents: dict[str, str] = {}
    dataset, model = trained.dataset, trained.model
    searching = trained._replace(started_ns=None, epochs=())

    def log_trial(key: str, start_ns: int, trial: SearchTrial | None) -> None:
        name, run_tags = f"search-{model}-{key[:8]}", {**trained.tags, "tidemill.search": key}
        if trial is None:
            parents[key] = log_run(dataset, name, {}, {}, run_tags, ended_ns=start_ns, training=searching)
        else:
            figures: Fields = {
                "number": trial.number,
                "state": trial.state,
                "error": trial.values.get("error"),
            }
            append_event("training.trial", dataset, model, figures)
            log_run(
                dataset,
                f"{name}-{trial.study_number}",
                trial.params,
                trial.values,
                {**run_tags, "tidemill.state": trial.state},
                parent=parents[key],
                ended_ns=trial.ended_ns,
            )

    return log_trial


def _score_outer(
    result: SearchResult, context: FitContext, plan: FitPlan, fits: dict[int, bytes]
) -> dict[str, Any] | None:
    """Loss over the cutoffs of the fold after the search, with the chosen parameters and without.

    None when the budget ended before the fold's fit.
    """
    fold = next(f for f in plan.folds if f.fit_at == result.inner.origin)
    if fold.fit_at not in fits:
        return None
    fit = decode_fit(fits[fold.fit_at], context)
    error = score_fit(fit, result.inner, context.panel, fold.origins)
    try:
        error_before = (
            error
            if result.chosen is None
            else score_fit(
                context.learn(fold.fit_at, context.model_params), result.inner, context.panel, fold.origins
            )
        )
    except TidemillError:
        error_before = None
    gain = 1 - error / error_before if error_before else 0.0
    return {"error": error, "error_before": error_before, "gain": gain, "n_cutoffs": len(fold.origins)}


def _compute_gain(result: SearchResult) -> float:
    """By what fraction the inner error fell; 0 where there is nothing to compare with."""
    if result.chosen is None or not np.isfinite(result.start_error) or not result.start_error:
        return 0.0
    return 1 - result.chosen.error / result.start_error
