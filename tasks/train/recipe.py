"""How a retraining differs from params.yaml: a shorter window as well, or longer searches."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tasks.core.reports.retrain import Recipe
from tasks.train.params import TrainParams
from tasks.train.search.params import SearchParams
from tasks.train.search.report import TrialLogger
from tasks.train.split import TrainingData
from tasks.train.stage import TrainResult, fit_model

WINDOW_FRAC = 0.5  # of the history before the gate's rows
SEARCH_FACTOR = 4  # trials, in relation to params.yaml


def fit_by_recipe(
    recipe: Recipe,
    model: str,
    data: TrainingData,
    params: TrainParams,
    model_params: dict[str, Any],
    log: Callable[[str], None] = print,
    on_trial: TrialLogger | None = None,
) -> TrainResult:
    """Walk *model* forward as *recipe* says (see `RetrainDecision`); the rest as in `fit_model`.

    After a change, what came before it misleads a fit, and a shorter window has fewer rows: which
    matters more is measured. The window with the lower loss over the newer half of the walk's
    cutoffs serves; equal losses keep the full one. None of the gate's rows has a part in it.
    Source: Pesaran & Timmermann 2007, doi:10.1016/j.jeconom.2006.03.010 (cross-validated window).
    """
    if recipe == "search" and (search := model_params.get("search")):
        n_trials = SEARCH_FACTOR * search.get("n_trials", SearchParams.model_fields["n_trials"].default)
        model_params = {**model_params, "search": {**search, "n_trials": n_trials}}
    full = fit_model(model, data, params, model_params, log, on_trial)
    window_steps = max(params.min_train_steps, round(WINDOW_FRAC * (full.plan.last_origin + 1)))
    if recipe == "full" or window_steps >= (params.window_steps or full.plan.last_origin + 1):
        return full
    shorter = params.model_copy(update={"window_steps": window_steps})
    recent = fit_model(model, data, shorter, model_params, log, on_trial)
    n_judged = max(1, min(len(full.metrics.by_cutoff), len(recent.metrics.by_cutoff)) // 2)
    losses = [_compute_newest_loss(result, n_judged) for result in (full, recent)]
    is_recent_better = losses[1] < losses[0]
    log(
        f"{model}: over the newest {n_judged} cutoffs the loss is {losses[0]:.4g} with the full window and"
        f" {losses[1]:.4g} with {window_steps} steps; the {'shorter' if is_recent_better else 'full'} one"
        " serves"
    )
    return recent if is_recent_better else full


def _compute_newest_loss(result: TrainResult, n_cutoffs: int) -> float:
    """Mean primary loss over the newest cutoffs that have an outcome; NaN without any."""
    rows = result.metrics.by_cutoff[-n_cutoffs:]
    losses = [value for row in rows for name, value in row.items() if name.startswith("primary_")]
    return float(np.mean(np.array(losses, dtype=np.float64)))
