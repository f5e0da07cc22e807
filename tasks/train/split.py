"""The split along time: what a walk learns from, its cutoffs, and where the gate's rows begin."""

from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.dataset import Dataset
from tasks.core.folds import Fold, WalkForward, build_folds
from tasks.core.panel import Panel, build_panel
from tasks.train.overlap import check_overlap
from tasks.train.params import ModelTraining, TrainParams
from tasks.train.plan import FitPlan, plan_fits


class TrainingData(NamedTuple):
    """What a model is trained on.

    features: FEATURES of *dataset*.
    gate_steps: newest steps that no fit may see.
    vintages: earlier ones of the values (VINTAGES).
    """

    features: pl.DataFrame
    dataset: Dataset
    gate_steps: int
    vintages: pl.DataFrame | None = None


class HistorySplit(NamedTuple):
    """The history along time.

    walk: how it is walked, with the model's own distance between refits.
    plan: the fits and what they serve.
    """

    panel: Panel
    walk: WalkForward
    plan: FitPlan

    @property
    def gate_origins(self) -> np.ndarray:
        """Origins of the gate's rows, that of seen_until first."""
        return np.arange(self.plan.last_origin, len(self.panel.event_time))


def split_history(data: TrainingData, params: TrainParams, training: ModelTraining) -> HistorySplit:
    """Folds before the gate's rows, and the fits that they and the release need.

    Raises FoldError when the history is too short, LeakError when a fold would learn from a pair
    that its cutoff did not know.
    """
    walk = (
        params
        if training.refit_every_cutoffs is None
        else params.model_copy(update={"refit_every_cutoffs": training.refit_every_cutoffs})
    )
    panel = build_panel(data.features, data.dataset, data.vintages)
    n_steps = len(panel.event_time)
    last_origin = n_steps - 1 - data.gate_steps
    folds = build_folds(n_steps, last_origin, data.dataset.about.horizon_steps, walk)
    shipped = Fold(last_origin, np.array([], dtype=np.int64))
    check_overlap(data.features, panel, [*folds, shipped], walk, data.vintages)
    return HistorySplit(panel, walk, plan_fits(panel, folds, walk, last_origin, training))
