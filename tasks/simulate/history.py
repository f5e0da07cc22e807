"""The history that is replayed: its rows, its cutoffs, and the parameters of the stages."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, build_calendar
from tasks.core.errors import FoldError, ParamsError
from tasks.core.extensions import list_extension_folders
from tasks.edges.params import ParamsDocument
from tasks.features import FeatureParams
from tasks.features.functions import resolve_functions
from tasks.train.params import TrainParams

# Of `train.n_cutoffs`, what the first training's walk has at least: with less the ensemble would
# choose a combiner by a few weeks of outcomes
MIN_WALK_FRAC = 0.25


@dataclass(frozen=True)
class ReplayedHistory:
    """The rows of a dataset, seen from any time in them.

    rows: SERIES with all vintages.
    root: of the checkout.
    """

    document: ParamsDocument
    rows: pl.DataFrame
    root: Path

    @property
    def about(self) -> About:
        """What the dataset is."""
        return self.document.about

    @cached_property
    def calendar(self) -> Calendar:
        """The grid of all rows."""
        return build_calendar(self.about, reach=(self._times[0], self._times[-1]))

    @cached_property
    def cutoffs(self) -> list[datetime]:
        """One for each step of the grid, ascending: when its value is known at the earliest."""
        grid = self.calendar.grid(self._times[0], self._times[-1])
        return (
            pl.DataFrame({"event_time": grid}).select(self.calendar.nominal_known_at()).to_series().to_list()
        )

    @cached_property
    def features(self) -> FeatureParams:
        """The declared features."""
        declared = self.document.parse_stage("features", FeatureParams)
        return resolve_functions(declared, *list_extension_folders(self.root))

    def select_known(self, time: datetime) -> pl.DataFrame:
        """The rows known by *time*: all that a decision at that time may use."""
        return self.rows.filter(pl.col("known_at") <= time)

    def get_train_params(self, position: int) -> TrainParams:
        """Those of a training at the cutoff *position*.

        While the history is short the walk has as many cutoffs as fit.
        Raises FoldError when none fits.
        """
        params = self.document.parse_stage("train", TrainParams)
        n_fitting = (
            position - self.document.gate_steps + 1 - self._count_needed(params)
        ) // params.stride_steps + 1
        if n_fitting < 1:
            raise FoldError(
                f"At {self.cutoffs[position]:%F} the history is too short to train: {position + 1} steps, of"
                f" which {self.document.gate_steps} are the gate's. Start later, or lower"
                " `train.min_train_steps`."
            )
        return params.model_copy(update={"n_cutoffs": min(params.n_cutoffs, n_fitting)})

    def find_start(self, since: datetime | None) -> int:
        """Position of the first cutoff of a simulation.

        since: a time that is asked for; None for the earliest.
        Raises ParamsError when that is too early, or nothing is left to simulate.
        """
        params = self.document.parse_stage("train", TrainParams)
        n_least = max(1, round(MIN_WALK_FRAC * params.n_cutoffs))
        walk_steps = (n_least - 1) * params.stride_steps
        earliest = self.document.gate_steps + self._count_needed(params) - 1 + walk_steps
        n_steps, horizon = len(self.cutoffs), self.about.horizon_steps
        if earliest + horizon >= n_steps:
            raise ParamsError(
                f"The history has {n_steps} steps, and the first training of a simulation needs"
                f" {earliest + 1}, then {horizon} more for an outcome. Bring more rows, or lower"
                " `train.n_cutoffs`, `train.min_train_steps` or `promote.gate_steps`."
            )
        if since is None:
            return earliest
        start = next((i for i, cutoff in enumerate(self.cutoffs) if cutoff >= since), n_steps)
        if start < earliest or start + horizon >= n_steps:
            raise ParamsError(
                f"A simulation cannot start at {since:%F}: training needs the steps before"
                f" {self.cutoffs[earliest]:%F}, and the last outcome is of {self.cutoffs[-1]:%F}. Name a time"
                " in between with --from."
            )
        return start

    def _count_needed(self, params: TrainParams) -> int:
        return params.min_train_steps + self.about.horizon_steps + params.embargo_steps

    @cached_property
    def _times(self) -> pl.Series:
        return self.rows["event_time"].unique().sort()
