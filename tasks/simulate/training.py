"""A training at a simulated time: the stages from features to package, on the rows known by then.

Left out are explain, INT8 and the Bento, which change no forecast by more than
`quantize.max_error_frac`.
"""

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.dataset import Dataset
from tasks.core.leaks import check_leaks
from tasks.core.panel import build_panel
from tasks.core.reports.retrain import Recipe
from tasks.edges.artifacts import write_json
from tasks.ensemble.align import align_forecasts
from tasks.ensemble.params import EnsembleParams
from tasks.ensemble.stage import AssembledEnsemble, build_ensemble
from tasks.ensemble.unsealed_release import ReleaseOrigin, write_unsealed_release
from tasks.features.leaks import find_leaks
from tasks.features.stage import FeatureSet, build_feature_set
from tasks.package.assemble import build_release
from tasks.package.params import PackageParams
from tasks.simulate.history import ReplayedHistory
from tasks.train.recipe import fit_by_recipe
from tasks.train.split import TrainingData
from tasks.train.stage import TrainResult

ROLES = ("challenger", "baseline")


class SimulatedTraining(NamedTuple):
    """A training at the cutoff *position*, by *recipe* (see `RetrainDecision`)."""

    position: int
    recipe: Recipe = "full"

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.position:06d}-{self.recipe}"


class WorkFolders(NamedTuple):
    """Folders of one training.

    features, fits: as data/features and models/fits.
    unsealed: as models/challenger.
    """

    features: Path
    fits: Path
    unsealed: Path


def check_history_leaks(history: ReplayedHistory) -> None:
    """Raise LeakError when a feature knows the future, on the whole history.

    As the chain's own gate does: on less of it, what leads the target for a while may look like a
    leak. The verdict has no part in any forecast.
    """
    rows = history.select_known(history.cutoffs[-1])
    features = build_feature_set(rows, history.about, history.features)
    verdict = find_leaks(rows, history.about, history.features, features.table, features.calendar)
    check_leaks(verdict, "simulate")


def build_releases(history: ReplayedHistory, training: SimulatedTraining, folder: Path) -> None:
    """Train; the sealed challenger and the baseline go into *folder*.

    Nothing that was known later has a part in their bytes.
    """
    position = training.position
    rows = history.select_known(history.cutoffs[position])
    features = build_feature_set(rows, history.about, history.features)
    work = WorkFolders(folder / "features", folder / "fits", folder / "unsealed")
    _write_features(history, features, work.features)
    assembled, stride_steps = _build_ensemble(history, training, features, work.fits)
    origin = ReleaseOrigin(history.document.dataset, compute_rows_hash(rows), stride_steps)
    rows_steps = history.document.parse_stage("package", PackageParams).rows_steps
    for role, name in zip(ROLES, (assembled.shipped, assembled.baseline), strict=True):
        (work.unsealed / role).mkdir(parents=True)
        (folder / role).mkdir()
        write_unsealed_release(
            work.unsealed / role, assembled.candidates[name], assembled, origin, work.features, work.fits
        )
        build_release(work.unsealed / role, folder / "quantized", rows, rows_steps, folder / role)


def compute_rows_hash(rows: pl.DataFrame) -> str:
    """sha256 of *rows* as parquet."""
    content = io.BytesIO()
    rows.write_parquet(content)
    return hashlib.sha256(content.getvalue()).hexdigest()


def _write_features(history: ReplayedHistory, features: FeatureSet, folder: Path) -> None:
    """The files of data/features that a release takes."""
    folder.mkdir()
    write_json(folder / "schema.json", features.schema.model_dump())
    write_json(folder / "features.json", history.features.model_dump(mode="json"))
    write_json(folder / "leaks.json", {})  # checked once, at the start


def _build_ensemble(
    history: ReplayedHistory, training: SimulatedTraining, features: FeatureSet, fits: Path
) -> tuple[AssembledEnsemble, int]:
    document, params = history.document, history.get_train_params(training.position)
    # The calendar of the whole history: an exchange publishes its sessions ahead, and a release
    # that is never replaced must date its forecasts years later
    dataset = Dataset(history.about, history.calendar, features.schema)
    data = TrainingData(features.table, dataset, document.gate_steps, features.vintages)
    trained: dict[str, TrainResult] = {}
    for model in document.list_models():
        own_params = document.get_model_params(model)
        trained[model] = fit_by_recipe(training.recipe, model, data, params, own_params, log=lambda _: None)
        (fits / model).mkdir(parents=True)
        trained[model].fit.to_onnx(fits / model / "model.onnx")
    aligned = align_forecasts(
        {model: result.forecasts for model, result in trained.items()},
        {model: result.gate for model, result in trained.items()},
        build_panel(features.table, dataset),
        params.stride_steps,
        document.list_quantile_models(),
    )
    return build_ensemble(aligned, document.parse_stage("ensemble", EnsembleParams)), params.stride_steps
