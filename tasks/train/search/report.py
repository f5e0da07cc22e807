"""What a search found, for people: search.json, its charts, a line of text, runs in MLflow."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tasks.core.errors import TidemillError
from tasks.edges.artifacts import write_json, write_text
from tasks.edges.tracking import log_run
from tasks.train.fits import FitContext, decode_fit
from tasks.train.plan import FitPlan
from tasks.train.search.charts import render_front, render_importances, render_trials
from tasks.train.search.importance import LEAST_TRIALS, ParamImportance
from tasks.train.search.judge import InnerWalk, score_fit
from tasks.train.search.params import SearchParams
from tasks.train.search.study import get_study_folder
from tasks.train.search.trial import SearchTrial, find_pareto_front

VARIES = ("latency",)  # objectives that differ from run to run: never in an output of the stage
TrialLogger = Callable[[str, int, SearchTrial | None], None]


class SearchResult(NamedTuple):
    """own: the model's parameters with the chosen ones among them. trials: those that count.
    start_error: of the parameters before. importances: of what was searched.
    """

    inner: InnerWalk
    own: dict[str, Any]
    chosen: SearchTrial | None
    trials: list[SearchTrial]
    start_error: float
    importances: list[ParamImportance]

    def pictures(self) -> dict[str, str]:
        """As SVG by the file's name: how the error fell from trial to trial, or where a steady
        objective stands beside it the front of the two; and the importances.
        """
        others = list_steady(self.inner.search)[1:]
        tried = (
            _render_front_chart(self.trials, others[0], self.chosen)
            if others
            else render_trials(
                [t.values.get("error") for t in self.trials],
                self.start_error,
                self.chosen and self.chosen.number,
            )
        )
        return {
            "search": tried,
            "importances": render_importances(
                [(i.param, i.shares, i.n_trials) for i in self.importances], LEAST_TRIALS
            ),
        }


def build_search_report(
    searched: SearchResult, ground: FitContext, plan: FitPlan, fits: dict[int, bytes]
) -> dict[str, Any]:
    """What one search did, and what its gain was worth: the inner errors beside those of the
    cutoffs that its first fold serves, which it had not seen.
    """
    inner, search = searched.inner, searched.inner.search
    steady = list_steady(search)
    outer = _score_outer(searched, ground, plan, fits)
    said = None if searched.chosen is None else searched.chosen.number
    return {
        "as_of": ground.panel.cutoff[inner.at].isoformat(),
        "score": inner.primary_loss[0],
        "n_trials": len(searched.trials),
        "states": {
            state: sum(t.state == state for t in searched.trials)
            for state in ("complete", "pruned", "refused")
        },
        "chosen": {
            "trial": said,
            "params": {} if searched.chosen is None else searched.chosen.params,
            "own": searched.own,
        },
        "inner": {
            "error": searched.start_error if searched.chosen is None else searched.chosen.error,
            "error_before": _convert_infinite(searched.start_error),
            "n_cutoffs": search.inner_cutoffs,
        },
        "outer": outer,
        "overfit": None if outer is None else _compute_gain(searched) - outer["gain"],
        "inner_gain": _compute_gain(searched),
        "front": [t.number for t in find_pareto_front(searched.trials, steady)],
        "importances": [one.row() for one in searched.importances],
        "trials": [
            {
                "trial": t.number,
                "state": t.state,
                "params": t.params,
                **{o: t.values[o] for o in steady if o in t.values},
                **({"why": t.why} if t.why else {}),
            }
            for t in searched.trials
        ],
    }


def _score_outer(
    searched: SearchResult, ground: FitContext, plan: FitPlan, fits: dict[int, bytes]
) -> dict[str, Any] | None:
    """Loss over the cutoffs of the fold that the search precedes, of its fit and of one with the
    parameters before; None when the budget left no fit.
    """
    fold = next(f for f in plan.folds if f.fit_at == searched.inner.at)
    if fold.fit_at not in fits:
        return None
    fit = decode_fit(fits[fold.fit_at], ground)
    error = score_fit(fit, searched.inner, ground.panel, fold.origins)
    try:
        before = (
            error
            if searched.chosen is None
            else score_fit(ground.learn(fold.fit_at, ground.own), searched.inner, ground.panel, fold.origins)
        )
    except TidemillError:
        return {"error": error, "error_before": None, "gain": 0.0, "n_cutoffs": len(fold.origins)}
    return {
        "error": error,
        "error_before": before,
        "gain": 1 - error / before if before else 0.0,
        "n_cutoffs": len(fold.origins),
    }


def _compute_gain(searched: SearchResult) -> float:
    """How much smaller the inner error got, as a share; 0 where there was nothing to compare
    with.
    """
    return (
        0.0
        if searched.chosen is None or not np.isfinite(searched.start_error) or not searched.start_error
        else 1 - searched.chosen.error / searched.start_error
    )


def _convert_infinite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def list_steady(search: SearchParams) -> tuple[str, ...]:
    """Objectives that are the same in each run, the error first."""
    return tuple(o for o in search.objectives if o not in VARIES)


def write_fronts(
    key: str, trials: list[SearchTrial], search: SearchParams, chosen: SearchTrial | None
) -> None:
    """In the study's folder, since they may hold what varies: the front as a table, and a
    picture for each objective beside the error.
    """
    if search.objectives[1:]:
        best = find_pareto_front(trials, search.objectives)
        write_json(
            get_study_folder(key) / "front.json",
            [{"trial": t.number, "params": t.params, **t.values} for t in best],
        )
        for objective in search.objectives[1:]:
            write_text(
                get_study_folder(key) / f"front_{objective}.svg",
                _render_front_chart(trials, objective, chosen),
            )


def _render_front_chart(trials: list[SearchTrial], objective: str, chosen: SearchTrial | None) -> str:
    """Every complete trial by *objective* and error, with the front of the two."""
    complete = [t for t in trials if t.state == "complete"]
    best = find_pareto_front(complete, ("error", objective))
    points = [(t.values[objective], t.error) for t in complete]
    return render_front(
        points,
        {i for i, t in enumerate(complete) if t in best},
        objective,
        None if chosen is None else complete.index(chosen),
    )


def format_result(searched: SearchResult) -> str:
    """One line: how many trials, what the error depends on, what was chosen."""
    weighed = [
        f"{one.param} {100 * one.shares['error']:.0f} %" for one in searched.importances if one.shares
    ][:3]
    depends = (
        f"the error depends on {', '.join(weighed)}"
        if weighed
        else f"too few to say what the error depends on ({LEAST_TRIALS} must come to an end)"
    )
    n = (
        f"{len(searched.trials)} trials, {sum(t.state == 'pruned' for t in searched.trials)} pruned;"
        f" {depends}"
    )
    if searched.chosen is None:
        return (
            f"{n}; none is better than the parameters in params.yaml, inner error {searched.start_error:.4g}"
        )
    return (
        f"{n}; {searched.chosen.params}, inner error {searched.chosen.error:.4g}, before"
        f" {searched.start_error:.4g}"
    )


def build_mlflow_logger(dataset: str, model: str, data_hash: str) -> TrialLogger:
    """Each search as a run of *dataset*, each of its trials as a run nested in it; a trial that
    is told twice is one run.
    """
    parents: dict[str, str] = {}
    tags = {"tidemill.data": data_hash, "tidemill.dataset": dataset, "tidemill.model": model}

    def tell(key: str, began_ns: int, trial: SearchTrial | None) -> None:
        name, own = f"search-{model}-{key[:8]}", {**tags, "tidemill.search": key}
        if trial is None:
            parents[key] = log_run(dataset, name, {}, {}, own, ended_ns=began_ns)
        else:
            own |= {"tidemill.state": trial.state}
            log_run(
                dataset,
                f"{name}-{trial.place}",
                trial.params,
                trial.values,
                own,
                parent=parents[key],
                ended_ns=trial.ended_ns,
            )

    return tell
