"""The stage in one screen: plan the folds, make the fits, forecast out of sample, then the
gate's rows by the fit as of seen_until.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.schema import FeatureSchema
from tasks.core.score_table import compute_mean_scores, score_elements
from tasks.core.seasonal import build_seasonal_from_panel
from tasks.core.windows import Fold, Panel, build_folds, build_panel
from tasks.edges.fold_cache import compute_code_digest
from tasks.forecasters import Forecaster
from tasks.train.fits import FitContext, decode_fit
from tasks.train.overlap import check_overlap
from tasks.train.params import TrainParams, split_model_params
from tasks.train.plan import FitPlan, build_plan_json, describe_plan, plan_fits
from tasks.train.search.search import TrialLogger, build_search_report, run_searches
from tasks.train.select import build_selection_report
from tasks.train.transfer import load_starting_fit
from tasks.train.walk import WalkForecasts, build_forecast_frame, predict_walk, run_fits


class TrainResult(NamedTuple):
    """forecasts: out of sample, before the gate's rows. gate: the final fit over them. metrics:
    see `score`. plan: of the walk. search, selection: what was chosen inside the windows, None
    where nothing was.
    """

    forecasts: pl.DataFrame
    gate: pl.DataFrame
    fit: Forecaster
    facts: dict[str, Any]
    metrics: dict[str, Any]
    plan: dict[str, Any]
    search: list[dict[str, Any]] | None = None
    selection: dict[str, Any] | None = None


def fit_model(
    model: str,
    features: pl.DataFrame,
    schema: FeatureSchema,
    about: About,
    calendar: Calendar,
    params: TrainParams,
    model_params: dict[str, Any],
    gate_steps: int,
    say: Callable[[str], None] = print,
    vintages: pl.DataFrame | None = None,
    tell: TrialLogger | None = None,
) -> TrainResult:
    """Walk *model* forward over the features (FEATURES) and earlier vintages of their values
    (VINTAGES).

    model_params: the model's own, some of which `OwnTraining` takes. tell: hears of every trial of
    a search.
    """
    until = None if params.budget_s is None else time.monotonic() + params.budget_s
    own, of_forecaster = split_model_params(model, model_params)
    walk = (
        params
        if own.refit_every_cutoffs is None
        else params.model_copy(update={"refit_every_cutoffs": own.refit_every_cutoffs})
    )
    panel = build_panel(features, schema, calendar, vintages)
    n_steps = len(panel.event_time)
    last_origin = n_steps - 1 - gate_steps
    folds = build_folds(n_steps, last_origin, about.horizon_steps, walk)
    check_overlap(features, panel, [*folds, Fold(last_origin, np.array([], dtype=np.int64))], walk, vintages)
    del features  # the panel holds it
    plan = plan_fits(panel, folds, walk, last_origin, own)
    say(f"{model}: {describe_plan(plan, panel, walk)}")

    ground = FitContext(
        panel, walk, own.forecaster or model, walk.seed, of_forecaster, compute_code_digest(), (), own.select
    )
    searches = (
        []
        if own.search is None
        else run_searches(ground, plan, own.search, about, say, until, *([] if tell is None else [tell]))
    )
    ground = ground._replace(searched=tuple((s.inner.at, s.own) for s in searches))
    start = None if own.start_from is None else load_starting_fit(own.start_from, ground, plan)
    fits = run_fits(ground, plan, say, until, start)
    kept = build_plan_json(plan, panel, walk, set(fits))
    if left_out := kept["n_cutoffs_left_out"]:
        say(
            f"{model}: THE BUDGET of {params.budget_s:g} s ended after {len(fits)} of {len(plan.ats)} fits."
            f" The oldest {left_out} of {walk.n_cutoffs} cutoffs have no forecasts. What is done is kept:"
            " raise `train.budget_s` and run again to go on from there."
        )
    final = decode_fit(fits[plan.release_cutoff], ground)
    x, where = panel.at(np.arange(last_origin, n_steps))
    forecasts = build_forecast_frame(panel, predict_walk(ground, plan, fits), about, calendar, model)
    gate = build_forecast_frame(panel, WalkForecasts(where, final.predict(x)), about, calendar, model)
    facts = {
        "model": model,
        "forecaster": ground.forecaster,
        "seen_until": panel.cutoff[last_origin].isoformat(),
        "as_of": panel.cutoff[-1].isoformat(),
        "folds": [
            {"fit_at": fold["fit_at"], "n_cutoffs": fold["n_cutoffs"]}
            for fold in kept["folds"]
            if fold["done"]
        ],
        "params": ground.get_params_at(plan.release_cutoff),
        "refit": own.refit,
        "start_from": (
            None if start is None else {"folder": own.start_from, "sha256": hashlib.sha256(start).hexdigest()}
        ),
        "stride_steps": walk.stride_steps,
    }
    trained = TrainResult(forecasts, gate, final, facts, score(forecasts, about, panel), kept)
    if searches:
        started = ground._replace(searched=())
        trained = trained._replace(search=[build_search_report(s, started, plan, fits) for s in searches])
    return (
        trained
        if own.select is None
        else trained._replace(selection=_build_selection(ground, plan, fits, schema))
    )


def _build_selection(
    ground: FitContext, plan: FitPlan, fits: dict[int, bytes], schema: FeatureSchema
) -> dict[str, Any]:
    """Which columns the fit of each fold kept, and the shipped one."""
    kept = [
        (ground.panel.cutoff[at].isoformat(), set(schema.names) - set(decode_fit(fits[at], ground).ignored))  # type: ignore[attr-defined]
        for at in sorted(fits)
    ]
    return build_selection_report(
        schema,
        ground.build(ground.get_params_at(plan.release_cutoff)).dispensable,  # type: ignore[attr-defined]
        kept,
    )


def score(forecasts: pl.DataFrame, about: About, panel: Panel) -> dict[str, Any]:
    """Mean losses over all cutoffs whose y is known: MAE, RMSE and bias in the target's unit and
    the primary loss, overall and by series, step, year and cutoff (counted from 1).

    Here each model speaks for itself, without the level factor that `ensemble` adds before it
    compares.
    """
    names = ("mae", "rmse", "bias")
    seasonal = build_seasonal_from_panel(panel, about)
    yardstick = None if seasonal is None else seasonal.scaling_errors_of_rows(forecasts)
    scored = score_elements(forecasts, names, primary=about.primary_score, yardstick=yardstick)

    def means(*by: str) -> pl.DataFrame:
        return compute_mean_scores(scored, by).select(
            *by, *names, pl.col("primary").alias(f"primary_{about.primary_score}"), "n"
        )

    numbered = means("cutoff").with_columns(cutoff=pl.col("cutoff").rank("dense").cast(pl.Int64))
    return {
        "overall": (means().to_dicts() or [{"n": 0}])[0],
        "by_series": means("series_id").to_dicts(),
        "by_step": means("step").to_dicts(),
        "by_year": means("year").to_dicts(),
        "by_cutoff": numbered.to_dicts(),
    }
