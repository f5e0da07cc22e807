"""The stage in one screen: split the history, search, fit, forecast out of sample, then the gate.

The gate's rows are forecast by the fit as of seen_until.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import polars as pl

from tasks.core.panel import Panel
from tasks.core.reports.train import (
    FitReport,
    FittedFold,
    MetricsReport,
    PlanReport,
    SearchEntry,
    SearchReport,
    SelectionReport,
    StartingFit,
)
from tasks.core.score_table import compute_mean_scores
from tasks.core.seasonal import build_seasonal_from_panel
from tasks.edges.event_log import get_event_label
from tasks.edges.fit_cache import compute_code_digest
from tasks.forecasters import Forecaster
from tasks.train.fits import FitContext, decode_fit
from tasks.train.params import ModelTraining, TrainParams, split_model_params
from tasks.train.plan import build_plan_report, describe_plan
from tasks.train.search.report import SearchResult, TrialLogger, build_search_report
from tasks.train.search.search import run_searches
from tasks.train.select import build_selection_report
from tasks.train.split import HistorySplit, TrainingData, split_history
from tasks.train.transfer import load_starting_fit
from tasks.train.walk import WalkForecasts, build_forecast_frame, predict_walk, run_fits


class TrainResult(NamedTuple):
    """What the stage writes.

    forecasts: out of sample, before the gate's rows.
    gate: forecasts of the gate's rows, by the final fit.
    metrics: see `score`.
    plan: of the walk.
    search, selection: what was chosen inside the windows, None where nothing was.
    """

    forecasts: pl.DataFrame
    gate: pl.DataFrame
    fit: Forecaster
    facts: FitReport
    metrics: MetricsReport
    plan: PlanReport
    search: SearchReport | None = None
    selection: SelectionReport | None = None


class WalkFits(NamedTuple):
    """The fits of a walk.

    fits: by origin.
    start: the fit that they continue from.
    searches: what was tried inside the windows.
    """

    context: FitContext
    fits: dict[int, bytes]
    start: bytes | None
    searches: list[SearchResult]


def fit_model(
    model: str,
    data: TrainingData,
    params: TrainParams,
    model_params: dict[str, Any],
    log: Callable[[str], None] = print,
    on_trial: TrialLogger | None = None,
) -> TrainResult:
    """Walk *model* forward over *data*.

    model_params: the model's own, some of which `ModelTraining` takes.
    on_trial: called with every trial of a search.
    """
    deadline = None if params.budget_s is None else time.monotonic() + params.budget_s
    training, forecaster_params = split_model_params(model, model_params)
    split = split_history(data, params, training)
    log(f"{model}: {describe_plan(split.plan, split.panel, split.walk)}")
    context = FitContext(
        split.panel,
        split.walk,
        training.forecaster or model,
        params.seed,
        forecaster_params,
        compute_code_digest(),
        select=training.select,
        label=get_event_label(),
    )
    searches = _search_params(context, split, training, log, deadline, on_trial)
    context = context._replace(searched=tuple((s.inner.origin, s.model_params) for s in searches))
    start = (
        None if training.start_from is None else load_starting_fit(training.start_from, context, split.plan)
    )
    fits = run_fits(context, split.plan, log, deadline, start)
    if n_left_out := split.plan.count_left_out(set(fits)):
        log(
            f"{model}: THE BUDGET of {params.budget_s:g} s ended after {len(fits)} of"
            f" {len(split.plan.origins)} fits. The oldest {n_left_out} of {split.walk.n_cutoffs} cutoffs have"
            " no forecasts. What is done is kept: raise `train.budget_s` and run again to continue."
        )
    return _build_result(model, split, training, WalkFits(context, fits, start, searches))


def _search_params(
    context: FitContext,
    split: HistorySplit,
    training: ModelTraining,
    log: Callable[[str], None],
    deadline: float | None,
    on_trial: TrialLogger | None,
) -> list[SearchResult]:
    """The searches inside the windows; none where the model's parameters are fixed."""
    if training.search is None:
        return []
    further = () if on_trial is None else (on_trial,)
    about = split.panel.dataset.about
    return run_searches(context, split.plan, training.search, about, log, deadline, *further)


def _build_result(model: str, split: HistorySplit, training: ModelTraining, trained: WalkFits) -> TrainResult:
    """Forecasts and reports of the fits that are there."""
    panel, plan, context, fits = split.panel, split.plan, trained.context, trained.fits
    final = decode_fit(fits[plan.release_cutoff], context)
    x, positions = panel.get_inputs(split.gate_origins)
    gate = WalkForecasts(positions, panel.add_centres(final.predict(x), positions[:, 1]))
    forecasts = build_forecast_frame(panel, predict_walk(context, plan, fits), model)
    plan_report = build_plan_report(plan, panel, split.walk, set(fits))
    return TrainResult(
        forecasts,
        build_forecast_frame(panel, gate, model),
        final,
        _build_fit_report(model, split, training, trained, plan_report),
        score(forecasts, panel),
        plan_report,
        _build_search_report(split, trained) if trained.searches else None,
        None if training.select is None else _build_selection(split, trained),
    )


def _build_fit_report(
    model: str, split: HistorySplit, training: ModelTraining, trained: WalkFits, plan_report: PlanReport
) -> FitReport:
    """What the shipped fit is, and the folds that there are forecasts of."""
    panel, plan, start = split.panel, split.plan, trained.start
    return FitReport(
        model=model,
        forecaster=trained.context.forecaster,
        seen_until=panel.cutoff[plan.last_origin],
        as_of=panel.cutoff[-1],
        folds=tuple(
            FittedFold(fit_at=fold.fit_at, n_cutoffs=fold.n_cutoffs)
            for fold in plan_report.folds
            if fold.done
        ),
        params=trained.context.get_params_at(plan.release_cutoff),
        refit=training.refit,
        start_from=(
            None
            if start is None
            else StartingFit(folder=str(training.start_from), sha256=hashlib.sha256(start).hexdigest())
        ),
        stride_steps=split.walk.stride_steps,
    )


def _build_search_report(split: HistorySplit, trained: WalkFits) -> SearchReport:
    unsearched = trained.context._replace(searched=())
    entries = (build_search_report(s, unsearched, split.plan, trained.fits) for s in trained.searches)
    return SearchReport(searches=tuple(SearchEntry.model_validate(entry) for entry in entries))


def _build_selection(split: HistorySplit, trained: WalkFits) -> SelectionReport:
    """Which columns the fit of each fold sees, and the shipped one."""
    context, panel = trained.context, split.panel
    seen = [
        (
            panel.cutoff[origin],
            set(panel.schema.names) - set(decode_fit(trained.fits[origin], context).ignored),  # type: ignore[attr-defined]
        )
        for origin in sorted(trained.fits)
    ]
    shipped = context.build(context.get_params_at(split.plan.release_cutoff))
    return build_selection_report(panel.schema, shipped.dispensable, seen)  # type: ignore[attr-defined]


def score(forecasts: pl.DataFrame, panel: Panel) -> MetricsReport:
    """Mean scores over all cutoffs whose y is known, and the primary loss.

    Overall and by series, step, year and cutoff (counted from 1). Each model is scored alone,
    without the level factor that `ensemble` adds before it compares.
    """
    about, kind = panel.dataset.about, panel.dataset.kind
    seasonal = build_seasonal_from_panel(panel)
    scaling_errors = None if seasonal is None else seasonal.scaling_errors_of_rows(forecasts)
    names = (*kind.train_scores, "primary")
    scored = kind.score_elements(about, forecasts, names, scaling_errors)

    def means(*by: str) -> pl.DataFrame:
        table = compute_mean_scores(scored, by, names)
        return table.select(
            *by, *kind.train_scores, pl.col("primary").alias(f"primary_{about.primary_score}"), "n"
        )

    numbered = means("cutoff").with_columns(cutoff=pl.col("cutoff").rank("dense").cast(pl.Int64))
    return MetricsReport(
        overall=(means().to_dicts() or [{"n": 0}])[0],
        by_series=tuple(means("series_id").to_dicts()),
        by_step=tuple(means("step").to_dicts()),
        by_year=tuple(means("year").to_dicts()),
        by_cutoff=tuple(numbered.to_dicts()),
    )
