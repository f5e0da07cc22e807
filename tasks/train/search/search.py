"""Searching parameters inside the window, as of one cutoff or several."""

import time
from collections.abc import Callable

import numpy as np

from tasks.core.about import About
from tasks.train.fits import FitContext
from tasks.train.plan import FitPlan
from tasks.train.search.importance import compute_importances
from tasks.train.search.judge import build_inner_walk, score_start
from tasks.train.search.params import SearchParams, merge_params
from tasks.train.search.report import SearchResult, TrialLogger, format_result, list_steady, write_fronts
from tasks.train.search.study import delete_old_studies, get_attribute, list_finished, open_locked_study
from tasks.train.search.trial import find_best_trial, list_trials, run_trials

_ENDED = "ended"  # attribute of a study: after how many trials each budget ended


def run_searches(
    ground: FitContext,
    plan: FitPlan,
    search: SearchParams,
    about: About,
    say: Callable[[str], None],
    until: float | None = None,
    tell: TrialLogger = lambda _key, _began, _trial: None,
) -> list[SearchResult]:
    """A search as of the first fold, and as of every `every_folds`-th. until: on the monotonic
    clock, when no further trial begins.

    tell: called with a study's key, when it began (ns since 1970) and None, then with each trial
    that ended; also again with those of a search that was killed.
    """
    places = range(
        0, len(plan.folds) if search.every_folds and plan.refit != "frozen" else 1, search.every_folds or 1
    )
    searched = [run_search(ground, plan.folds[i].fit_at, search, about, say, until, tell) for i in places]
    delete_old_studies()
    return searched


def run_search(
    ground: FitContext,
    at: int,
    search: SearchParams,
    about: About,
    say: Callable[[str], None],
    until: float | None = None,
    tell: TrialLogger = lambda _key, _began, _trial: None,
) -> SearchResult:
    """The search as of the cutoff with origin *at*; what an earlier one, killed or not, has
    tried is taken as it is.
    """
    inner = build_inner_walk(ground, at, search, about)
    with open_locked_study(inner.key, search) as study:
        start_error = score_start(study, inner)
        ended = study.user_attrs.get(_ENDED, {})
        wanted = min(search.n_trials, ended.get(str(search.budget_s), search.n_trials))
        done = list_trials(study, search)
        if len(done) < wanted or study.user_attrs.get("told", 0) < len(done):
            say(
                f"search as of {ground.panel.cutoff[at]:%F}: {len(done)} of {wanted} trials are there, over"
                f" {len(search.space)} parameters, inner walk of {search.inner_cutoffs} cutoffs"
            )
            began_ns = get_attribute(study, "began_ns", time.time_ns)
            for trial in (None, *done):
                tell(inner.key, began_ns, trial)
            stops = min(
                (
                    t
                    for t in (until, None if search.budget_s is None else time.monotonic() + search.budget_s)
                    if t is not None
                ),
                default=np.inf,
            )
            run_trials(
                inner,
                wanted - len(done),
                lambda: time.monotonic() < stops or not list_finished(study),
                lambda trial: tell(inner.key, began_ns, trial),
            )
            done = list_trials(study, search)
            if len(done) < wanted:
                say(
                    f"search as of {ground.panel.cutoff[at]:%F}: THE BUDGET ended it after {len(done)} of"
                    f" {wanted} trials; what is done is kept, a larger one goes on from there"
                )
                if until is None or stops < until:
                    study.set_user_attr(_ENDED, {**ended, str(search.budget_s): len(done)})
            study.set_user_attr("told", len(done))
        trials = done[:wanted]
        chosen = find_best_trial(trials, search, start_error)
        write_fronts(inner.key, trials, search, chosen)
        complete = [t for t in list_finished(study)[:wanted] if t.state.name == "COMPLETE"]
    for left in inner.reused:
        left.clear()  # the search is over, the training goes on
    weighed = compute_importances(
        complete,
        list(search.space),
        {o: search.objectives.index(o) for o in list_steady(search)},
        ground.seed,
    )
    searched = SearchResult(
        inner,
        ground.own if chosen is None else merge_params(ground.own, chosen.params),
        chosen,
        trials,
        start_error,
        weighed,
    )
    say(f"search as of {ground.panel.cutoff[at]:%F}: {format_result(searched)}")
    return searched
