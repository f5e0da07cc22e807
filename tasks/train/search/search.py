"""Searching parameters inside the training window, as of one cutoff or several."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tasks.core.about import About
from tasks.train.fits import FitContext
from tasks.train.plan import FitPlan
from tasks.train.search.importance import compute_importances
from tasks.train.search.judge import InnerWalk, build_inner_walk, score_start
from tasks.train.search.params import SearchParams, merge_params
from tasks.train.search.report import SearchResult, TrialLogger, format_result, write_trials
from tasks.train.search.study import delete_old_studies, get_attribute, list_finished, open_locked_study
from tasks.train.search.trial import SearchTrial, find_best_trial, list_trials, run_trials

_BUDGETS = "n_trials_of_budget"  # attribute of a study: after how many trials each budget ended
_N_LOGGED = "n_logged"  # attribute of a study: how many of its trials were logged


def run_searches(
    context: FitContext,
    plan: FitPlan,
    search: SearchParams,
    about: About,
    report: Callable[[str], None],
    deadline: float | None = None,
    log_trial: TrialLogger = lambda _key, _start_ns, _trial: None,
) -> list[SearchResult]:
    """A search as of the first fold, and as of every `every_folds`-th.

    deadline: on the monotonic clock; no trial starts after it.
    log_trial: called with a study's key, its start (ns since 1970) and None, then with each trial
    that ended; again with those of a search that was killed.
    """
    n_folds = len(plan.folds) if search.every_folds and plan.refit != "frozen" else 1
    origins = [plan.folds[i].fit_at for i in range(0, n_folds, search.every_folds or 1)]
    results = [run_search(context, o, search, about, report, deadline, log_trial) for o in origins]
    delete_old_studies()
    return results


def run_search(
    context: FitContext,
    origin: int,
    search: SearchParams,
    about: About,
    report: Callable[[str], None],
    deadline: float | None = None,
    log_trial: TrialLogger = lambda _key, _start_ns, _trial: None,
) -> SearchResult:
    """The search as of the cutoff with *origin*; it goes on from what an earlier one has tried."""
    inner, as_of = build_inner_walk(context, origin, search, about), f"{context.panel.cutoff[origin]:%F}"
    with open_locked_study(inner.key, search) as study:
        start_error = score_start(study, inner)
        trials = _run_missing_trials(
            study, inner, lambda message: report(f"search as of {as_of}: {message}"), deadline, log_trial
        )
        chosen = find_best_trial(trials, search, start_error)
        write_trials(inner, trials)
        complete = [t for t in list_finished(study)[: len(trials)] if t.state.name == "COMPLETE"]
    for reused in inner.reused:
        reused.clear()  # the search is over, the training goes on
    positions = {o: search.objectives.index(o) for o in search.reproducible_objectives}
    importances = compute_importances(complete, list(search.space), positions, context.seed)
    model_params = (
        context.model_params if chosen is None else merge_params(context.model_params, chosen.params)
    )
    result = SearchResult(inner, model_params, chosen, trials, start_error, importances)
    report(f"search as of {as_of}: {format_result(result)}")
    return result


def _run_missing_trials(
    study: Any,
    inner: InnerWalk,
    report: Callable[[str], None],
    deadline: float | None,
    log_trial: TrialLogger,
) -> list[SearchTrial]:
    """Run what is missing of *study* until its number of trials, its budget or *deadline*.

    Returns the trials that count: a study may hold more, from a search with a larger number.
    """
    search, n_of_budget = inner.search, study.user_attrs.get(_BUDGETS, {})
    n_wanted = min(search.n_trials, n_of_budget.get(str(search.budget_s), search.n_trials))
    trials = list_trials(study, search)
    if len(trials) >= n_wanted and study.user_attrs.get(_N_LOGGED, 0) >= len(trials):
        return trials[:n_wanted]
    report(
        f"{len(trials)} of {n_wanted} trials are there, over {len(search.space)} parameters, inner walk of"
        f" {search.inner_cutoffs} cutoffs"
    )
    start_ns = get_attribute(study, "start_ns", time.time_ns)
    for trial in (None, *trials):
        log_trial(inner.key, start_ns, trial)
    budget_end = np.inf if search.budget_s is None else time.monotonic() + search.budget_s
    end = min(budget_end, np.inf if deadline is None else deadline)
    run_trials(
        inner,
        n_wanted - len(trials),
        lambda: time.monotonic() < end or not list_finished(study),
        lambda trial: log_trial(inner.key, start_ns, trial),
    )
    trials = list_trials(study, search)
    if len(trials) < n_wanted:
        report(
            f"THE BUDGET ended it after {len(trials)} of {n_wanted} trials; they are kept, and a larger"
            " budget goes on from there"
        )
        if deadline is None or end < deadline:
            study.set_user_attr(_BUDGETS, {**n_of_budget, str(search.budget_s): len(trials)})
    study.set_user_attr(_N_LOGGED, len(trials))
    return trials[:n_wanted]
