"""The stage in one screen: plan the folds, walk forward, fit once more as of seen_until, forecast the gate's rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.schema import FeatureSchema
from tasks.core.score_table import elements, mean_scores
from tasks.core.windows import panel_of, plan_folds
from tasks.forecasters import Forecaster, build_forecaster
from tasks.train.params import TrainParams
from tasks.train.walk import Predicted, fit_at, forecast_frame, walk_forward


class Trained(NamedTuple):
    """forecasts: out of sample, before the gate's rows. gate: the final fit over them. metrics: see `score`."""

    forecasts: pl.DataFrame
    gate: pl.DataFrame
    fit: Forecaster
    facts: dict[str, Any]
    metrics: dict[str, Any]


def train(
    model: str,
    features: pl.DataFrame,
    schema: FeatureSchema,
    about: About,
    calendar: Calendar,
    params: TrainParams,
    model_params: dict[str, Any],
    gate_steps: int,
    say: Callable[[str], None] = print,
) -> Trained:
    """Walk *model* forward. Its own parameters may hold `refit_every_cutoffs`, when it refits more rarely than the others, and `forecaster`, when its name is not that of one."""
    own = dict(model_params)
    forecaster = own.pop("forecaster", model)
    walk = params.model_copy(update={"refit_every_cutoffs": own.pop("refit_every_cutoffs", params.refit_every_cutoffs)})
    panel = panel_of(features, schema, calendar)
    n_steps = len(panel.event_time)
    last_origin = n_steps - 1 - gate_steps
    folds = plan_folds(n_steps, last_origin, about.horizon_steps, walk)
    say(
        f"{model}: {walk.n_cutoffs} cutoffs from {panel.cutoff[int(folds[0].fit_at)]:%F} to {panel.cutoff[last_origin]:%F}, {len(folds)} fits, {len(panel.series_ids)} series"
    )

    def build() -> Forecaster:
        return build_forecaster(forecaster, schema, walk.seed, own)

    predicted = walk_forward(panel, folds, walk, build, say)
    final = fit_at(panel, last_origin, walk, build)
    x, where = panel.at(np.arange(last_origin, n_steps))
    forecasts = forecast_frame(panel, predicted, about, calendar, model)
    gate = forecast_frame(panel, Predicted(where, final.predict(x)), about, calendar, model)
    facts = {
        "model": model,
        "forecaster": forecaster,
        "seen_until": panel.cutoff[last_origin].isoformat(),
        "as_of": panel.cutoff[-1].isoformat(),
        "folds": [{"fit_at": panel.cutoff[f.fit_at].isoformat(), "n_cutoffs": len(f.origins)} for f in folds],
        "params": own,
        "stride_steps": walk.stride_steps,
    }
    return Trained(forecasts, gate, final, facts, score(forecasts, about))


def score(forecasts: pl.DataFrame, about: About) -> dict[str, Any]:
    """Mean losses over all cutoffs whose y is known: MAE, RMSE and bias in the target's unit and the primary loss, overall and by series, step, year and cutoff (counted from 1).

    Here each model speaks for itself, without the level factor that `ensemble` adds before it compares.
    """
    names = ("mae", "rmse", "bias")
    scored = elements(forecasts, names, primary=about.primary_score)

    def means(*by: str) -> pl.DataFrame:
        return mean_scores(scored, by).select(*by, *names, pl.col("primary").alias(f"primary_{about.primary_score}"), "n")

    numbered = means("cutoff").with_columns(cutoff=pl.col("cutoff").rank("dense").cast(pl.Int64))
    return {
        "overall": (means().to_dicts() or [{"n": 0}])[0],
        "by_series": means("series_id").to_dicts(),
        "by_step": means("step").to_dicts(),
        "by_year": means("year").to_dicts(),
        "by_cutoff": numbered.to_dicts(),
    }
