"""The trials of a search: each is drawn, judged and recorded in the study; one is the best."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tasks.core.errors import ForecasterError, TidemillError
from tasks.edges.workers.fanout import MapOptions, run_jobs
from tasks.train.fits import FitContext
from tasks.train.search.judge import InnerWalk, compute_costs, score_folds
from tasks.train.search.params import SearchParams, merge_params
from tasks.train.search.study import REFUSAL, list_finished, open_study, register_drawn, start_trial


class SearchTrial(NamedTuple):
    """A trial that ended.

    number: in the order in which trials started, from 1.
    state: `complete`, `pruned` or `refused`.
    params: what was drawn.
    values: of the objectives; empty unless complete.
    why: reason of a refusal.
    study_number: in the study, where killed trials count too.
    ended_ns: since 1970.
    """

    number: int
    state: str
    params: dict[str, Any]
    values: dict[str, float]
    why: str | None
    study_number: int
    ended_ns: int

    @property
    def error(self) -> float:
        """Mean loss over the inner walk."""
        return self.values["error"]


def run_trials(
    inner: InnerWalk, n: int, go_on: Callable[[], bool], on_trial: Callable[[SearchTrial], None]
) -> None:
    """Run *n* more trials; with one worker in this process, so that each draws from all before it.

    go_on: asked before each trial; False ends the search.
    on_trial: called with each trial that ended.
    """
    if inner.search.workers == 1:
        for job in range(n):
            if not go_on():
                return
            on_trial(run_trial(inner, job))
    else:
        releases_gil = getattr(type(inner.context.build()), "releases_gil", False)
        options = MapOptions(inner.search.workers, releases_gil)
        run_jobs(run_trial, inner, list(range(n)), options, lambda _i, trial: on_trial(trial), go_on)


def run_trial(inner: InnerWalk, _job: int) -> SearchTrial:
    """Draw one trial, judge it and record it in the study."""
    from optuna.trial import TrialState

    study = open_study(inner.key, inner.search)
    trial = start_trial(study, inner.search, inner.context.seed)
    full_params = _build_full_params(inner.context)
    for name, axis in inner.search.space.items():
        if axis.is_applicable(full_params):
            full_params = merge_params(full_params, {name: axis.draw(trial, name)})
    register_drawn(trial)
    model_params = merge_params(inner.context.model_params, _parse_params(trial.params, inner.search))
    try:
        for fold, scored in enumerate(score_folds(inner, model_params)):
            error, fit = scored
            if len(inner.search.objectives) == 1:
                trial.report(error, fold)
                if inner.search.prune and fold + 1 < len(inner.folds) and trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    break
        else:
            study.tell(trial, [error, *compute_costs(fit, inner)])
    except TidemillError as refusal:
        trial.set_user_attr(REFUSAL, str(refusal))
        study.tell(trial, state=TrialState.FAIL)
    return next(t for t in list_trials(study, inner.search) if t.study_number == trial.number)


def list_trials(study: Any, search: SearchParams) -> list[SearchTrial]:
    """The finished trials of *study*."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "refused"}
    return [
        SearchTrial(
            number,
            states[t.state.name],
            _parse_params(t.params, search),
            dict(zip(search.objectives, t.values or (), strict=False)) if t.state.name == "COMPLETE" else {},
            t.user_attrs.get(REFUSAL),
            t.number,
            int(t.datetime_complete.timestamp() * 1e9),
        )
        for number, t in enumerate(list_finished(study), 1)
    ]


def find_best_trial(
    trials: list[SearchTrial], search: SearchParams, start_error: float
) -> SearchTrial | None:
    """The complete trial with the least error, or the least `prefer` within `within_frac` of it.

    start_error: of the parameters in params.yaml; if it is the least, the result is None.
    Raises ForecasterError when no trial is complete.
    """
    complete = [t for t in trials if t.state == "complete"]
    if not complete:
        raise ForecasterError(
            f"None of {len(trials)} trials of the search is complete; the last was refused:"
            f" {trials[-1].why}. Correct `search.space`."
        )
    least = min(t.error for t in complete)
    if search.prefer == "error":
        if start_error < least:
            return None
    else:
        complete = [t for t in complete if t.error <= least * (1 + search.within_frac)]
    return min(complete, key=lambda t: (t.values[search.prefer], t.error, t.number))


def find_pareto_front(trials: list[SearchTrial], objectives: tuple[str, ...]) -> list[SearchTrial]:
    """Complete trials that no other beats in one of *objectives* without losing in another."""
    complete = [t for t in trials if t.state == "complete"]
    values = np.array([[t.values[o] for o in objectives] for t in complete])
    values = values.reshape(len(complete), len(objectives))
    beaten = [bool(((values <= v).all(axis=1) & (values < v).any(axis=1)).any()) for v in values]
    return [t for t, is_beaten in zip(complete, beaten, strict=True) if not is_beaten]


def _build_full_params(context: FitContext) -> dict[str, Any]:
    """The model's parameters with its defaults, which `when` refers to."""
    params = getattr(context.build(), "params", None)
    return {**(params.model_dump() if params is not None else {}), **context.model_params}


def _parse_params(stored: dict[str, Any], search: SearchParams) -> dict[str, Any]:
    """What the study stored, as values, in the order of the space."""
    return {name: axis.parse(stored[name]) for name, axis in search.space.items() if name in stored}
