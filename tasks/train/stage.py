"""The stage in one screen: plan the folds, walk forward, fit once more as of seen_until, forecast the gate's rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.schema import FeatureSchema
from tasks.core.scores import PRIMARY
from tasks.core.windows import Fold, panel_of, plan_folds
from tasks.forecasters import Forecaster, build_forecaster
from tasks.train.overlap import refuse_overlap
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
    refuse_overlap(features, panel, [*folds, Fold(last_origin, np.array([], dtype=np.int64))], walk)
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
    """Mean losses over all cutoffs whose y is known: MAE and RMSE in the target's unit and the primary loss, overall, by series, by year and by cutoff (counted from 1).

    Here each model speaks for itself, without the level factor that `ensemble` adds before it compares.
    """
    known = forecasts.filter(pl.col("y").is_not_null())
    y, y_hat = known["y"].to_numpy(), known["y_hat"].to_numpy()
    scored = known.with_columns(
        absolute=pl.Series(np.abs(y - y_hat)),
        squared=pl.Series((y - y_hat) ** 2),
        primary=pl.Series(PRIMARY[about.primary_score](y, y_hat)).fill_nan(None),
    )
    means = [
        pl.col("absolute").mean().alias("mae"),
        pl.col("squared").mean().sqrt().alias("rmse"),
        pl.col("primary").mean().alias(f"primary_{about.primary_score}"),
        pl.len().alias("n"),
    ]
    by_series = scored.group_by("series_id").agg(means).sort("series_id")
    by_year = scored.group_by(pl.col("cutoff").dt.year().alias("year")).agg(means).sort("year")
    by_cutoff = scored.group_by("cutoff").agg(means).sort("cutoff").with_columns(cutoff=pl.col("cutoff").rank("dense").cast(pl.Int64))
    return {
        "overall": scored.select(means).row(0, named=True),
        "by_series": by_series.to_dicts(),
        "by_year": by_year.to_dicts(),
        "by_cutoff": by_cutoff.to_dicts(),
    }
