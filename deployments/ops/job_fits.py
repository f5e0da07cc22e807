"""Jobs that fit: models of the dataset, walked forward, fitted on all rows, and their forecasts."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from tasks.core.dataset import Dataset
from tasks.core.extensions import list_extension_folders
from tasks.core.leaks import check_leaks
from tasks.edges.params import ParamsDocument
from tasks.edges.settings import ROOT
from tasks.features.functions import resolve_functions
from tasks.features.leaks import find_leaks
from tasks.features.params import FeatureParams
from tasks.features.stage import build_feature_set
from tasks.train.params import TrainParams
from tasks.train.split import TrainingData
from tasks.train.stage import TrainResult, fit_model


class FittedModel(NamedTuple):
    """A model after its walk.

    scores: means over the walk's cutoffs, out of sample. loss: of these the primary one.
    forecasts: from the newest rows, without y.
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
        fitted.append(_describe_fit(document, model, trained, time.monotonic() - began))
    report(len(models), len(models), "")
    return sorted(fitted, key=lambda fit: (fit.loss is None, fit.loss))


def _build_data(document: ParamsDocument, rows: pl.DataFrame) -> TrainingData:
    about = document.about
    params = resolve_functions(document.parse_stage("features", FeatureParams), *list_extension_folders(ROOT))
    features = build_feature_set(rows, about, params)
    check_leaks(find_leaks(rows, about, features.params, features.table, features.calendar), "the job")
    dataset = Dataset(about, features.calendar, features.schema)
    return TrainingData(features.table, dataset, 0, features.vintages)


def _describe_fit(document: ParamsDocument, model: str, trained: TrainResult, seconds: float) -> FittedModel:
    scores = trained.metrics.overall
    loss = scores.get(f"primary_{document.about.primary_score}")
    is_number = isinstance(loss, int | float)
    # Of the gate's rows there is the newest cutoff alone
    forecasts = trained.gate.drop("y", strict=False)
    return FittedModel(model, scores, float(loss) if is_number else None, forecasts, seconds)  # type: ignore[arg-type]
