"""One trial: drawn, judged, kept in the study; and which of them is best."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tasks.core.errors import ForecasterError, TidemillError
from tasks.edges.workers.fanout import MapOptions, run_jobs
from tasks.train.fits import FitContext
from tasks.train.search.judge import InnerWalk, compute_costs, score_folds
from tasks.train.search.params import SearchParams, merge_params
from tasks.train.search.study import WHY, list_finished, open_study, register_drawn, start_trial


class SearchTrial(NamedTuple):
    """One that came to an end.

    number: in the order in which they began, from 1. state: `complete`, `pruned` or `refused`.
    params: what was drawn. values: of the objectives, none unless complete. why: it was refused.
    place: in the study, where killed ones count. ended_ns: since 1970.
    """

    number: int
    state: str
    params: dict[str, Any]
    values: dict[str, float]
    why: str | None
    place: int
    ended_ns: int

    @property
    def error(self) -> float:
        """Mean loss of the inner walk."""
        return self.values["error"]


def run_trials(
    inner: InnerWalk, n: int, go_on: Callable[[], bool], done: Callable[[SearchTrial], None]
) -> None:
    """*n* trials more: one after the other here with one worker, so that each draws from all
    before it.
    """
    if inner.search.workers == 1:
        for job in range(n):
            if not go_on():
                return
            done(run_trial(inner, job))
    else:
        releases_gil = getattr(type(inner.ground.build()), "releases_gil", False)
        run_jobs(
            run_trial,
            inner,
            list(range(n)),
            MapOptions(inner.search.workers, releases_gil),
            lambda _i, trial: done(trial),
            go_on,
        )


def run_trial(inner: InnerWalk, _job: int) -> SearchTrial:
    """One trial: drawn, judged, told to the study."""
    from optuna.trial import TrialState

    study = open_study(inner.key, inner.search)
    trial = start_trial(study, inner.search, inner.ground.seed)
    own: dict[str, Any] = _build_full_params(inner.ground)
    for name, axis in inner.search.space.items():
        if axis.is_applicable(own):
            own = merge_params(own, {name: axis.draw(trial, name)})
    register_drawn(trial)
    given = merge_params(inner.ground.own, _parse_params(trial.params, inner.search))
    try:
        # The last fit is weighed below
        for place, (error, fit) in enumerate(score_folds(inner, given)):  # noqa: B007
            if len(inner.search.objectives) == 1:
                trial.report(error, place)
                if inner.search.prune and place + 1 < len(inner.folds) and trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    break
        else:
            study.tell(trial, [error, *compute_costs(fit, inner)])
    except TidemillError as refusal:
        trial.set_user_attr(WHY, str(refusal))
        study.tell(trial, state=TrialState.FAIL)
    return next(t for t in list_trials(study, inner.search) if t.place == trial.number)


def list_trials(study: Any, search: SearchParams) -> list[SearchTrial]:
    """The finished trials of *study*."""
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "refused"}
    return [
        SearchTrial(
            number,
            names[t.state.name],
            _parse_params(t.params, search),
            dict(zip(search.objectives, t.values or (), strict=False)) if t.state.name == "COMPLETE" else {},
            t.user_attrs.get(WHY),
            t.number,
            int(t.datetime_complete.timestamp() * 1e9),
        )
        for number, t in enumerate(list_finished(study), 1)
    ]


def find_best_trial(
    trials: list[SearchTrial], search: SearchParams, start_error: float
) -> SearchTrial | None:
    """The complete trial with the least error, or with the least of what `prefer` names among those
    within `within_frac` of it; None: what was there is better.

    Raises ForecasterError when the model refused every trial.
    """
    complete = [t for t in trials if t.state == "complete"]
    if not complete:
        raise ForecasterError(
            f"None of {len(trials)} trials of the search came to an end; the last: {trials[-1].why}. Correct"
            " `search.space`."
        )
    least = min(t.error for t in complete)
    if start_error < least and search.prefer == "error":
        return None
    near = (
        [t for t in complete if t.error <= least * (1 + search.within_frac)]
        if search.prefer != "error"
        else complete
    )
    return min(near, key=lambda t: (t.values[search.prefer], t.error, t.number))


def find_pareto_front(trials: list[SearchTrial], objectives: tuple[str, ...]) -> list[SearchTrial]:
    """Complete trials that no other beats in one of *objectives* without losing in another."""
    complete = [t for t in trials if t.state == "complete"]
    values = np.array([[t.values[o] for o in objectives] for t in complete]).reshape(
        len(complete), len(objectives)
    )
    beaten = [bool(((values <= v).all(axis=1) & (values < v).any(axis=1)).any()) for v in values]
    return [t for t, is_beaten in zip(complete, beaten, strict=True) if not is_beaten]


def _build_full_params(ground: FitContext) -> dict[str, Any]:
    """The model's parameters, those that params.yaml leaves to it included, for `when`."""
    params = getattr(ground.build(), "params", None)
    return {**(params.model_dump() if params is not None else {}), **ground.own}


def _parse_params(params: dict[str, Any], search: SearchParams) -> dict[str, Any]:
    """What the study kept, as values, in the order of the space."""
    return {name: axis.read(params[name]) for name, axis in search.space.items() if name in params}
