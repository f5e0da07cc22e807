"""Jobs that fit: models of the dataset, walked forward, fitted on all rows, and their forecasts."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.dataset import Dataset
from tasks.core.extensions import list_extension_folders
from tasks.core.frames import format_quantile_column
from tasks.core.leaks import check_leaks
from tasks.core.panel import build_panel
from tasks.edges.params import ParamsDocument
from tasks.edges.settings import ROOT
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.issue import build_issued_frame, build_issuer
from tasks.ensemble.params import EnsembleParams
from tasks.features.functions import resolve_functions
from tasks.features.leaks import find_leaks
from tasks.features.params import FeatureParams
from tasks.features.stage import build_feature_set
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import TrainResult, fit_model


class FittedModel(NamedTuple):
    """A model after its walk.

    scores: means over the walk's cutoffs, out of sample, with the coverage of its intervals.
    loss: of these the primary one.
    forecasts: from the newest rows, with the dataset's quantiles and without y.
    """

    name: str
    scores: Mapping[str, object]
    loss: float | None
    forecasts: pl.DataFrame
    seconds: float


def fit_models(
    document: ParamsDocument,
    rows: pl.DataFrame,
    models: Sequence[str],
    report: Callable[[int, int, str], None],
) -> list[FittedModel]:
    """The *models* of the document's dataset on *rows* (SERIES), the best first.

    As a training does it, without rows of a gate: the last fit has seen all of *rows*.
    report: called with what is done, of how many, and the next model.
    Raises LeakError when a feature knows the future, FoldError when the rows are too few.
    """
    data = _build_data(document, rows)
    params = document.parse_stage("train", TrainParams)
    fitted = []
    for k, model in enumerate(models):
        report(k, len(models), model)
        began = time.monotonic()
        trained = fit_model(model, data, params, document.get_model_params(model), log=lambda _: None)
        fitted.append(_describe_fit(document, data, trained, time.monotonic() - began))
    report(len(models), len(models), "")
    return sorted(fitted, key=lambda fit: (fit.loss is None, fit.loss))


def _build_data(document: ParamsDocument, rows: pl.DataFrame) -> TrainingData:
    about = document.about
    params = resolve_functions(document.parse_stage("features", FeatureParams), *list_extension_folders(ROOT))
    features = build_feature_set(rows, about, params)
    check_leaks(find_leaks(rows, about, features.params, features.table, features.calendar), "the job")
    dataset = Dataset(about, features.calendar, features.schema)
    return TrainingData(features.table, dataset, 0, features.vintages)


def _describe_fit(
    document: ParamsDocument, data: TrainingData, trained: TrainResult, seconds: float
) -> FittedModel:
    about = document.about
    scores: dict[str, object] = dict(trained.metrics.overall)
    loss = scores.get(f"primary_{about.primary_score}")
    is_number = isinstance(loss, int | float)
    # Of the gate's rows there is the newest cutoff alone
    forecasts = trained.gate.drop("y", strict=False)
    if data.dataset.kind.get_level(about) is not None:
        forecasts, scores["coverage_frac"] = _add_intervals(document, data, trained)
    return FittedModel(
        trained.facts.model,
        scores,
        float(loss) if is_number else None,  # type: ignore[arg-type]
        forecasts,
        seconds,
    )


def _add_intervals(
    document: ParamsDocument, data: TrainingData, trained: TrainResult
) -> tuple[pl.DataFrame, float | None]:
    """The newest forecasts with conformal quantiles, and the coverage of the walk's.

    As the ensemble issues them, from the residuals of the walk that were known at each cutoff; the
    point stays the model's. The outer quantiles reach to it.
    """
    about, name = document.about, trained.facts.model
    params = document.parse_stage("ensemble", EnsembleParams)
    params = params.model_copy(update={"intervals": "adaptive", "interval_groups": "auto"})
    newest = trained.gate["cutoff"].max()
    walk = trained.forecasts.filter(pl.col("cutoff") < newest)  # the newest is the last fit's
    panel = build_panel(data.features, data.dataset, data.vintages)
    aligned = align_forecasts({name: walk}, {name: trained.gate}, panel, trained.facts.stride_steps)
    burn_in = min(params.burn_in_cutoffs, aligned.n_walk // 4)
    issued = build_issuer(aligned, params, burn_in).predict_quantiles(aligned.z_hat[0])
    position = np.arange(len(aligned.origins))
    frame = build_issued_frame(name, issued, aligned, position >= burn_in)
    names = [format_quantile_column(q) for q in about.quantiles]
    known = frame.filter(pl.col("y").is_not_null() & pl.col(names[0]).is_not_null())
    coverage = known.select(pl.col("y").is_between(names[0], names[-1]).mean()).item()
    key, point = ["series_id", "cutoff", "step"], pl.col("y_hat")
    forecasts = trained.gate.drop("y", strict=False).join(
        frame.select(*key, *names), on=key, how="left", maintain_order="left"
    )
    is_held = pl.col(names[0]).is_not_null()
    low = pl.when(is_held).then(pl.min_horizontal(names[0], point)).alias(names[0])
    high = pl.when(is_held).then(pl.max_horizontal(names[-1], point)).alias(names[-1])
    return forecasts.with_columns(low).with_columns(high), coverage
